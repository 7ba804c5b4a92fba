"""What is sent and has no answer: notifications, cancelled notices, and answers to what the server asked.

Each is an HTTP request of its own, and a server that is slow to take them must not collect connections: they wait in a
queue, a few at a time are sent, each has a deadline, and what does not find a place is dropped and counted. A call
never waits for one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Final, final

import trio

from .._link import Link

logger = logging.getLogger("trio_mcp_pool.wire")

SENDERS: Final = 4
MAX_WAITING: Final = 1000
CANCEL_TIMEOUT: Final = 5.0
"""Seconds from the cancellation, after which the notice of it is of no use."""
NOTICE_TIMEOUT: Final = 30.0


@final
class _Notice:
    __slots__ = ("data", "deadline", "done")

    def __init__(self, data: bytes, deadline: float, done: trio.Event | None) -> None:
        self.data = data
        self.deadline = deadline
        self.done = done


@final
class Notices:
    """The queue, and those who send from it. There are none while it is empty."""

    def __init__(self, link: Link, post: Callable[[bytes], Awaitable[None]]) -> None:
        self.dropped = 0
        """How many found no place, or were not taken in time."""
        self._link = link
        self._post = post
        self._queue: deque[_Notice] = deque()
        self._senders = 0
        self._nursery: trio.Nursery | None = None
        self._context = copy_context()

    def start(self, nursery: trio.Nursery) -> None:
        """From now on send, in tasks of this nursery, whose owner cancels them."""
        self._nursery = nursery
        # Not the context of whichever caller comes first: its variables would be seen by what others send.
        self._context = copy_context()

    def put(self, data: bytes, timeout: float = NOTICE_TIMEOUT, done: trio.Event | None = None) -> None:
        """Queue one. Synchronous; never raises."""
        if self._nursery is None or self._link.leaving or self._link.is_lost or len(self._queue) >= MAX_WAITING:
            self._drop("there is no place for it")
            if done is not None:
                done.set()
            return
        self._queue.append(_Notice(data, trio.current_time() + timeout, done))
        if self._senders < SENDERS:
            self._senders += 1
            self._context.run(self._nursery.start_soon, self._send)

    async def send(self, data: bytes) -> None:
        """Queue one and wait until it was sent or dropped, so that what one task sends keeps its order."""
        done = trio.Event()
        self.put(data, done=done)
        await done.wait()

    async def _send(self) -> None:
        try:
            while self._queue:
                notice = self._queue.popleft()
                try:
                    with trio.CancelScope(deadline=notice.deadline) as scope:
                        await self._post(notice.data)
                    if scope.cancelled_caught:
                        self._drop("the server did not take it in time")
                except Exception as exc:
                    logger.debug("server %s: a notice failed with %s", self._link.server, type(exc).__name__)
                finally:
                    if notice.done is not None:
                        notice.done.set()
        finally:
            self._senders -= 1

    def _drop(self, why: str) -> None:
        self.dropped += 1
        logger.debug("server %s: a notice was dropped, the %d. of them: %s", self._link.server, self.dropped, why)
