"""A byte pipe in memory whose other end is in the test's hand, and a dispatcher on it."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from mcp.shared.dispatcher import DispatchContext, OnNotify, OnNotifyIntercept, OnRequest
from mcp.shared.transport_context import TransportContext

from trio_mcp_pool._wire._link import Call, Link, current_call
from trio_mcp_pool._wire.stdio._dispatcher import Dispatcher
from trio_mcp_pool._wire.stdio._pipe import FdPipe


class MemoryPipe:
    """Accepts `room` bytes and no more until the test makes room; delivers the chunks that the test gives."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.sent = bytearray()
        self.writes = 0
        self.broken = False
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._stops = 0
        self._bell = trio.Event()

    def _ring(self) -> None:
        self._bell.set()
        self._bell = trio.Event()

    # The dispatcher's side.

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        self.writes += 1
        accepted = min(self.room, len(data))
        self.sent += data[:accepted]
        self.room -= accepted
        return accepted

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.room and not self.broken:
            await self._bell.wait()

    def receive_nowait(self) -> bytes | None:
        if self._chunks:
            return self._chunks.popleft()
        return b"" if self._ended else None

    async def wait_readable(self) -> None:
        stops = self._stops
        await trio.lowlevel.checkpoint()
        while not self._chunks and not self._ended and self._stops == stops:
            await self._bell.wait()

    def stop_waiting(self) -> None:
        self._stops += 1
        self._ring()

    # The test's side.

    def make_room(self, bytes_: int = 1 << 30) -> None:
        self.room += bytes_
        self._ring()

    def break_(self) -> None:
        self.broken = True
        self._ring()

    def give(self, *chunks: bytes) -> None:
        self._chunks.extend(chunk for chunk in chunks if chunk)
        self._ring()

    def end(self) -> None:
        self._ended = True
        self._ring()

    def messages(self) -> list[dict[str, Any]]:
        """Every whole message sent so far."""
        return [json.loads(line) for line in bytes(self.sent).split(b"\n")[:-1]]

    def answer(self, request_id: Any, **result: Any) -> None:
        self.give(line({"jsonrpc": "2.0", "id": request_id, "result": result}))


class SystemPipe(MemoryPipe):
    """The same over pipes of the operating system, as a child has them."""

    def __init__(self) -> None:
        super().__init__()
        self._read_by_server, stdin = os.pipe()
        stdout, self._written_by_server = os.pipe()
        self._fds = FdPipe(stdin, stdout)

    def send_nowait(self, data: bytes | memoryview) -> int:
        super().send_nowait(data)
        return self._fds.send_nowait(data)

    def receive_nowait(self) -> bytes | None:
        return self._fds.receive_nowait()

    async def wait_readable(self) -> None:
        await self._fds.wait_readable()

    def stop_waiting(self) -> None:
        self._fds.stop_waiting()

    def give(self, *chunks: bytes) -> None:
        for chunk in chunks:
            os.write(self._written_by_server, chunk)

    def end(self) -> None:
        os.close(self._written_by_server)
        self._written_by_server = -1

    def close(self) -> None:
        self._fds.close()
        os.close(self._read_by_server)
        if self._written_by_server >= 0:
            os.close(self._written_by_server)


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def refuse(
    context: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    raise NotImplementedError(method)


async def ignore(context: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None) -> None:
    await trio.lowlevel.checkpoint()


class Rig:
    """A running dispatcher with everything around it in reach."""

    def __init__(self, pipe: MemoryPipe, link: Link, dispatcher: Dispatcher, nursery: trio.Nursery) -> None:
        self.pipe = pipe
        self.link = link
        self.dispatcher = dispatcher
        self.nursery = nursery

    def start_call(self, method: str = "m", opts: Any = None, params: Any = None) -> Asked:
        """Send a request in a task of its own."""
        asked = Asked(self.link)
        self.nursery.start_soon(asked.run, self.dispatcher, method, params, opts)
        return asked

    @property
    def pending(self) -> int:
        return int(repr(self.dispatcher).partition(": ")[2].split()[0])


class Asked:
    """One request on its way: what became of it and when."""

    def __init__(self, link: Link) -> None:
        self.scope = trio.CancelScope()
        self.call = Call(None, link)
        self.result: Any = None
        self.error: BaseException | None = None
        self.done_at: float | None = None

    async def run(self, dispatcher: Dispatcher, method: str, params: Any, opts: Any) -> None:
        current_call.set(self.call)
        with self.scope:
            try:
                self.result = await dispatcher.send_raw_request(method, params, opts)
            except Exception as exc:
                self.error = exc
        self.done_at = trio.current_time()


@asynccontextmanager
async def rig(
    room: int = 1 << 30,
    *,
    max_message: int = 1 << 20,
    max_values: int = 100_000,
    on_request: OnRequest = refuse,
    on_notify: OnNotify = ignore,
    intercept: OnNotifyIntercept | None = None,
    on_lost: Callable[[], None] = lambda: None,
    write_timeout: float = 10,
    observer: Any = None,
    settle: Any = trio.lowlevel.checkpoint,
    pipe: MemoryPipe | None = None,
) -> AsyncIterator[Rig]:
    if pipe is None:
        pipe = MemoryPipe(room)
    link = Link("s", on_lost=on_lost, write_timeout=write_timeout)
    dispatcher = Dispatcher(
        pipe, link, max_message=max_message, max_values=max_values, on_stream_exception=observer, settle=settle
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run, on_request, on_notify, intercept)
        yield Rig(pipe, link, dispatcher, nursery)
        nursery.cancel_scope.cancel()
    assert not nursery.child_tasks
    assert "0 out, 0 in" in repr(dispatcher)
