"""Callbacks at given times, all of them run by one task of the pool.

A task for each timer would be simpler, and a thousand dials would need a thousand tasks only to watch their deadlines.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, final

import trio
from trio.lowlevel import enable_ki_protection

_CANCELLED_KEPT: Final = 100
"""So many cancelled timers may wait for their time before they are looked for and dropped."""


@final
class Timer:
    """A synchronous callback that will run at a time, unless it is cancelled."""

    __slots__ = ("_on_cancel", "at", "callback")

    def __init__(self, at: float, callback: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self.at: float = at
        self.callback: Callable[[], None] | None = callback
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """Do not run it. Idempotent."""
        if self.callback is not None:
            self.callback = None
            self._on_cancel()


@final
class Timers:
    """The timers of one pool. All methods but `run` are synchronous."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._cancelled = 0
        """How many entries of the heap are cancelled, at most: those that left it by their time still count."""
        self._closed = False
        self._wait = trio.CancelScope(shield=True)

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        """Call it at that time on Trio's clock, in the order of the times. It must not raise."""
        timer = Timer(at, callback, self._timer_cancelled)
        if not self._closed and at < math.inf:
            self._count += 1
            heapq.heappush(self._heap, (at, self._count, timer))
            if at < self._wait.deadline:
                self._wait.deadline = at
        return timer

    def _timer_cancelled(self) -> None:
        # Most timers are cancelled, long before their time: each dial has one, and `connect_timeout` may be an hour.
        self._cancelled += 1
        if self._cancelled > _CANCELLED_KEPT + len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Run no callback any more; `run` returns."""
        self._closed = True
        self._heap.clear()
        self._wait.cancel(reason="the pool has closed")

    @enable_ki_protection
    async def run(self) -> None:
        """Call the callbacks until `close`. Shielded: it ends by being closed."""
        while not self._closed:
            with trio.CancelScope(shield=True, deadline=self._next()) as self._wait:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
                callback = heapq.heappop(self._heap)[2].callback
                if callback is not None:
                    callback()

    def _next(self) -> float:
        # Most deadlines of dials are cancelled long before their time; those at the front must not wake the task.
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
