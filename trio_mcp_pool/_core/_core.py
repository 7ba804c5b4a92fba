"""What all handles of a pool share: its servers, scopes and lanes, and the carrying out of what lanes decide.

The core is the pool's one object with state; `Pool` and `ScopedPool` are thin handles over it. Its parts are apart: what the
pool was given (`_registry.py`), which dials may start (`_admission.py`), the order of closing (`_closing.py`), calling the
observers (`_observers.py`), telling the catalogue (`_hub.py`), timers (`_timers.py`), statistics (`_numbers.py`).

Everything that runs in the service nursery is shielded and ends when the core ends it, never by a cancellation from
outside: when the program is cancelled, the body leaves first, and closing takes its orderly course.
"""

from __future__ import annotations

import contextvars
import difflib
import logging
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final
from weakref import WeakValueDictionary

import trio
from trio.lowlevel import enable_ki_protection

from .. import _events as events
from .._callbacks import Callbacks, check_declared
from .._connection._owner import Owner
from .._connection._record import Connection
from .._errors import PoolClosedError, UnknownServerError
from .._lanes._counts import Peaks
from .._lanes._host import Matchable, Shared, step
from .._lanes._lane import Lane
from .._policy import PoolPolicy
from .._servers import Server
from .._wire._link import current_call, current_handler
from .._wire.stdio._descendants import still_living
from ._admission import Admission
from ._closing import GONE, Closing
from ._hub import Hub
from ._numbers import pool_statistics
from ._observers import Observers
from ._registry import Entry, FreshKey, Removed, Scope, ScopeKey, check_server, check_servers
from ._timers import Timer, Timers

if TYPE_CHECKING:
    from .._statistics import PoolStatistics

