"""Secrets that do not stand in the file: an `envFile`, and commands that print them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import trio

from ._document import read_text
from ._problems import ConfigError

COMMAND_SECONDS = 10.0
"""How long a command may take to print, in seconds: what Claude Code gives it."""
MAX_OUTPUT = 1024 * 1024
"""How much it may print, in bytes."""

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*?)\s*")


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file of `NAME=value` lines, with `#` comments and quotes. Values are taken literally.

    Raises `OSError`, and `ConfigError` with the lines that cannot be read; their text is not repeated.
    """
    found: dict[str, str] = {}
    wrong: list[int] = []
    for number, line in enumerate(read_text(path, MAX_OUTPUT).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            wrong.append(number)
            continue
        value = match["value"]
        if value[:1] in ("'", '"') and (end := value.find(value[0], 1)) > 0:
            quote, value = value[0], value[1:end]
            value = value.replace("\\n", "\n") if quote == '"' else value
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].rstrip()
        found[match["name"]] = value
    if wrong:
        raise ConfigError(f"{path}: line {', '.join(map(str, wrong[:5]))} is no NAME=value")
    return found


@final
@dataclass(frozen=True)
class CommandMapping:
    """A function for `headers=` or `env=`: runs a command for every dial and takes what it prints, an object in JSON.

    Two of the same command are equal, so that reading a file again does not replace the server's sessions.
    """

    server: str
    command: str = field(repr=False)
    cwd: str
    fixed: tuple[tuple[str, str], ...] = field(repr=False)
    """What is given beside; the command's own win."""
    environ: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Variables of the command beside the program's own."""

    async def __call__(self) -> Mapping[str, str]:
        """Run the command. Raises `RuntimeError` that names the server and repeats nothing of what was printed."""
        with trio.move_on_after(COMMAND_SECONDS) as scope:
            status, output = await self._run()
        if scope.cancelled_caught:
            raise self._failed(f"did not end within {COMMAND_SECONDS:g} s")
        if status != 0:
            raise self._failed(f"ended with status {status}")
        try:
            printed = json.loads(output)
        except (ValueError, RecursionError):
            raise self._failed("printed no JSON") from None
        if not isinstance(printed, dict) or not all(isinstance(value, str) for value in printed.values()):
            raise self._failed("must print a JSON object of strings")
        return {**dict(self.fixed), **printed}

    def _failed(self, what: str) -> RuntimeError:
        return RuntimeError(f"the helper command of server {self.server!r} {what}; run it by hand to see why")

    async def _run(self) -> tuple[int, bytes]:
        process = await trio.lowlevel.open_process(
            self.command,
            shell=True,
            cwd=self.cwd,
            env={**os.environ, **dict(self.environ)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=os.name == "posix",
        )
        assert process.stdout is not None
        output = bytearray()
        try:
            async with process.stdout:
                async for piece in process.stdout:
                    output += piece
                    if len(output) > MAX_OUTPUT:
                        raise self._failed(f"printed more than {MAX_OUTPUT} bytes")
                status = await process.wait()
        finally:
            if process.returncode is None:
                _kill(process)
                with trio.CancelScope(shield=True), trio.move_on_after(2):
                    await process.wait()
        return status, bytes(output)


def _kill(process: trio.Process) -> None:
    """End the shell and what it started."""
    if os.name == "posix":
        import signal

        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
