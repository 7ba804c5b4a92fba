"""How the tests drive the command line: through pipes and through a real pseudo-terminal, as a user would."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.warm import Warm

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
ECHO = [sys.executable, "-S", str(ROOT / "tests" / "servers" / "echo_stdio.py")]
NOTEBOOK = [sys.executable, str(ROOT / "trio_mcp_pool" / "cli" / "_servers" / "notebook.py")]
EVERYTHING = [sys.executable, str(ROOT / "tests" / "cli" / "everything.py")]
PROGRAM = [sys.executable, "-m", "trio_mcp_pool.cli"]
PLAIN = [
    sys.executable,
    "-c",
    "import sys; sys.modules.update(rich=None, prompt_toolkit=None, keyring=None)\n"
    "from trio_mcp_pool.cli import main; sys.exit(main())",
]
"""The program as it is without the extra."""


@dataclass(frozen=True)
class Done:
    """What a run left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def failure(self) -> dict[str, Any]:
        """The line of JSON on standard error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("{")]
        found = json.loads(line)["error"]
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Cli:
    """The program in a folder of its own, with a home of its own."""

    folder: Path
    program: tuple[str, ...] = tuple(PROGRAM)
    warm: Warm | None = None
    """What runs through pipes come from, if not from a program that is started anew."""

    @property
    def env(self) -> dict[str, str]:
        """The environment: nothing of the real home."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}

    def configure(self, servers: dict[str, Any], name: str = "mcp.json") -> None:
        """Write the folder's configuration."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"mcpServers": servers}))

    def __call__(self, *words: str, stdin: str = "", **env: str) -> Done:
        """Run without a terminal."""
        env = {**self.env, **env}
        if self.warm is not None:
            done = Done(*self.warm.run(list(words), self.folder, env, stdin, PATIENCE))
        else:
            cold = subprocess.run(
                [*self.program, *words],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
                cwd=self.folder,
                env=env,
            )
            done = Done(cold.returncode, cold.stdout, cold.stderr)
        assert "Traceback" not in done.err, done.err
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start through pipes."""
        return subprocess.Popen(
            [*self.program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.env,
        )

    @contextmanager
    def terminal(self, *words: str, **env: str) -> Iterator[Terminal]:
        """Start in a pseudo-terminal; whatever still runs at the end is killed."""
        pid, descriptor = pty.fork()
        if pid == 0:  # pragma: no cover (another process)
            os.chdir(self.folder)
            os.execve(self.program[0], [*self.program, *words], {**self.env, **env})
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        terminal = Terminal(pid, descriptor)
        try:
            yield terminal
        finally:
            terminal.close()


class Terminal:
    """The screen and the keyboard of a program."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self.text = ""
        self.at = 0
        """How much of the text was looked for already."""
        self.code: int | None = None

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.descriptor, text.encode())

    def read_until(self, wanted: str) -> str:
        """Read until this text comes, after what was looked for before; gives what came."""
        began, at = time.monotonic(), self.at
        while (found := self.text.find(wanted, at)) < 0:
            assert time.monotonic() - began < PATIENCE, f"no {wanted!r} in {self.text[at:]!r}"
            if not self._read_some():
                raise AssertionError(f"ended without {wanted!r}: {self.text[at:]!r}")
        self.at = found + len(wanted)
        return self.text[at : self.at]

    def _read_some(self) -> bool:
        if not select.select([self.descriptor], [], [], 1)[0]:
            return True
        try:
            piece = os.read(self.descriptor, 65536)
        except OSError:  # the other side has been closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)

    def wait(self) -> int:
        """Read to the end; gives the exit status."""
        began = time.monotonic()
        while self._read_some():
            assert time.monotonic() - began < PATIENCE, self.text
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        assert "Traceback" not in self.text, self.text
        return self.code

    def close(self) -> None:
        """End the program if it still runs."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)


def processes_with(text: str) -> list[int]:
    """The processes whose command line has this text in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def assert_none_left(text: str) -> None:
    """No process with this text in its command line is left, or it ends soon."""
    began = time.monotonic()
    while left := processes_with(text):
        assert time.monotonic() - began < PATIENCE, f"left: {left}"
        time.sleep(0.02)
