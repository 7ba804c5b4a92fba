"""Leases, waiters, and what follows from a step: the things that the matcher moves about.

They are plain records without behaviour of their own. What happens to them is decided in `_matcher.py` and `_lane.py`, and
carried out by the `Host`, which is the pool.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final

import trio

from . import _events as events
from ._connection import Connection
from ._errors import PoolError

if TYPE_CHECKING:
    from ._lane import Lane
    from ._statistics import PoolStatistics


@final
class Lease:
    """One holder's claim on one connection, from acquire to release."""

    __slots__ = ("connection", "ended", "lane", "since", "task")

    def __init__(self, lane: Lane, connection: Connection, task: object, since: float) -> None:
        self.lane: Lane = lane
        self.connection: Connection = connection
        self.task: object = task
        self.since: float = since
        self.ended: bool = False


@final
class Waiter:
    """One task in the queue, and the channel on which it will receive a lease or an error."""

    __slots__ = ("receive", "send", "since", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.since = trio.current_time()
        self.send, self.receive = trio.open_memory_channel[Lease | PoolError](0)


@final
@dataclass(slots=True)
class Step:
    """What follows from one step, to be carried out after it."""

    dial: list[Connection] = field(default_factory=list)
    """Owners to start, as `max_connecting` allows."""
    dial_over: bool = False
    """A dial has ended in one way or another: others may have their turn."""
    close: list[tuple[Connection, float]] = field(default_factory=list)
    """Connections to leave, and by when."""
    events: list[events.Event] = field(default_factory=list)
    wake_at: float = math.inf
    """When to match again although nothing happened: the end of a backoff."""
    siblings: bool = False
    """Whether the server's other lanes must match again: a trial dial has ended."""
    gone: bool = False
    """Whether a connection has really gone."""


class Host(Protocol):
    """What a lane needs of the pool."""

    observed: bool
    """Whether anybody listens to events."""

    def apply(self, lane: Lane, step: Step, /) -> None:
        """Carry out what follows from a step."""

    def number(self) -> int:
        """The next connection's number."""

    def statistics(self) -> PoolStatistics:
        """The pool's state, for the error that carries it."""

    def fatal(self, error: BaseException, /) -> None:
        """Something that is no `Exception` came out of an owner."""

    def spawn(self, task: Callable[[], Awaitable[None]], name: str, /) -> None:
        """Run a task in the pool's nursery."""
