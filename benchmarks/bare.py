"""The floors: what the same pipe gives when nothing is done that need not be.

`Multiplexer` is the least that lets several Trio tasks share one stdio server: a request has a number, one task reads,
each answer wakes whoever asked. It checks nothing, knows no errors but the server's, and leaves nobody's pipe in order
when it is cancelled: it is a yardstick, not a client. `BlockingServer` reads one line with a blocking `readline`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from pydantic_core import from_json, to_json

HANDSHAKE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bare", "version": "1"},
}


class Multiplexer:
    """Requests of many tasks over one pipe."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._writing = trio.Lock()
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._next = 0

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and return its result."""
        self._next += 1
        number = self._next
        arrived = self._waiting[number] = trio.Event()
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        await arrived.wait()
        return self._answers.pop(number)["result"]

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        async with self._writing:
            await self._stdin.send_all(to_json(message) + b"\n")

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool."""
        return await self.request("tools/call", {"name": name, "arguments": arguments})

    async def read(self) -> None:
        """Read for ever."""
        part = bytearray()
        async for chunk in self._stdout:
            part += chunk
            if not chunk.endswith(b"\n") and b"\n" not in chunk:
                continue
            *lines, rest = part.split(b"\n")
            part = bytearray(rest)
            for line in lines:
                message = from_json(line)
                self._answers[message["id"]] = message
                self._waiting.pop(message["id"]).set()


@asynccontextmanager
async def open_multiplexer(command: Sequence[str]) -> AsyncIterator[Multiplexer]:
    """A multiplexer on a server of its own, its handshake done."""
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    multiplexer = Multiplexer(process)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(multiplexer.read)
            await multiplexer.request("initialize", HANDSHAKE)
            await multiplexer.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield multiplexer
            nursery.cancel_scope.cancel(reason="the benchmark is over")
    finally:
        with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
            await process.stdin.aclose()
            await process.stdout.aclose()
            await process.wait()


class BlockingServer:
    """One request at a time, blocking: `readline` and `json.loads`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments},
        }
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["result"]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=5)
