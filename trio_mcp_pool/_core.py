"""What all handles of a pool share: the lanes, and the carrying out of their steps.

The core is the pool's one object with state; `Pool` and `ScopedPool` are thin handles over it. It finds the lane of a
server and a scope, starts owner tasks in the service nursery (no more than `max_connecting` dials at once), wakes lanes
when a backoff ends, tells observers, adds up the statistics, and closes everything in the order of R2.

Dials are admitted first come, first served, except that no single server may hold the last free place while others
could need it: a dead server with many sessions would otherwise delay all the rest for the length of its timeouts.

Everything that runs in the service nursery is shielded and ends by being told to, never by a cancellation that happens to
pass by: when the program is cancelled, the body leaves first, and closing takes its orderly course.
"""

from __future__ import annotations

import contextvars
import difflib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, final

import trio
from trio.lowlevel import enable_ki_protection

from . import _events as events
from ._books import Counts, Tally
from ._connection import Connection, State
from ._entries import Entry, FreshKey, Scope, check_server, check_servers
from ._errors import PoolClosedError, PoolError, UnknownServerError
from ._health import Health
from ._lane import Lane
from ._lease import Step
from ._policy import PoolPolicy
from ._servers import Server
from ._statistics import PoolStatistics, ServerStatistics

logger = logging.getLogger("trio_mcp_pool")

_GONE = (State.CLOSED, State.FAILED)
# Clean-up that shields itself past its deadline is waited for a moment longer, then reported.
_GRACE = 0.5


