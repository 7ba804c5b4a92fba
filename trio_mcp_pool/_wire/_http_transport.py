"""The SDK's HTTP transports, wrapped so that their end can be seen.

A transport is a context manager that gives two streams, and that is all the SDK's client knows of it. The wrapper
notices when the read side ends, which is how a session dies, tells the HTTP client which message each request carries,
and stops new messages once the session is dead or about to be left.
"""

from __future__ import annotations

import contextvars
import inspect
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self, final

import anyio
import trio
from mcp.client import sse, streamable_http
from mcp.shared.message import SessionMessage

from ._http_answers import DONE
from ._http_client import WireClient
from ._http_flight import current_message
from ._link import Link

# Since mcp 2.2.
_HAS_LIMIT = "max_sse_event_size" in inspect.signature(streamable_http.streamable_http_client).parameters

# How long a cancelled notice may wait to be taken, in seconds. Who takes it sends it in the background.
_NOTICE = 0.25
# A server that floods is not read to the end.
_LAST_MESSAGES = 1000
# Turns of the scheduler in which the SDK comes with its next message, if there is one.
_TURNS = 4


@final
class HttpTransport:
    """A transport for `mcp.Client`, on the SDK's own."""

    def __init__(
        self,
        link: Link,
        http: WireClient,
        url: str,
        kind: Literal["streamable-http", "sse"],
        max_sse_event_size: int | None,
    ) -> None:
        self._link = link
        self._http = http
        self._url = url
        self._kind = kind
        self._limit = max_sse_event_size
        self._stack = AsyncExitStack()
        self._background: trio.Nursery | None = None
        self._reading: ReadSide | None = None

    async def __aenter__(self) -> tuple[ReadSide, WriteSide]:
        try:
            async with AsyncExitStack() as stack:
                nursery = await stack.enter_async_context(trio.open_nursery())
                background: trio.Nursery = await nursery.start(_host_background)
                self._background = background
                stack.callback(background.cancel_scope.cancel, reason="the connection is left")
                if self._kind == "sse":
                    read, write = await stack.enter_async_context(
                        sse.sse_client(self._url, httpx_client_factory=lambda *_, **__: self._http)
                    )
                else:
                    await stack.enter_async_context(self._http)
                    read, write = await stack.enter_async_context(self._streamable())
                reading = self._reading = ReadSide(read, self._link)
                self._http.work_in(background, reading.deliver)
                self._stack = stack.pop_all()
        except Exception as exc:
            self._http.dial_failed(exc)
            raise
        return reading, WriteSide(write, self._link, self._http)

    def _streamable(self) -> Any:
        options: dict[str, Any] = {"http_client": self._http, "terminate_on_close": True}
        if _HAS_LIMIT:
            # For the standing stream. Answers are read by the wire.
            options["max_sse_event_size"] = self._limit
        return streamable_http.streamable_http_client(self._url, **options)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if exc is not None:
            self._http.dial_failed(exc)
        if self._background is not None:
            self._background.cancel_scope.cancel(reason="the connection is left")
        try:
            if self._reading is not None:
                await self._reading.discard()
        finally:
            suppressed = await self._stack.__aexit__(exc_type, exc, traceback)
        return suppressed


async def _host_background(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    # In a task of its own, because cancelling a nursery cancels the task that opened it, and that one has to leave.
    async with trio.open_nursery() as background:
        task_status.started(background)
        await trio.sleep_forever()


@final
class ReadSide:
    """What arrives from the server: through the SDK, and past it from the answers that the wire reads itself."""

    def __init__(self, stream: Any, link: Link) -> None:
        self._stream = stream
        self._link = link
        # Without a buffer: whoever delivers waits until the session has taken the message, as in the SDK.
        self._put, self._get = trio.open_memory_channel[tuple[contextvars.Context, SessionMessage]](0)
        self._waiting = trio.CancelScope()
        self.last_context: contextvars.Context | None = None
        """The context of the task that read the last message, for the handlers of what the server asks."""

    async def deliver(self, message: SessionMessage) -> None:
        """Put in a message that the wire has read. Dropped if the session is being left."""
        self._waiting.cancel(reason="a message came another way")
        try:
            await self._put.send((contextvars.copy_context(), message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def receive(self) -> SessionMessage | Exception:
        while True:
            try:
                self.last_context, message = self._get.receive_nowait()
                return message
            except trio.WouldBlock:
                pass
            self._waiting = trio.CancelScope()
            # Nothing is lost when it is cancelled: a receiver that was given its message is past being cancelled.
            with self._waiting:
                item = await self._receive_from_sdk()
                if not isinstance(item, SessionMessage) or getattr(item.message, "method", "") != DONE:
                    self.last_context = getattr(self._stream, "last_context", None)
                    return item

    async def _receive_from_sdk(self) -> SessionMessage | Exception:
        try:
            item: SessionMessage | Exception = await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as exc:
            if not self._link.leaving:
                self._link.lost(exc)
            raise
        return item

    async def discard(self) -> None:
        """Take what the SDK still wants to deliver, so that it waits for the network when it is cancelled. In the middle of
        a delivery it would leave the generators behind half read from which it reads the events."""
        taken = 0

        async def take() -> None:
            nonlocal taken
            try:
                while taken < _LAST_MESSAGES:
                    await self._stream.receive()
                    taken += 1
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                pass

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                before = -1
                while taken > before:
                    before = taken
                    for _ in range(_TURNS):
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel(reason="nothing more comes")

    async def aclose(self) -> None:
        # The SDK's own stream is left to its transport, which closes it when it has stopped those who write to it. An
        # answer that arrives between the two would otherwise break the whole transport.
        self._get.close()
        self._put.close()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@final
class WriteSide:
    """What goes to the server."""

    def __init__(self, stream: Any, link: Link, http: WireClient) -> None:
        self._stream = stream
        self._link = link
        self._http = http
        self._closed = False

    async def send(self, item: SessionMessage, /) -> None:
        if self._closed or self._link.is_lost or self._link.leaving:
            raise anyio.ClosedResourceError
        if getattr(item.message, "method", "") == "notifications/initialized":
            self._http.expect_initialized()
        # The SDK copies the sender's context here, and sends the message in a task that has it.
        token = current_message.set(item)
        try:
            if getattr(item.message, "method", "") == "notifications/cancelled":
                # The SDK holds the cancelled caller until it is taken, for up to five seconds.
                with trio.move_on_after(_NOTICE):
                    await self._stream.send(item)
            else:
                await self._stream.send(item)
        finally:
            current_message.reset(token)

    async def aclose(self) -> None:
        # Left to the transport, like the read side: the SDK's sender closes both when this one is closed.
        self._closed = True
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
