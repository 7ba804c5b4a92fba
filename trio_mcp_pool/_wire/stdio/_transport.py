"""The public way to put the channel under an `mcp.Client`: a transport whose streams write to it and read from it.

Used only where the SDK has lost the seam (`_seam.py`): it is slower, because the SDK's own dispatcher then stands on top.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, final

import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter

from .._link import Link
from .._streams import ReadStream, Stream
from ._channel import Channel, Out
from ._lines import Line, Overlong
from ._pipe import BytePipe

MAX_WAITING: Final = 256
"""How many messages may wait for the SDK before reading stops."""


@final
class ChannelTransport:
    """A `Transport` over a channel of its own on the pipe."""

    def __init__(self, pipe: BytePipe, link: Link, *, max_message: int, settle: Callable[[], Awaitable[None]]) -> None:
        self.link = link
        self.channel: Final = Channel(pipe, link, self, max_message=max_message)
        self._settle = settle
        self._send, self._receive = trio.open_memory_channel[SessionMessage | Exception](math.inf)
        self._room: trio.Event | None = None

    async def __aenter__(self) -> tuple[_Reading, _Writing]:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._run)
        return _Reading(self._receive, self._taken), _Writing(self.link, self.channel)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            await self.channel.run(nursery)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._nursery.cancel_scope.cancel(reason="the session is left")
        return await self._manager.__aexit__(kind, exc, traceback)

    # The receiving end of the channel.

    async def on_long_line(self, line: Line) -> None:
        self.on_line(line)

    def on_line(self, line: Line) -> None:
        try:
            message = jsonrpc_message_adapter.validate_json(bytes(line).decode("utf-8", "replace"), by_name=False)
        except ValueError as exc:
            self._send.send_nowait(exc)
        else:
            self._send.send_nowait(SessionMessage(message))

    def on_overlong(self, line: Overlong) -> None:
        self._send.send_nowait(ValueError("a line is too long"))

    @property
    def full(self) -> bool:
        return self._receive.statistics().current_buffer_used >= MAX_WAITING

    async def wait_room(self) -> None:
        while self.full:
            self._room = trio.Event()
            await self._room.wait()

    def _taken(self) -> None:
        if self._room is not None and not self.full:
            self._room.set()
            self._room = None

    def on_end(self) -> None:
        pass

    async def settle(self) -> None:
        await self._settle()

    def on_death(self) -> None:
        self._send.close()


@final
class _Reading(ReadStream):
    def __init__(
        self, receive: trio.MemoryReceiveChannel[SessionMessage | Exception], taken: Callable[[], None]
    ) -> None:
        self._receive = receive
        self._taken = taken

    async def receive(self) -> SessionMessage | Exception:
        item = await self._receive.receive()
        self._taken()
        return item


@final
class _Writing(Stream):
    def __init__(self, link: Link, channel: Channel) -> None:
        self._link = link
        self._channel = channel

    async def send(self, item: SessionMessage, /) -> None:
        call = self._link.current_call() if isinstance(item.message, JSONRPCRequest) else None
        data = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        channel = self._channel
        task = trio.lowlevel.current_task()
        out: Out | None = None

        def done(all_of_it: bool) -> None:
            trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            if out is not None and not channel.withdraw(out):
                out.done = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.checkpoint_if_cancelled()
        out = channel.put(data, call, done)
        if out is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await trio.lowlevel.wait_task_rescheduled(abort)
            if channel.closed:
                raise trio.ClosedResourceError
