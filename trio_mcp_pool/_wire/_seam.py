"""The one place that touches a private attribute of the MCP SDK.

`mcp.Client` always puts the SDK's own dispatcher on a transport; there is no public way to give it another. The
attribute `Client._connect`, a callable `(exit_stack, mode, raise_exceptions)` that returns a dispatcher, has stood
unchanged since mcp 2.0, and is set here. Where it should have moved, the same channel is given to the client as an
ordinary transport: slower, but public. A test fails when that happens.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, final

import mcp
import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter

from ._channel import Out
from ._dispatcher import Dispatcher
from ._lines import Line

logger = logging.getLogger("trio_mcp_pool.wire")

_ATTRIBUTE: Final = "_connect"


def seam_stands() -> bool:
    """Whether this version of the SDK still has the attribute."""
    return any(field.name == _ATTRIBUTE and not field.init for field in dataclasses.fields(mcp.Client))


def client_with_dispatcher(dispatcher_factory: Callable[[], Dispatcher], options: Mapping[str, Any]) -> mcp.Client:
    """An `mcp.Client`, not yet entered, that drives a dispatcher of ours.

    `options` are what `mcp.Client` takes beside its server. Raises what it raises for them.
    """
    transport: Any = _ChannelTransport(dispatcher_factory)  # structurally a Transport, whose type is not public
    client = mcp.Client(transport, **options)
    if seam_stands() and callable(getattr(client, _ATTRIBUTE, None)):

        async def connect(*_: Any) -> Dispatcher:
            return dispatcher_factory()

        setattr(client, _ATTRIBUTE, connect)
    return client


@final
class _ChannelTransport:
    """The public way: a transport whose streams write to and read from the dispatcher's channel."""

    def __init__(self, dispatcher_factory: Callable[[], Dispatcher]) -> None:
        self._factory = dispatcher_factory

    async def __aenter__(self) -> tuple[_Reading, _Writing]:
        dispatcher = self._factory()
        send, receive = trio.open_memory_channel[SessionMessage | Exception](float("inf"))

        def on_line(line: Line) -> None:
            try:
                message = jsonrpc_message_adapter.validate_json(bytes(line).decode("utf-8", "replace"), by_name=False)
            except ValueError as exc:
                send.send_nowait(exc)
            else:
                send.send_nowait(SessionMessage(message))

        dispatcher.relay(on_line, send.close)
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        self._nursery = nursery
        nursery.start_soon(self._run, dispatcher)
        return _Reading(receive), _Writing(dispatcher)

    async def _run(self, dispatcher: Dispatcher) -> None:
        async with trio.open_nursery() as nursery:
            await dispatcher.channel.run(nursery)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._nursery.cancel_scope.cancel(reason="the session is left")
        return await self._manager.__aexit__(kind, exc, traceback)


class _Stream:
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> bool | None:
        return None


@final
class _Reading(_Stream):
    def __init__(self, receive: trio.MemoryReceiveChannel[SessionMessage | Exception]) -> None:
        self._receive = receive

    async def receive(self) -> SessionMessage | Exception:
        return await self._receive.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@final
class _Writing(_Stream):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def send(self, item: SessionMessage, /) -> None:
        call = self._dispatcher.link.current_call() if isinstance(item.message, JSONRPCRequest) else None
        data = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        channel = self._dispatcher.channel
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
