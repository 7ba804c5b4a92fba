"""The program, loaded once and forked for each run: loading it takes longer than most of what the tests do with it.

A fork is a process of its own with the words, the environment, the folder and the three streams of its run. What depends on the
start itself, on signals or on a terminal is tested with a program that is started anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect({address!r})
    wanted = {{"words": sys.argv[1:], "folder": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(channel, [json.dumps(wanted).encode()], [0, 1, 2])
    sys.exit(int(channel.recv(16)))
"""


class Warm:
    """The loaded program."""

    def __init__(self) -> None:
        # Not in a folder of pytest's, whose path is too long for the address of a socket.
        self._folder = tempfile.mkdtemp(prefix="warm-")
        self._address = f"{self._folder}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cli.warm", str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                pass_fds=[listener.fileno()],
            )

    def run(
        self, words: list[str], folder: Path, env: dict[str, str], stdin: str, patience: float
    ) -> tuple[int, str, str]:
        """Run once; gives the exit status and what was written to stdout and stderr."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            wanted = json.dumps({"words": words, "folder": str(folder), "env": env}).encode()
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(patience)
                channel.connect(self._address)
                socket.send_fds(channel, [wanted], [file.fileno() for file in (given, out, err)])
                code = int(channel.recv(16))
            out.seek(0)
            err.seek(0)
            return code, out.read().decode(), err.read().decode()

    def install(self, folder: Path) -> None:
        """Put a `trio-mcp-pool` into a folder that has this program run, in its own place and with its own streams."""
        program = folder / "trio-mcp-pool"
        program.write_text(CLIENT.format(python=sys.executable, address=self._address))
        program.chmod(0o755)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)


def load() -> None:
    """Import what a run imports."""
    import trio_mcp_pool
    from trio_mcp_pool import cli

    dir(trio_mcp_pool)
    for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
        if not module.ispkg and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def serve(listener: socket.socket) -> None:
    """Fork for each connection, and answer with the exit status. In the fork, come back."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    listener.settimeout(5)
    while True:
        try:
            channel, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != parent:  # the tests have been killed
                os._exit(0)
            continue
        if os.fork() == 0:
            break
        channel.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, _, _ = socket.recv_fds(channel, 1 << 20, 3)
    run = os.fork()
    if run != 0:
        for stream in streams:
            os.close(stream)
        status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
        channel.send(str(status).encode())
        os._exit(0)
    channel.close()
    wanted: dict[str, Any] = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = ["trio-mcp-pool", *wanted["words"]]


if __name__ == "__main__":
    load()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    from trio_mcp_pool.cli import main

    code: Any = 1
    try:
        code = main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    # Python would take apart everything that was loaded, which takes longer than most runs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
