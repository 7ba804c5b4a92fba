"""What a lane needs of the pool, and what a step is.

A *step* is one synchronous change of a lane. While it runs nothing else can, because under Trio only an `await` lets other
tasks run, and `KeyboardInterrupt` is held back (R17). What follows from a step (dials to start, other lanes to match again,
events to deliver) is carried out when the outermost step ends, in one place, so that no step sees another one half done.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from trio.lowlevel import enable_ki_protection

from .._callbacks import Callbacks
from .._connection._record import Connection
from .._events import CallerObserver, Event
from ._counts import Counts
from ._health import Health

if TYPE_CHECKING:
    from .._statistics import PoolStatistics

P = ParamSpec("P")
R = TypeVar("R")


class Matchable(Protocol):
    """A lane, as the pool and the other lanes of its server see it."""

    def match(self) -> None:
        """Bring waiters and sessions together, and start what dials that takes."""


@dataclass(slots=True, eq=False)
class Shared:
    """What all lanes of one server share."""

    name: str
    health: Health
    counts: Counts
    occupied: Callable[[Hashable], int]
    """How many connections of a key still exist of a server of this name that was removed. They count (R9)."""
    lanes: dict[Hashable, Any] = field(default_factory=dict)
    """The server's lanes by key; a lane enters itself when somebody waits in it, and is taken out when it is empty."""
    unserved: dict[Matchable, None] = field(default_factory=dict)
    """The lanes that want something they cannot have now: matched again when a backoff ends or the server has answered."""


class Host(Protocol):
    """What a lane needs of the pool. All synchronous."""

    observed: bool
    """Whether there are observers."""
    caller_observer: CallerObserver | None
    """What is called in the tasks of callers; `None` where no observer wants that."""
    attentive: bool
    """Whether a lease that is given or ended matters to the pool: it is observed, or `max_sessions_total` is set."""

    def begin_step(self) -> None:
        """A step begins, perhaps inside another."""

    def end_step(self) -> None:
        """A step ends; the end of the outermost carries out what follows."""

    def rematch(self, lane: Matchable, /) -> None:
        """Match this lane before the outermost step ends."""

    def next_number(self) -> int:
        """The number of the next connection."""

    def callbacks_for(self, key: Hashable, /) -> tuple[Callbacks | None, Callbacks | None]:
        """What the scope of a lane's key, and what the pool declares for all servers."""

    def emit(self, event: Event, /) -> None:
        """Deliver it to the observers after the step."""

    def emit_before(self, position: int, event: Event, /) -> None:
        """The same, but before everything that was emitted from `position` on."""

    def event_position(self) -> int:
        """Where the next event will stand."""

    def queue_dial(self, connection: Connection, shared: Shared, /) -> None:
        """A dial waits for its turn (R5b)."""

    def dial_over(self, connection: Connection, /) -> None:
        """A dial has ended, in one way or another, or was withdrawn while it waited."""

    def wake_at(self, shared: Shared, at: float, /) -> None:
        """Match the unserved lanes of this server again at that time: the end of its backoff."""

    def idle_changed(self, connection: Connection, /) -> None:
        """A connection has become idle, or is no longer."""

    def connection_moved(self, connection: Connection, /) -> None:
        """A connection begins to close, or is gone."""

    def all_places_scoped(self, connections: int, /) -> bool:
        """Whether `max_sessions_total` is used up by sessions of `open_scope` alone, for a lane with so many connections."""

    def is_full(self) -> bool:
        """Whether `max_sessions_total` is reached: a successor could only have the place of its predecessor."""

    def lane_is_empty(self, lane: Any, /) -> None:
        """The lane has neither connections nor waiters: it may be forgotten."""

    def statistics(self) -> PoolStatistics:
        """The pool's state, for the error that carries it."""


class HasHost(Protocol):
    """An object whose methods can be steps."""

    @property
    def host(self) -> Host:
        """The pool."""


S = TypeVar("S", bound=HasHost)


def step(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a synchronous method a step."""

    @wraps(method)
    @enable_ki_protection
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        host = self.host
        host.begin_step()
        try:
            return method(self, *args, **kwargs)
        finally:
            host.end_step()

    return run
