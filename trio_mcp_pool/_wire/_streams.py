"""The two streams of a transport as the SDK wants them: what is the same in all of ours, and a watch on the SDK's own.

The SDK asks a transport for something to receive messages from, which can be iterated, and something to send them to. Both can
be closed and are used as context managers. `WatchedReading` and `WatchedWriting` stand around the streams of an SDK transport
(`wire="sdk"`), so that the link learns what the SDK tells nobody: that the session is gone, and that a request was handed over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, final

import anyio
import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest

from ._link import Call, Link


class Stream:
    """What both have: an end."""

    async def aclose(self) -> None:
        """Close it. Checkpoints."""
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


class ReadStream(Stream, ABC):
    """What the SDK reads messages from."""

    @abstractmethod
    async def receive(self) -> SessionMessage | Exception:
        """The next message. Raises at the end of the stream."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except (anyio.EndOfStream, trio.EndOfChannel):
            raise StopAsyncIteration from None


@final
class WatchedReading(ReadStream):
    """The SDK's read stream; says when bytes came and when they ended."""

    def __init__(self, link: Link, inner: Any, before_loss: Callable[[], Awaitable[None]] | None = None) -> None:
        """`before_loss` waits, when the stream has ended, for what is worth knowing about the end; bounded."""
        self._link = link
        self._inner = inner
        self._before_loss = before_loss

    @property
    def last_context(self) -> Any:
        """The context variables of whoever sent the last message, which the SDK looks for."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        try:
            item: SessionMessage | Exception = await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            if not self._link.leaving:
                if self._before_loss is not None:
                    await self._before_loss()
                self._link.lost(None if isinstance(exc, anyio.EndOfStream) else exc)
            raise
        self._link.heard()
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()


class WatchedWriting(Stream, ABC):
    """The SDK's write stream; marks calls as written and sends nothing into a session that is over."""

    notice_seconds: float
    """How long a cancelled notice may wait to be taken. The SDK would hold the cancelled caller for five seconds."""

    def __init__(self, link: Link, inner: Any) -> None:
        self._link = link
        self._inner = inner

    async def send(self, item: SessionMessage, /) -> None:
        """Hand a message to the SDK's transport."""
        if self._link.is_lost or self._link.leaving:
            await anyio.lowlevel.checkpoint()
            raise anyio.ClosedResourceError
        message = item.message
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            with trio.move_on_after(self.notice_seconds):
                await self._inner.send(item)
            return
        await self._send(item, self._link.current_call() if isinstance(message, JSONRPCRequest) else None)

    @abstractmethod
    async def _send(self, item: SessionMessage, call: Call | None) -> None:
        """The same; `call` is to be marked as written when it may have been."""

    async def aclose(self) -> None:
        await self._inner.aclose()