@final
class Core:
    """The state of one pool."""

    def __init__(
        self, servers: object, policy: PoolPolicy, max_connecting: int, observers: Iterable[events.Observer]
    ) -> None:
        if not isinstance(policy, PoolPolicy):
            raise TypeError(f"policy must be a PoolPolicy, not {type(policy).__name__}")
        if isinstance(max_connecting, bool) or not isinstance(max_connecting, int):
            raise TypeError(f"max_connecting must be a whole number, not {type(max_connecting).__name__}")
        if max_connecting < 1:
            raise ValueError(f"max_connecting must be at least 1, not {max_connecting}")
        if not isinstance(observers, Iterable):
            raise TypeError(
                f"observers must be several observers, such as a list of them, not {type(observers).__name__}"
            )
        self.observers: tuple[events.Observer, ...] = tuple(observers)
        for observer in self.observers:
            if not callable(getattr(observer, "event", None)):
                raise TypeError(f"an observer must have a method event(e), which {type(observer).__name__} has not")
        self.observed: bool = bool(self.observers)
        self.policy = policy
        self.max_connecting = max_connecting
        self.tally: Tally = Tally()
        self.tallies: dict[str, Tally] = {}
        self.retired: dict[str, Counts] = {}
        self.entries: dict[str, Entry] = {
            name: self._entry(name, server) for name, server in check_servers(servers).items()
        }
        self.scopes: dict[Hashable, Scope] = {}
        self._removed: list[Entry] = []

        self.closing: PoolClosedError | None = None
        self.closed: trio.Event = trio.Event()
        self.fatal_error: BaseException | None = None
        self.body_scope: trio.CancelScope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.copy_context()
        self._count = 0
        self._fresh = 0
        self._queue: deque[Connection] = deque()
        self._connecting: set[Connection] = set()
        self._timers: dict[Health, trio.CancelScope] = {}
        self._moved = trio.Event()
        """Set when connections begin to close or are gone, and replaced for the next time."""
        self._killed: list[int] = []
        self._left_behind: list[int] = []
        self._closing_since = math.inf

    def open(self, nursery: trio.Nursery) -> None:
        """Begin: from here on owners run in this nursery."""
        self._nursery = nursery
        for entry in self.entries.values():
            self._shared_lane(entry)

    # Finding lanes.

    def lane(self, server: str, scope: Hashable) -> Lane:
        """The lane of a server outside of any `open_scope` block, made if need be."""
        entry = self.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(server)
        try:
            lane = entry.lanes.get(scope)
        except TypeError:
            raise TypeError(f"scope must be hashable, which {type(scope).__name__} is not") from None
        if lane is None or lane.stateful:
            # Such a lane outlives its block where a session overstays its time to close.
            if lane is not None or scope in self.scopes:
                raise ValueError(
                    f"scope {scope!r} is owned by an open_scope block; call through the handle that it gives"
                )
            lane = self._new_lane(entry, scope)
        return lane

    def scoped_lane(self, server: str, scope: Scope) -> Lane:
        """The lane of a server inside an `open_scope` block, made if need be."""
        if scope.closed:
            raise PoolClosedError(f"scope {scope.key!r} is closed")
        entry = scope.own.get(server) or self.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(server, scope)
        lane = entry.lanes.get(scope.key)
        return lane if lane is not None else self._new_lane(entry, scope.key, stateful=True)

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
        tally = self.tallies.setdefault(name, Tally(self.tally))
        return Entry(name, server, self.policy, tally)

    def _new_lane(self, entry: Entry, scope: Hashable, *, stateful: bool = False) -> Lane:
        policy = entry.policy_for(scope, stateful)
        lane = Lane(
            self, entry.name, scope, entry.server, policy, entry.health, entry.tally, entry.lanes, stateful=stateful
        )
        if stateful or scope is None:
            entry.lanes[scope] = lane
        # Any other lane enters itself when somebody queues there: one that was only looked at need not be forgotten.
        return lane

    def _shared_lane(self, entry: Entry) -> None:
        # Made at once and not at the first call, so that the statistics show it and `min_sessions` are dialled.
        self._new_lane(entry, None).tick()

    # Scopes.

    def enter_scope(self, key: Hashable, servers: object) -> Scope:
        """Own a scope's key."""
        own = {} if servers is None else check_servers(servers)
        if self.closing is not None:
            raise self.closing._fresh()
        if key is None:
            self._fresh += 1
            key = FreshKey(self._fresh)
        try:
            taken = key in self.scopes or any(key in entry.lanes for entry in self.entries.values())
        except TypeError:
            raise TypeError(f"a scope's key must be hashable, which {type(key).__name__} is not") from None
        if taken:
            raise ValueError(f"scope {key!r} is open or in use already")
        scope = self.scopes[key] = Scope(key, {name: self._entry(name, server) for name, server in own.items()})
        return scope

    async def leave_scope(self, scope: Scope, task: object, clean: bool) -> None:
        """Close all that belongs to a scope; running leases of other tasks have `drain_timeout` after a clean end."""
        scope.closed = True
        error = PoolClosedError(f"scope {scope.key!r} is closed")
        lanes = [
            lane for entry in self._all_entries() if (lane := entry.lanes.get(scope.key)) is not None and lane.stateful
        ]
        try:
            await self._end(lanes, error, "drained", task, clean)
        finally:
            del self.scopes[scope.key]
            self._removed += scope.own.values()
            for lane in lanes:
                if lane.empty:
                    self._forget(lane)

    # Change while running.

    def add(self, name: str, server: Server) -> None:
        """One more server."""
        if self.closing is not None:
            raise self.closing._fresh()
        if not isinstance(name, str) or not name:
            raise TypeError(f"a server's name must be a non-empty str, not {name!r}")
        check_server(name, server)
        if name in self.entries:
            raise ValueError(f"the pool has a server {name!r} already; use reconfigure to change it")
        entry = self.entries[name] = self._entry(name, server)
        self._shared_lane(entry)

    def drain(self, name: str) -> list[Connection]:
        """Retire all connections of a server. Returns them."""
        entry = self.entries.get(name) if isinstance(name, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(name)
        entry.health.forget()
        return [c for lane in list(entry.lanes.values()) for c in lane.drain(lane.policy.drain_timeout)]

    def remove(self, name: str) -> list[Connection]:
        """Take a server out. Returns its connections, which are being drained."""
        entry = self.entries.get(name) if isinstance(name, str) else None
        if entry is None or self.closing is not None:
            raise self._cannot_lease(name)
        del self.entries[name]
        error = UnknownServerError(f"server {name!r} was removed from the pool", server=name)
        old: list[Connection] = []
        self._removed.append(entry)
        for lane in list(entry.lanes.values()):
            lane.refuse(error)
            old += lane.drain(lane.policy.drain_timeout)
        return old

    def reconfigure(self, servers: object) -> list[Connection]:
        """Bring the servers in line with a new mapping. Returns the connections that are being drained for it."""
        wanted = check_servers(servers)
        if self.closing is not None:
            raise self.closing._fresh()
        old: list[Connection] = []
        for name in [name for name in self.entries if name not in wanted]:
            old += self.remove(name)
        for name, server in wanted.items():
            entry = self.entries.get(name)
            if entry is None:
                self.add(name, server)
            elif entry.server != server:
                entry.server = server
                entry.health.forget()
                for lane in list(entry.lanes.values()):
                    patience = lane.policy.drain_timeout
                    lane.change(server, entry.policy_for(lane.scope, lane.stateful))
                    old += lane.drain(patience)
        return old

    async def wait_gone(self, connections: Iterable[Connection]) -> None:
        """Wait until nothing of these connections is left. Checkpoints."""
        await trio.lowlevel.checkpoint()
        left = [c for c in connections if c.state not in _GONE]
        while left:
            await self._moved.wait()
            left = [c for c in left if c.state not in _GONE]

    # Closing.

    async def aclose(self, task: object, clean: bool) -> None:
        """Refuse, drain if `clean`, close. Under cancellation nothing is waited for beyond `close_timeout`."""
        if self.closing is None:
            self._closing_since = trio.current_time()
            self.closing = PoolClosedError("the pool is closed")
        for timer in self._timers.values():
            timer.cancel()
        lanes = [lane for entry in self._all_entries() for lane in entry.lanes.values()]
        try:
            await self._end(lanes, self.closing, "shutdown", task, clean)
        finally:
            if not self.closed.is_set():
                self.closed.set()

    async def _end(
        self, lanes: list[Lane], error: PoolError, reason: events.CloseReason, task: object, clean: bool
    ) -> None:
        connections: list[Connection] = []
        for lane in lanes:
            lane.refuse(error)
            lane.end_leases(task)
            # After an error nobody is given time.
            connections += lane.drain(lane.policy.drain_timeout if clean else 0.0, reason)
        try:
            if not clean:
                self._close(lanes, reason)
            with trio.CancelScope(shield=not clean):
                await self._wait_closed(connections)
        except BaseException:
            # Cancelled, or interrupted: from here on nobody is given time either.
            self._close(lanes, reason)
            with trio.CancelScope(shield=True):
                await self._wait_closed(connections)
            raise
        finally:
            for connection in connections:
                if connection.state not in _GONE:
                    pid = connection.link.pid
                    logger.warning(
                        "server %r: its session has not closed within close_timeout (%s)",
                        connection.name,
                        "no process known" if pid is None else f"pid {pid}",
                    )

    def _close(self, lanes: list[Lane], reason: events.CloseReason) -> None:
        for lane in lanes:
            lane.close(reason, trio.current_time() + lane.policy.close_timeout)

    async def _wait_closed(self, connections: list[Connection]) -> None:
        """Wait until nothing of these connections is left, or until the last of them has overstayed its time to close."""
        await trio.lowlevel.checkpoint()
        while left := [c for c in connections if c.state not in _GONE]:
            # While leases run, the end of draining will move things on.
            by = _GRACE + max(c.link.close_by if c.state is State.CLOSING else math.inf for c in left)
            if trio.current_time() >= by:
                return
            with trio.move_on_at(by):
                await self._moved.wait()

    def finish(self) -> None:
        """The last word: everything is closed."""
        if self._killed:
            logger.warning("processes that would not end had to be killed: %s", self._killed)
        if self._left_behind:
            logger.warning("processes that escaped their group were left behind: %s", self._left_behind)
        self._emit(
            events.PoolClosed(
                at=trio.current_time(),
                seconds=trio.current_time() - min(self._closing_since, trio.current_time()),
                killed=tuple(self._killed),
                left_behind=tuple(self._left_behind),
            )
        )

    # The numbers.

    def statistics(self) -> PoolStatistics:
        """How things stand, added up afresh."""
        servers: dict[str, ServerStatistics] = {}
        total: dict[str, Any] = {}
        names = dict.fromkeys((*self.entries, *self.tallies))
        by_name: dict[str, list[Lane]] = {name: [] for name in names}
        for entry in self._all_entries():
            by_name[entry.name].extend(entry.lanes.values())
        for name, lanes in by_name.items():
            sums: dict[str, Any] = self.retired.get(name, Counts()).as_dict()
            for lane in lanes:
                for part in (lane.gauges(), lane.counts.as_dict()):
                    for key, value in part.items():
                        sums[key] = sums.get(key, 0) + value
            for key, value in sums.items():
                total[key] = total.get(key, 0) + value
            tally = self.tallies[name]
            servers[name] = ServerStatistics(
                **sums, peak_in_use=tally.peak_in_use, peak_tasks_waiting=tally.peak_waiting
            )
        return PoolStatistics(
            **total, peak_in_use=self.tally.peak_in_use, peak_tasks_waiting=self.tally.peak_waiting, servers=servers
        )

    def _all_entries(self) -> list[Entry]:
        own = [entry for scope in self.scopes.values() for entry in scope.own.values()]
        # A server that was taken out counts until the last of its connections has gone.
        self._removed = [entry for entry in self._removed if entry.lanes]
        return [*self.entries.values(), *own, *self._removed]

    # What lanes ask of their host.

    def number(self) -> int:
        """The next connection's number."""
        self._count += 1
        return self._count

    def fatal(self, error: BaseException) -> None:
        """A `KeyboardInterrupt` or `SystemExit` came out of an owner: the body ends with it (R14)."""
        if self.fatal_error is None:
            self.fatal_error = error
        self.body_scope.cancel(reason=f"{type(error).__name__} in an owner task")

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task in the service nursery, in the context of the pool (R1)."""
        assert self._nursery is not None, "lanes are made when the pool opens"
        start = self._nursery.start_soon
        self._context.copy().run(lambda: start(task, name=name))

    @enable_ki_protection
    def apply(self, lane: Lane, step: Step) -> None:
        """Carry out what follows from a lane's step."""
        if step.dial or step.dial_over:
            self._queue.extend(step.dial)
            self._admit()
        for connection, by in step.close:
            connection.close(by)
        if step.wake_at < math.inf:
            self._wake(lane, step.wake_at)
        if step.events and self.observed:
            for event in step.events:
                self._emit(event)
        for event in step.events:
            if isinstance(event, events.SessionClosed):
                self._killed += event.killed
                self._left_behind += event.left_behind
        if step.siblings:
            for other in list(lane.siblings.values()):
                if other is not lane:
                    other.tick()
        if step.gone or step.close:
            moved, self._moved = self._moved, trio.Event()
            moved.set()
        if (
            lane.empty
            and self.closing is None
            and (lane.refusal is not None or (lane.scope is not None and not lane.stateful))
        ):
            self._forget(lane)

    def _admit(self) -> None:
        self._connecting = {c for c in self._connecting if c.state is State.DIALING}
        share = max(1, self.max_connecting - 1)
        waiting = [c for c in self._queue if c.state is State.DIALING]
        self._queue.clear()
        for connection in waiting:
            same = sum(c.name == connection.name for c in self._connecting)
            if len(self._connecting) < self.max_connecting and same < share:
                self._connecting.add(connection)
                connection.started = True
                connection.began_at = trio.current_time()
                self.spawn(connection.run, f"owner of a session of {connection.name!r}")
            else:
                self._queue.append(connection)

    def _wake(self, lane: Lane, at: float) -> None:
        timer = self._timers.get(lane.health)
        if timer is not None:
            timer.deadline = min(timer.deadline, at)
            return
        if self.closing is not None:
            return
        timer = self._timers[lane.health] = trio.CancelScope(shield=True, deadline=at)

        async def wake() -> None:
            try:
                with timer:
                    await trio.sleep_forever()
            finally:
                del self._timers[lane.health]
            if self.closing is None:
                for each in list(lane.siblings.values()):
                    each.tick()

        self.spawn(wake, f"backoff of {lane.name!r}")

    def _forget(self, lane: Lane) -> None:
        if lane.siblings.get(lane.scope) is lane:
            del lane.siblings[lane.scope]
            self.retired.setdefault(lane.name, Counts()).add(lane.counts)

    def _emit(self, event: events.Event) -> None:
        for observer in self.observers:
            try:
                observer.event(event)
            except Exception:
                logger.exception("an observer of type %s raised; it is skipped this once", type(observer).__name__)
