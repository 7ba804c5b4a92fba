"""Which dials may be under way (R5b), and which sessions may exist (R10b).

At most `max_connecting` dials are under way, and free places go round the servers in turn; so a server with a thousand
scopes does not keep the others waiting. Mute servers would: each holds its place until `connect_timeout`. Therefore a place
that has been held for a second may be lent, once a second, to a server that has no dial under way. A server of its own never
has more than `max_connecting` dials, so this starts no herd of processes.

With `max_sessions_total` a dial also needs a place for its session, taken when the dial starts and given back when nothing
of the connection is left. Dials for callers come before the others then, first come, first served, and room is made for
them: the least recently used idle session of a shared lane is closed, or, where none is idle, the one with the fewest
leases takes no new ones. Dials for `min_sessions` and replacements never make another session end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol, final

import trio

from .._connection._record import Connection
from .._connection._states import State
from .._lanes._host import Shared
from .._lanes._lane import Lane

LOAN_AFTER: Final = 1.0
"""Seconds after which a place that a dial holds may be lent, and again after each further one."""


class DialStarter(Protocol):
    """What admission needs of the pool."""

    def start_dial(self, connection: Connection, /) -> None:
        """The dial's turn has come."""

    def lane_of(self, connection: Connection, /) -> Lane:
        """The lane that a connection belongs to."""

    def connections(self) -> Iterable[Connection]:
        """All connections of the pool."""

    def admit_at(self, at: float, /) -> None:
        """Look again at that time."""


@final
class Admission:
    """The queue of dials of one pool. All methods are synchronous and run inside a step."""

    def __init__(self, pool: DialStarter, max_connecting: int, max_sessions_total: int | None) -> None:
        self.max_connecting = max_connecting
        self.total = max_sessions_total
        self.dirty: bool = False
        """Whether something has changed, so that `admit` should be called."""
        self.used: int = 0
        """Connections that have a place of `max_sessions_total`."""
        self.used_by_scopes: int = 0
        self._pool = pool
        self._queues: OrderedDict[Shared, OrderedDict[Connection, None]] = OrderedDict()
        """Queued dials by server; the server whose turn it is comes first."""
        self._idle_servers: OrderedDict[Shared, None] = OrderedDict()
        """Servers with queued dials and none under way: those that a place may be lent to."""
        self._demands: OrderedDict[Connection, None] = OrderedDict()
        """Queued dials for callers, in order; kept only with `max_sessions_total`."""
        self._under_way: OrderedDict[Connection, float] = OrderedDict()
        """Dials under way, oldest first, and when the place of each may be lent next."""
        self._servers: dict[Connection, Shared] = {}
        self._dials_of: dict[Shared, int] = {}
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        """Idle sessions of shared lanes, the least recently used first; kept only with `max_sessions_total`."""
        self._making_room: set[Connection] = set()

    # What happens to dials and sessions.

    def add(self, connection: Connection, shared: Shared) -> None:
        """A dial waits for its turn."""
        self._servers[connection] = shared
        self._queues.setdefault(shared, OrderedDict())[connection] = None
        if shared not in self._dials_of:
            self._idle_servers[shared] = None
        if self.total is not None and connection.purpose == "demand":
            self._demands[connection] = None
        self.dirty = True

    def dial_over(self, connection: Connection) -> None:
        """A dial has ended, or was withdrawn while it waited. Idempotent."""
        shared = self._servers.pop(connection, None)
        if shared is None:
            return
        self.dirty = True
        if connection in self._under_way:
            del self._under_way[connection]
            self._dials_of[shared] -= 1
            if not self._dials_of[shared]:
                del self._dials_of[shared]
                if shared in self._queues:
                    self._idle_servers[shared] = None
        else:
            self._unqueue(connection, shared)

    def gone(self, connection: Connection) -> None:
        """Nothing of a connection that had been started is left."""
        self._making_room.discard(connection)
        self.used -= 1
        self.used_by_scopes -= self._pool.lane_of(connection).stateful
        self.dirty = True

    def idle_changed(self, connection: Connection) -> None:
        """A connection has become idle, or is no longer. Only with `max_sessions_total`."""
        self._idle.pop(connection, None)
        if (
            connection.counted == "idle"
            and connection.state is State.READY
            and not self._pool.lane_of(connection).stateful
        ):
            self._idle[connection] = None
            self.dirty = self.dirty or bool(self._demands)

    def all_places_scoped(self, connections: int) -> bool:
        """Whether sessions of `open_scope` alone hold all places, for a lane that has so many connections of its own."""
        return self.total is not None and not connections and self.used_by_scopes >= self.total

    # Admission.

    def admit(self) -> None:
        """Start what may start now."""
        self.dirty = False
        now = trio.current_time()
        while self._queues:
            connection = self._next(lent=False) if len(self._under_way) < self.max_connecting else None
            if connection is None and len(self._under_way) >= self.max_connecting:
                connection = self._borrow(now)
            if connection is None:
                break
            if self.total is not None and self.used >= self.total:
                self._make_room()
                break
            self._start(connection, now)

    def _start(self, connection: Connection, now: float) -> None:
        shared = self._servers[connection]
        self._unqueue(connection, shared)
        if shared in self._queues:
            self._queues.move_to_end(shared)
        self._under_way[connection] = now + LOAN_AFTER
        self._dials_of[shared] = self._dials_of.get(shared, 0) + 1
        self._idle_servers.pop(shared, None)
        self.used += 1
        self.used_by_scopes += self._pool.lane_of(connection).stateful
        self._pool.start_dial(connection)

    def _unqueue(self, connection: Connection, shared: Shared) -> None:
        queue = self._queues[shared]
        del queue[connection]
        self._demands.pop(connection, None)
        if not queue:
            del self._queues[shared]
            self._idle_servers.pop(shared, None)

    def _next(self, *, lent: bool) -> Connection | None:
        """The dial whose turn it is, and whose server is not in backoff."""
        if self._demands and not lent:
            for connection in self._demands:
                if not self._servers[connection].health.in_backoff:
                    return connection
        for shared in self._idle_servers if lent else self._queues:
            if not shared.health.in_backoff:
                return next(iter(self._queues[shared]))
        return None

    def _borrow(self, now: float) -> Connection | None:
        """A dial that may start although all places are held; without one, see to it that this is looked at again."""
        connection = self._next(lent=True)
        if connection is None:
            return None
        holders = [holder for holder, _ in zip(self._under_way, range(self.max_connecting), strict=False)]
        lender = min(holders, key=self._under_way.__getitem__)
        if self._under_way[lender] > now:
            self._pool.admit_at(self._under_way[lender])
            return None
        self._under_way[lender] = now + LOAN_AFTER
        return connection

    # Room for `max_sessions_total`.

    def _make_room(self) -> None:
        """End a session for each dial of a caller that waits for a place, as far as there are any to end."""
        while len(self._making_room) < len(self._demands):
            head = next(iter(self._demands))
            connection = next(iter(self._idle), None) or self._least_used(self._pool.lane_of(head))
            if connection is None:
                break
            self._making_room.add(connection)
            self._pool.lane_of(connection).make_room(connection)
        if not self._making_room and self.used == self.used_by_scopes:
            for connection in list(self._demands):
                self._pool.lane_of(connection).no_place_left()

    def _least_used(self, besides: Lane) -> Connection | None:
        """The ready session with the fewest leases of any other shared lane."""
        ready = (
            connection
            for connection in self._pool.connections()
            if connection.state is State.READY
            and (lane := self._pool.lane_of(connection)) is not besides
            and not lane.stateful
        )
        return min(ready, key=lambda connection: len(connection.leases), default=None)
