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
from typing import Any, Final, TypeAlias, final

import trio

from .._events import CallerObserver, Event, Observer

logger = logging.getLogger("trio_mcp_pool")

_INLINE: Final = 100

Fatal: TypeAlias = Callable[[BaseException], None]
"""Ends the pool with an interrupt that came out of an observer (R14)."""


def _tell_one(
    observer: object, method: Callable[..., None], what: tuple[Any, ...], fatal: Fatal, failed: str, *names: str
) -> None:
    """Call a method of an observer. Nothing that it raises harms the step or the call that it is told of."""
    try:
        method(*what)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        fatal(interrupt)
    except BaseException:  # noqa: ASYNC103 (a synchronous function cannot be cancelled)
        logger.exception(failed, type(observer).__name__, *names)


_FAILED: Final = "an observer of type %s raised in the task of a caller"


@final
class _CallerObservers:
    """Several observers of callers as one. Whatever they raise, the caller keeps its session and its answer."""

    def __init__(self, observers: Iterable[CallerObserver], fatal: Fatal) -> None:
        self._observers = tuple(observers)
        self._fatal = fatal

    def waited(self, *wait: Any) -> None:
        for observer in self._observers:
            _tell_one(observer, observer.waited, wait, self._fatal, _FAILED)

    def called(self, *call: Any) -> None:
        for observer in self._observers:
            _tell_one(observer, observer.called, call, self._fatal, _FAILED)


@final
class Observers:
    """The observers of one pool, and the events that are not delivered yet."""

    def __init__(
        self,
        observers: Iterable[Observer],
        spawn: Callable[[Callable[[], Awaitable[None]], str], None],
        fatal: Fatal,
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
        return _CallerObservers(found, self._fatal) if found else None

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
                    failed = "an observer of type %s raised for %s; the others are called all the same"
                    _tell_one(observer, observer.event, (event,), self._fatal, failed, type(event).__name__)
        finally:
            self._telling = False
