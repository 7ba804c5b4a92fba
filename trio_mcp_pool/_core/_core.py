"""What all handles of a pool share: the core, which carries out what lanes, admission and owners decide.

The core is the pool's one object with state; `Pool` and `ScopedPool` are thin handles over it. It is the host that all its
parts know, and each part is a module: the servers (`_server_table.py`) and the scopes (`_scopes.py`), both made of the entries
in `_registry.py`; which dials may start (`_admission.py`); the order of closing (`_closing.py`); calling the observers
(`_observers.py`); telling the catalogue (`_hub.py`); timers (`_timers.py`); statistics (`_numbers.py`).

Everything that runs in the service nursery is shielded and ends when the core ends it, never by a cancellation from
outside: when the program is cancelled, the body leaves first, and closing takes its orderly course.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, final

import trio

from .. import _events as events
from .._callbacks import Callbacks, check_declared
from .._connection._owner import Owner
from .._connection._record import Connection
from .._errors import PoolClosedError
from .._lanes._host import Matchable, Shared, step
from .._lanes._lane import Lane
from .._policy import PoolPolicy
from .._wire._link import current_call, current_handler
from ._admission import Admission
from ._closing import GONE, Closing
from ._hub import Hub
from ._numbers import pool_statistics
from ._observers import Observers
from ._scopes import Scopes
from ._server_table import ServerTable
from ._timers import Timer, Timers

if TYPE_CHECKING:
    from .._statistics import PoolStatistics


@final
class Core:
    """The state of one pool: the host of its lanes and owners."""

    def __init__(
        self,
        servers: object,
        policy: PoolPolicy,
        max_connecting: int,
        max_sessions_total: int | None,
        observers: Iterable[events.Observer],
        configure: Callable[[Connection], Awaitable[None]],
        callbacks: Callbacks | None = None,
    ) -> None:
        """`configure` runs a server's `configure=` function on a session handle for the connection."""
        if not isinstance(policy, PoolPolicy):
            raise TypeError(f"policy must be a PoolPolicy, not {type(policy).__name__}")
        _check_count("max_connecting", max_connecting)
        if max_sessions_total is not None:
            _check_count("max_sessions_total", max_sessions_total)
        observers = _check_observers(observers)
        self.callbacks: Callbacks | None = check_declared("callbacks", callbacks)
        self.configure = configure
        self.host: Core = self  # its own changes are steps, too
        self.closing: PoolClosedError | None = None
        self.hub: Hub | None = None
        self.admission: Admission = Admission(self, max_connecting, max_sessions_total)
        self.ends: Closing = Closing(self)
        self.servers: ServerTable = ServerTable(self, servers, policy, max_sessions_total)
        self.scopes: Scopes = Scopes(self, self.servers, self.ends)

        self.closed: trio.Event = trio.Event()
        self.fatal_error: BaseException | None = None
        self.body_scope: trio.CancelScope = trio.CancelScope()
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.timers: Timers = Timers()
        self.observers: Observers = Observers(observers, self.spawn, self.fatal)
        self.observed: bool = bool(self.observers)
        self.caller_observer: events.CallerObserver | None = self.observers.of_callers()
        self.attentive: bool = self.observed or max_sessions_total is not None
        self._nursery: trio.Nursery | None = None
        # Owners are no part of the call in whose handler the pool was opened.
        self._context = contextvars.copy_context()
        self._context.run(current_call.set, None)
        self._context.run(current_handler.set, None)
        self._depth = 0
        self._rematch: dict[Matchable, None] = {}
        self._numbers_given = 0
        self._backoff_timers: dict[Shared, Timer] = {}
        self._admission_timer: Timer | None = None
        self._closing_since = math.inf

    @step
    def open(self, nursery: trio.Nursery) -> None:
        """Begin: from here on owners run in this nursery."""
        self._nursery = nursery
        self.spawn(self.timers.run, "timers of the pool")
        self.servers.open()

    # Closing.

    async def aclose(self, task: trio.lowlevel.Task, clean: bool) -> None:
        """Refuse, drain if `clean`, close. Under cancellation nothing is waited for beyond `close_timeout`."""
        lanes = self._begin_closing()
        assert self.closing is not None
        try:
            await self.ends.end(lanes, self.closing, "shutdown", task, clean=clean)
        finally:
            self.timers.close()
            self.closed.set()

    @step
    def _begin_closing(self) -> list[Lane]:
        if self.closing is None:
            self._closing_since = trio.current_time()
            self.closing = PoolClosedError("the pool is closed")
            if self.hub is not None:
                self.hub.closing()
        return list(self.servers.all_lanes())

    def finish(self) -> None:
        """Everything is closed: log what had to be killed, and emit the last event."""
        self.emit(self.ends.report(self._closing_since))
        self.observers.tell_all()

    def statistics(self) -> PoolStatistics:
        """How things stand."""
        return pool_statistics(self.servers.used(), self.servers.removed, self.servers.peaks)

    # What lanes call: see `Host` in `_lanes/_host.py`.

    def callbacks_for(self, key: Hashable) -> tuple[Callbacks | None, Callbacks | None]:
        return self.scopes.callbacks(key), self.callbacks

    def begin_step(self) -> None:
        self._depth += 1

    def end_step(self) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            while True:
                if self._rematch:
                    lane = next(iter(self._rematch))
                    del self._rematch[lane]
                    lane.match()
                elif self.admission.dirty:
                    self.admission.admit()
                else:
                    break
        finally:
            self._depth = 0
        if self.hub is not None and self.hub.pending:
            self.hub.tell()
        if self.observers.queue:
            self.observers.tell()

    def rematch(self, lane: Matchable) -> None:
        self._rematch[lane] = None

    def next_number(self) -> int:
        self._numbers_given += 1
        return self._numbers_given

    def emit(self, event: events.Event) -> None:
        if self.observed:
            self.observers.queue.append(event)

    @step
    def call_resent(self, event: events.CallResent) -> None:
        """Emit that a request was sent again."""
        self.emit(event)

    def emit_before(self, position: int, event: events.Event) -> None:
        self.observers.queue.insert(position, event)

    def event_position(self) -> int:
        return len(self.observers.queue)

    def queue_dial(self, connection: Connection, shared: Shared) -> None:
        self.admission.add(connection, shared)

    def dial_over(self, connection: Connection) -> None:
        self.admission.dial_over(connection)
        if self.hub is not None:
            self.hub.moved(connection)

    def wake_at(self, shared: Shared, at: float) -> None:
        timer = self._backoff_timers.get(shared)
        if timer is not None:
            if timer.at <= at:
                return
            timer.cancel()
        self._backoff_timers[shared] = self.timers.call_at(at, lambda: self._backoff_over(shared))

    @step
    def _backoff_over(self, shared: Shared) -> None:
        del self._backoff_timers[shared]
        self.admission.dirty = True
        if self.closing is None:
            for lane in list(shared.unserved):
                self.rematch(lane)

    def idle_changed(self, connection: Connection) -> None:
        if self.admission.total is not None:
            self.admission.idle_changed(connection)

    def connection_moved(self, connection: Connection) -> None:
        self.ends.connection_moved()
        if self.hub is not None:
            self.hub.moved(connection)
        if connection.state not in GONE:
            return
        if connection.owner is not None:  # it was not withdrawn while it was queued
            self.admission.gone(connection)
        self.ends.gone(connection)
        self.servers.connection_gone(connection, self.lane_of(connection))

    def all_places_scoped(self, connections: int) -> bool:
        return self.admission.all_places_scoped(connections)

    def is_full(self) -> bool:
        return self.admission.total is not None and self.admission.used >= self.admission.total

    def lane_is_empty(self, lane: Lane) -> None:
        self.servers.lane_is_empty(lane)

    # What admission calls: see `DialStarter` in `_admission.py`.

    def start_dial(self, connection: Connection) -> None:
        if self.hub is not None:
            self.hub.dialling(connection)
        owner = connection.owner = Owner(connection, self)
        self.lane_of(connection).start(connection)
        self.spawn(owner.run, f"owner of a session of {connection.name!r}")

    def lane_of(self, connection: Connection) -> Lane:
        lane = connection.listener
        assert isinstance(lane, Lane)
        return lane

    def connections(self) -> Iterator[Connection]:
        for lane in self.servers.all_lanes():
            yield from lane.connections

    def admit_at(self, at: float) -> None:
        timer = self._admission_timer
        if timer is None or at < timer.at:
            if timer is not None:
                timer.cancel()
            self._admission_timer = self.timers.call_at(at, self._admit)

    @step
    def _admit(self) -> None:
        self._admission_timer = None
        self.admission.dirty = True

    # What owners call: see `OwnerHost` in `_connection/_owner.py`.

    def fatal(self, error: BaseException) -> None:
        if self.fatal_error is None:
            self.fatal_error = error
        self.body_scope.cancel(reason=f"{type(error).__name__} in a task of the pool")

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        assert self._nursery is not None, "lanes are made when the pool opens"
        start = self._nursery.start_soon
        self._context.copy().run(lambda: start(task, name=name))

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        return self.timers.call_at(at, callback)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _check_observers(observers: Any) -> tuple[events.Observer, ...]:
    if not isinstance(observers, Iterable):
        raise TypeError(f"observers must be several observers, such as a list of them, not {type(observers).__name__}")
    checked = tuple(observers)
    for observer in checked:
        if not callable(getattr(observer, "event", None)):
            raise TypeError(f"an observer must have a method event(e), which {type(observer).__name__} has not")
    return checked
