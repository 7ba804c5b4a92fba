"""Delivering events to the observers (R17).

Events wait in one queue of the pool and are delivered in order, after the step that caused them, when no step is under way.
What an observer does to the pool is a step like any other; its events are delivered after those in the queue, so
that every observer sees causes before effects. Up to a hundred events are delivered inline, the others by a task of the pool,
so that a step with ten thousand events does not hold the event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, final

import trio

from .._events import CallerObserver, Event, Observer

logger = logging.getLogger("trio_mcp_pool")

_INLINE: Final = 100


@final
class _CallerObservers:
    """Several observers of callers as one. What they raise is logged, and the caller keeps its answer."""

    def __init__(self, observers: Iterable[CallerObserver]) -> None:
        self._observers = tuple(observers)

    def waited(self, *wait: Any) -> None:
        for observer in self._observers:
            self._tell(observer, observer.waited, wait)

    def called(self, *call: Any) -> None:
        for observer in self._observers:
            self._tell(observer, observer.called, call)

    def _tell(self, observer: CallerObserver, method: Callable[..., None], what: tuple[Any, ...]) -> None:
        try:
            method(*what)
        except Exception:
            logger.exception("an observer of type %s raised in the task of a caller", type(observer).__name__)


@final
class Observers:
    """The observers of one pool, and the events that are not delivered yet."""

    def __init__(
        self,
        observers: Iterable[Observer],
        spawn: Callable[[Callable[[], Awaitable[None]], str], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._observers = tuple(observers)
        self.queue: deque[Event] = deque()
        self._spawn = spawn
        self._fatal = fatal
        self._telling = False
        self._has_task = False
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._observers)

    def of_callers(self) -> CallerObserver | None:
        """Those that are called in the tasks of callers, as one; `None` where there are none."""
        found = [observer for observer in self._observers if isinstance(observer, CallerObserver)]
        return _CallerObservers(found) if found else None

    def tell(self) -> None:
        """Deliver what is in the queue, or the first hundred of it."""
        if self._telling or self._has_task:
            return
        self._tell(_INLINE)
        if self.queue and not self._closed:
            self._has_task = True
            self._spawn(self._tell_the_rest, "delivery of events")

    def tell_all(self) -> None:
        """Deliver everything, at the end of the pool."""
        self._closed = True
        while self.queue:
            self._tell(len(self.queue))

    async def _tell_the_rest(self) -> None:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912 (it ends with the queue, or with the pool)
            while self.queue and not self._closed:
                await trio.lowlevel.checkpoint()
                self._tell(_INLINE)
        self._has_task = False

    def _tell(self, most: int) -> None:
        self._telling = True
        try:
            while self.queue and most > 0:
                most -= 1
                event = self.queue.popleft()
                for observer in self._observers:
                    self._tell_one(observer, event)
        finally:
            self._telling = False

    def _tell_one(self, observer: Observer, event: Event) -> None:
        try:
            observer.event(event)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            self._fatal(interrupt)
        except BaseException:  # noqa: ASYNC103 (a synchronous function cannot be cancelled)
            logger.exception(
                "an observer of type %s raised for %s; the others are called all the same",
                type(observer).__name__,
                type(event).__name__,
            )
