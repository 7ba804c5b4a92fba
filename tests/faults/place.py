"""Where a cell of the matrix plays: a folder, a hostile server behind one of the wires, and a look at what was left."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import trio

from tests.processes import children, descriptors
from trio_mcp_pool import HttpServer, PoolPolicy, Server, StdioServer

Wire: TypeAlias = Literal["stdio", "stdio-sdk", "http-legacy", "http-modern", "sse"]
STDIO: tuple[Wire, ...] = ("stdio", "stdio-sdk")
STREAMABLE: tuple[Wire, ...] = ("http-legacy", "http-modern")
HTTP: tuple[Wire, ...] = (*STREAMABLE, "sse")
WIRES: tuple[Wire, ...] = (*STDIO, *HTTP)

ROOT = Path(__file__).parents[2]
MAX_MESSAGE = 16 * 1024 * 1024


class Place:
    """One server in one folder."""

    def __init__(self, folder: Path, wire: Wire, *, command: str | None = None) -> None:
        self.folder = folder
        self.wire = wire
        self.command = command
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    # What it does.

    def mode(self, **mode: Any) -> None:
        """How the server misbehaves from now on."""
        fresh = self.folder / "mode.new"
        fresh.write_text(json.dumps(mode))
        fresh.rename(self.folder / "mode")

    def go(self) -> None:
        """Let the calls that wait have their answer."""
        (self.folder / "go").touch()

    def start(self) -> None:
        """Start the HTTP server, or start it again at the same address."""
        if self.wire in STDIO:
            return
        era = "sse" if self.wire == "sse" else self.wire.removeprefix("http-")
        command = [sys.executable, "-S", "-m", "tests.faults.hostile_http", str(self.folder), era, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        """Kill the HTTP server."""
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def server(self, policy: PoolPolicy | None = None, *, trusted: bool = False) -> Server:
        """The description to give to the pool."""
        if self.wire in STDIO:
            args = ("-S", "-m", "tests.faults.hostile_stdio", str(self.folder))
            wire: Literal["trio", "sdk"] = "trio" if self.wire == "stdio" else "sdk"
            command = self.command or sys.executable
            return StdioServer(
                command, args, cwd=ROOT, wire=wire, max_message=MAX_MESSAGE, trusted=trusted, policy=policy
            )
        if self.wire == "sse":
            return HttpServer(
                f"http://127.0.0.1:{self.port}/sse",
                transport="sse",
                max_message=MAX_MESSAGE,
                trusted=trusted,
                policy=policy,
            )
        return HttpServer(f"http://127.0.0.1:{self.port}/mcp", max_message=MAX_MESSAGE, trusted=trusted, policy=policy)

    # What is known of it.

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def executions(self) -> Counter[str]:
        """How often each call was executed, by the servers' own count."""
        return Counter(line.split()[0] for line in self._lines("log"))

    @property
    def starts(self) -> list[int]:
        """The process ids of all servers that were started."""
        return [int(line) for line in self._lines("starts")]

    def grandchildren(self) -> list[int]:
        return [int(line) for line in self._lines("grandchildren")]

    def signal(self, number: signal.Signals) -> None:
        """Send the newest server process a signal."""
        os.kill(self.process.pid if self.process is not None else self.starts[-1], number)


class Leftovers:
    """What this process had at the start, and what it has beyond that at the end."""

    def __init__(self) -> None:
        gc.collect()
        self._before = descriptors(), children()

    def find(self, grace: float = 2.0) -> list[str]:
        """Descriptors and children that were not there before. The kernel has a moment to finish what was ended."""
        gc.collect()
        give_up = time.monotonic() + grace
        while True:
            fds, processes = descriptors() - self._before[0], children() - self._before[1]
            left = sorted(fds) + [f"child {process}" for process in sorted(processes)]
            if not left or time.monotonic() > give_up:
                return left
            time.sleep(0.01)


async def until(condition: Any, seconds: float, what: str) -> None:
    """Wait for something that no event tells: a line in a file, a number in the statistics."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.005)
        return
    raise TimeoutError(f"waited {seconds:g} s in vain for: {what}")
