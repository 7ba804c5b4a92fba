"""What servers say unasked, as a stream.

The rule: a reader that is slow, or has been forgotten, costs a bounded amount of memory and holds up nobody: it loses the
oldest, and is told how many. The obvious way, a memory channel, either grows without bound or makes the sender wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, Self, final

import trio

BUFFER: Final = 1000
"""Notifications that a reader may be behind."""


@final
@dataclass(frozen=True, slots=True)
class ServerNotice:
    """One notification."""

    server: str
    """The server's name in the pool."""
    scope: Hashable
    """The key of the scope whose session it came on; `None` for one that all share."""
    session: int
    """The number of the connection that it came on, unique in its pool, as in events."""
    notification: Any
    """The protocol's own object, such as an `mcp_types.LoggingMessageNotification`."""

    @property
    def method(self) -> str:
        """The protocol's name for it, such as `notifications/message`."""
        return str(self.notification.method)


@final
class Notifications:
    """An async iterator over notifications. Ends when the pool, or the scope, closes. Made by `Pool.notifications`."""

    def __init__(self, server: str | None, scope: Hashable, buffer: int) -> None:
        """For the pool itself. Raises `TypeError`, `ValueError`."""
        if isinstance(buffer, bool) or not isinstance(buffer, int):
            raise TypeError(f"buffer must be an int, not {type(buffer).__name__}")
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        self._server = server
        self._scope = scope
        self._waiting: deque[ServerNotice] = deque(maxlen=buffer)
        self._arrived = trio.Event()
        self._ended = False
        self.missed: int = 0
        """How many were dropped, so far, because this reader was more than `buffer` (default 1,000) behind."""

    def __repr__(self) -> str:
        return f"<Notifications: {len(self._waiting)} waiting, {self.missed} missed>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerNotice:
        """The next one, as soon as there is one. Several tasks may read: each notification goes to one of them. Checkpoints."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            if self._arrived.is_set():  # otherwise another task waits for it already
                self._arrived = trio.Event()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _tell(self, notice: ServerNotice) -> None:
        if self._server is not None and notice.server != self._server:
            return
        if self._scope is not None and notice.scope != self._scope:
            return
        if len(self._waiting) == self._waiting.maxlen:
            self.missed += 1
        self._waiting.append(notice)
        self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()