logger = logging.getLogger("trio_mcp_pool")


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
        self.host: Core = self  # its own changes are steps, too
        self.policy = policy
        self.peaks: Peaks = Peaks()
        self._peaks_of: WeakValueDictionary[str, Peaks] = WeakValueDictionary()
        """By name, for as long as anything is counted under it."""
        self.removed: Removed = Removed()
        self.scopes: dict[ScopeKey, Scope] = {}
        self.admission: Admission = Admission(self, max_connecting, max_sessions_total)
        self.entries: dict[str, Entry] = {}
        checked = check_servers(servers)
        self._check_total(checked)
        self.entries.update({name: self._entry(name, server) for name, server in checked.items()})
        self.configure = configure

        self.closing: PoolClosedError | None = None
        self.closed: trio.Event = trio.Event()
        self.fatal_error: BaseException | None = None
        self.body_scope: trio.CancelScope = trio.CancelScope()
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.timers: Timers = Timers()
        self.ends: Closing = Closing()
        self.observers: Observers = Observers(observers, self.spawn, self.fatal)
        self.observed: bool = bool(self.observers)
        self.attentive: bool = self.observed or max_sessions_total is not None
        self.hub: Hub | None = None
        """Told for the catalogue, once somebody has asked for one."""
        self._nursery: trio.Nursery | None = None
        # Owners are no part of the call in whose handler the pool was opened.
        self._context = contextvars.copy_context()
        self._context.run(current_call.set, None)
        self._context.run(current_handler.set, None)
        self._depth = 0
        self._rematch: dict[Matchable, None] = {}
        self._numbers_given = 0
        self._fresh_keys = 0
        self._backoff_timers: dict[Shared, Timer] = {}
        self._admission_timer: Timer | None = None
        self._killed: list[int] = []
        self._left_behind: list[int] = []
        self._closing_since = math.inf

    @property
    def servers(self) -> Mapping[str, Server]:
        """What is configured now."""
        return MappingProxyType({name: entry.server for name, entry in self.entries.items()})

    @step
    def open(self, nursery: trio.Nursery) -> None:
        """Begin: from here on owners run in this nursery."""
        self._nursery = nursery
        self.spawn(self.timers.run, "timers of the pool")
        for entry in self.entries.values():
            self._open_entry(entry)

    # Finding lanes.

    def lane(self, server: str, scope: Hashable) -> Lane:
        """The lane of a server outside of any `open_scope` block, made if need be."""
        entry = self.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(server)
        if scope is None:
            assert entry.lane is not None
            return entry.lane
        key = ScopeKey(scope)
        lane: Lane | None = entry.shared.lanes.get(key)
        if lane is None or lane.stateful:
            # Such a lane outlives its block where a session overstays its time to close.
            if lane is not None or key in self.scopes:
                raise ValueError(
                    f"scope {scope!r} is owned by an open_scope block; call through the handle that it gives"
                )
            lane = entry.new_lane(self, key)
        return lane

    def scoped_lane(self, server: str, scope: Scope) -> Lane:
        """The lane of a server inside an `open_scope` block, made if need be."""
        if scope.closed_error is not None:
            raise scope.closed_error._fresh()
        entry = scope.own.get(server) or self.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(server, scope)
        lane: Lane | None = entry.shared.lanes.get(scope.key)
        return lane if lane is not None else entry.new_lane(self, scope.key, stateful=True)

    def _cannot_lease(self, server: object, scope: Scope | None = None) -> Exception:
        if self.closing is not None:
            return self.closing._fresh()
        if not isinstance(server, str):
            return TypeError(f"server must be the name of a server in the pool, not {type(server).__name__}")
        names = [*self.entries, *(scope.own if scope is not None else ())]
        near = difflib.get_close_matches(server, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(names)}" if names else "; it has none"
        return UnknownServerError(
            f"the pool has no server {server!r}{hint}", server=server, suggestion=near[0] if near else None
        )

    def _entry(self, name: str, server: Server) -> Entry:
        named = self._peaks_of.setdefault(name, Peaks())
        entry = Entry(name, server, self.policy, self.peaks, named)
        if (counts := self.removed.take_counters(name)) is not None:
            entry.shared.counts.add_counters(counts)
        entry.shared.occupied = lambda key: self.removed.occupied(name, key)
        return entry

    def _open_entry(self, entry: Entry) -> None:
        # Made at once and not at the first call, so that the statistics show it and `min_sessions` are dialled.
        entry.lane = entry.new_lane(self, None)
        entry.lane.register()
        entry.lane.tick()

    def all_lanes(self) -> Iterator[Lane]:
        """Every lane of every server, those of removed servers included."""
        for entry in (*self._used_entries(), *self.removed.leaving()):
            yield from entry.lanes

    def _used_entries(self) -> list[Entry]:
        return [*self.entries.values(), *(entry for scope in self.scopes.values() for entry in scope.own.values())]

    def _check_total(self, servers: Mapping[str, Server]) -> None:
        total = self.admission.total
        kept = sum((server.policy or self.policy).min_sessions for server in servers.values())
        if total is not None and kept >= total:
            raise ValueError(
                f"the sum of min_sessions ({kept}) must be smaller than max_sessions_total ({total}), "
                "or no other session could ever be opened"
            )

    def _check_open(self) -> None:
        if self.closing is not None:
            raise self.closing._fresh()

    # Scopes.

    @step
    def enter_scope(self, key: Hashable, servers: object, callbacks: object) -> Scope:
        """Own a scope's key."""
        declared = check_declared("callbacks", callbacks)
        own = {} if servers is None else check_servers(servers)
        self._check_open()
        if key is None:
            self._fresh_keys += 1
            key = FreshKey(self._fresh_keys)
        owned = ScopeKey(key)
        if owned in self.scopes or any(owned in entry.shared.lanes for entry in self.entries.values()):
            raise ValueError(f"scope {key!r} is open or in use already")
        scope = Scope(owned, {name: self._entry(name, server) for name, server in own.items()}, declared)
        self.scopes[owned] = scope
        return scope

    @enable_ki_protection
    async def leave_scope(self, scope: Scope, task: trio.lowlevel.Task, clean: bool) -> None:
        """Close all that belongs to a scope; running leases of other tasks have `drain_timeout` after a clean end."""
        lanes = self._close_scope(scope)
        assert scope.closed_error is not None
        try:
            await self.ends.end(lanes, scope.closed_error, "drained", task, clean=clean)
        finally:
            self._forget_scope(scope, lanes)

    @step
    def _close_scope(self, scope: Scope) -> list[Lane]:
        scope.closed_error = PoolClosedError(f"scope {scope.key.value!r} is closed")
        if self.hub is not None:
            self.hub.closing(scope.key.value)
        entries = (*self._used_entries(), *self.removed.leaving())
        lanes = (entry.shared.lanes.get(scope.key) for entry in entries)
        return [lane for lane in lanes if lane is not None and lane.stateful]

    @step
    def _forget_scope(self, scope: Scope, lanes: list[Lane]) -> None:
        del self.scopes[scope.key]
        for entry in scope.own.values():
            self.removed.add(entry)
        for lane in lanes:
            if lane.empty:
                self.lane_is_empty(lane)

    @step
    def close_scope_key(self, key: Hashable) -> list[Connection]:
        """End the sessions of a shared scope's key. Returns its connections."""
        self._check_open()
        owned = ScopeKey(key)
        if key is None or owned in self.scopes:
            raise ValueError(
                f"scope {key!r} is owned by an open_scope block, which closes it when it ends"
                if key is not None
                else "None names no scope"
            )
        lanes = [lane for entry in self.entries.values() if (lane := entry.shared.lanes.get(owned)) is not None]
        self._check_not_pinned(lanes, "close_scope")
        return [c for lane in lanes for c in lane.retire_all(lane.policy.drain_timeout, "drained")]

    # Change while running. Each looks first and changes then, in one step (R17).

    @step
    def add(self, name: str, server: Server) -> None:
        """One more server."""
        self._check_open()
        check_server(name, server)
        if name in self.entries:
            raise ValueError(f"the pool has a server {name!r} already; use reconfigure to change it")
        self._check_total({**self.servers, name: server})
        self._add(name, server)

    def _add(self, name: str, server: Server) -> None:
        entry = self.entries[name] = self._entry(name, server)
        self._open_entry(entry)
        if self.hub is not None:
            self.hub.server_changed(name)

    @step
    def drain(self, name: str) -> list[Connection]:
        """Replace all connections of a server. Returns the old ones."""
        entry = self._known_entry(name)
        self._check_not_pinned(entry.lanes, "drain")
        return self._drain(entry, {lane: lane.policy.drain_timeout for lane in entry.lanes}, changed=False)

    def _drain(self, entry: Entry, timeouts: dict[Lane, float], *, changed: bool) -> list[Connection]:
        entry.shared.health.forget()
        for lane in list(entry.shared.unserved):
            self.rematch(lane)
        return [c for lane, timeout in timeouts.items() for c in lane.replace_all(timeout, changed=changed)]

    @step
    def remove(self, name: str) -> list[Connection]:
        """Take a server out. Returns its connections, which are being drained."""
        entry = self._known_entry(name)
        self._check_not_pinned(entry.lanes, "remove_server")
        return self._remove(entry)

    def _remove(self, entry: Entry) -> list[Connection]:
        del self.entries[entry.name]
        lanes = entry.lanes
        error = UnknownServerError(f"server {entry.name!r} was removed from the pool", server=entry.name)
        old: list[Connection] = []
        for lane in lanes:
            lane.refuse(error)
            old += lane.retire_all(lane.policy.drain_timeout, "drained")
        self.removed.add(entry)
        if self.hub is not None:
            self.hub.server_changed(entry.name)
        return old

    @step
    def reconfigure(self, servers: object) -> list[Connection]:
        """Bring the servers in line with a new mapping. Returns the connections that are being drained for it."""
        wanted = check_servers(servers)
        self._check_open()
        self._check_total(wanted)
        missing = [entry for name, entry in self.entries.items() if name not in wanted]
        changed = [
            (entry, server)
            for name, server in wanted.items()
            if (entry := self.entries.get(name)) is not None and entry.server != server
        ]
        ending = [*missing, *(entry for entry, server in changed if not entry.server._same_but_policy(server))]
        self._check_not_pinned([lane for entry in ending for lane in entry.lanes], "reconfigure")
        old: list[Connection] = []
        for entry in missing:
            old += self._remove(entry)
        for entry, server in changed:
            timeouts = {lane: lane.policy.drain_timeout for lane in entry.lanes}
            entry.change(server)
            if entry in ending:
                old += self._drain(entry, timeouts, changed=True)
                if self.hub is not None:
                    self.hub.server_changed(entry.name)
        for name in wanted:
            if name not in self.entries:
                self._add(name, wanted[name])
        self.entries = {name: self.entries[name] for name in wanted}
        return old

    def _known_entry(self, name: str) -> Entry:
        entry = self.entries.get(name) if isinstance(name, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(name)
        return entry

    def _check_not_pinned(self, lanes: Iterable[Lane], what: str) -> None:
        task = trio.lowlevel.current_task()
        for lane in lanes:
            if lane.pins(task):
                raise RuntimeError(
                    f"{what} would wait for ever: drain_timeout is inf, and this task itself holds a session of server "
                    f"{lane.name!r} that cannot end while it waits; leave its block first, or give the wait a deadline"
                )

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
        return list(self.all_lanes())

    def finish(self) -> None:
        """Everything is closed: log what had to be killed, and emit the last event."""
        if self._killed:
            logger.warning("processes that did not end in time were killed: %s", self._killed)
        # A process may have ended since it was reported.
        self._left_behind = still_living(self._left_behind)
        if self._left_behind:
            logger.warning("processes that left their process group still run: %s", self._left_behind)
        now = trio.current_time()
        self.emit(
            events.PoolClosed(
                at=now,
                seconds=now - min(self._closing_since, now),
                killed=tuple(self._killed),
                left_behind=tuple(self._left_behind),
            )
        )
        self.observers.tell_all()

    def statistics(self) -> PoolStatistics:
        """How things stand."""
        return pool_statistics(self._used_entries(), self.removed, self.peaks)

    # What lanes call: see `Host` in `_lanes/_host.py`.

    def callbacks_for(self, key: Hashable) -> tuple[Callbacks | None, Callbacks | None]:
        scope = self.scopes.get(key) if isinstance(key, ScopeKey) else None
        return (None if scope is None else scope.callbacks), self.callbacks

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
        if connection.started:
            self.admission.gone(connection)
        self._killed += connection.link.killed
        self._left_behind += connection.link.left_behind
        entry = self.entries.get(connection.name)
        lane = self.lane_of(connection)
        if entry is not None and entry.shared is not lane.shared:
            # It may have kept a new server of the same name from dialling (R9).
            successor = entry.shared.lanes.get(lane.key)
            if successor is not None:
                self.rematch(successor)

    def all_places_scoped(self, connections: int) -> bool:
        return self.admission.all_places_scoped(connections)

    def is_full(self) -> bool:
        return self.admission.total is not None and self.admission.used >= self.admission.total

    def lane_is_empty(self, lane: Lane) -> None:
        forgettable = lane.refusal is not None or (lane.key is not None and not lane.stateful)
        if self.closing is None and forgettable and lane.shared.lanes.get(lane.key) is lane:
            lane.unregister()
            self.removed.lane_ended(lane.name)

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
        for lane in self.all_lanes():
            yield from lane.connections

    def admit_at(self, at: float) -> None:
        if self._admission_timer is not None:
            if self._admission_timer.at <= at:
                return
            self._admission_timer.cancel()
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
