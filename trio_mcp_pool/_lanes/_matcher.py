"""The matching of waiters with sessions that have a free place (R4, R6).

The first waiter gets the ready connection with the fewest leases, among equals the one used last, so that the surplus can
idle out. Two kinds of ready connections come behind all others: those that are being replaced, and, last, those that are
suspect, whose server may never answer.

A waiter is rescheduled with its lease, in the same step in which the lease is booked. A waiter that is cancelled leaves the
queue at that very moment, in the function that Trio calls to abort its wait; so a lease never goes to a task that has left.
Handing leases over through a queue of results would lose sessions: one that is in the queue belongs to no task, and if its
receiver is cancelled, nothing gives it back.

Nothing here awaits, dials, or emits events: those follow from what the methods return.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, final

import trio

from .._connection._record import Connection
from .._connection._states import State
from .._errors import PoolError
from .._policy import PoolPolicy
from ._counts import Counts
from ._free import FreeConnections
from ._lease import Lease, LeaseHolder, Waiter

# `suspect_since` of a connection that is not suspect.
_NEVER: Final = math.inf


@final
class Matcher:
    """The waiters of one lane, and its connections by what they can be lent for."""

    __slots__ = (
        "_fit",
        "_outdated",
        "_suspect",
        "clock",
        "counts",
        "holder",
        "leases",
        "lent",
        "max_in_flight",
        "places",
        "waiters",
    )

    def __init__(self, holder: LeaseHolder, policy: PoolPolicy, counts: Counts) -> None:
        self.holder: LeaseHolder = holder
        self.clock: Final = trio.lowlevel.current_clock().current_time
        """`trio.current_time`, at half its price."""
        self.counts: Counts = counts
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.leases: int = 0
        """Leases on live connections."""
        self.lent: int = 0
        """How many leases have been given."""
        self.max_in_flight: int = policy.max_in_flight
        self.places: int = policy.max_sessions * policy.max_in_flight
        """The most leases at a time. It binds while sessions overlap, so that exclusive stays exclusive (R9)."""
        self._fit = FreeConnections()
        self._outdated = FreeConnections()
        self._suspect = FreeConnections()

    # Which connections can be lent.

    def place(self, connection: Connection) -> None:
        """Put a connection where it belongs, after its state or its flags have changed."""
        held = len(connection.leases)
        self.remove(connection)
        if connection.state is not State.READY or connection.unfit:
            return
        if connection.suspect_since != _NEVER:
            kind = self._suspect
        elif connection.outdated:
            kind = self._outdated
        else:
            kind = self._fit
        connection.free_in = kind
        if held < self.max_in_flight:
            kind.put(connection, held)

    def remove(self, connection: Connection) -> None:
        """Lend this connection no more. Idempotent."""
        if connection.free_in is not None:
            connection.free_in.remove(connection)
            connection.free_in = None

    def change(self, policy: PoolPolicy, connections: dict[Connection, None]) -> None:
        """From now on go by another policy."""
        self.max_in_flight = policy.max_in_flight
        self.places = policy.max_sessions * policy.max_in_flight
        for connection in connections:
            self.place(connection)

    def best(self) -> Connection | None:
        """The connection to lend next; `None` if only suspect ones have a place, or none at all."""
        if self.leases >= self.places:
            return None
        return self._fit.best() or self._outdated.best()

    def best_suspect(self) -> Connection | None:
        """The suspect connection to lend where there is no other."""
        return None if self.leases >= self.places else self._suspect.best()

    def least_used_outdated(self) -> Connection | None:
        """The outdated connection with the fewest leases; `None` if all of them are full, or suspect."""
        return self._outdated.best()

    # Leases.

    def lend(self, connection: Connection, task: trio.lowlevel.Task | None, in_block: bool) -> Lease:
        """Book a lease on a connection that has a place."""
        now = self.clock()
        lease = Lease(self.holder, connection, task, now, in_block)
        leases = connection.leases
        held = len(leases)
        free = connection.free_in
        assert free is not None
        leases.add(lease)
        held += 1
        self.lent = connection.lent = self.lent + 1
        if held < self.max_in_flight:
            free.put(connection, held)
        else:
            free.remove(connection)
        self.leases += 1
        counts = self.counts
        counts.acquires += 1
        counts.leases += 1
        if held == 1:
            counts.first_lease()
            connection.counted = "in_use"
        return lease

    def end(self, lease: Lease) -> bool:
        """Take a lease off the books. Returns whether it was the last one of its connection."""
        connection = lease.connection
        leases = connection.leases
        held = len(leases)
        free = connection.free_in
        if free is not None and held <= self.max_in_flight:
            free.put(connection, held - 1)
        leases.remove(lease)
        self.leases -= 1
        now = self.clock()
        counts = self.counts
        counts.leases -= 1
        counts.usage_seconds += now - lease.since
        connection.used_at = now
        return held == 1

    def end_all(self, connection: Connection) -> list[Lease]:
        """Take all leases of a connection that closes off the books. It must have been removed before."""
        ended = [lease for lease in connection.leases if isinstance(lease, Lease)]
        now = trio.current_time()
        for lease in ended:
            self.counts.usage_seconds += now - lease.since
        self.leases -= len(ended)
        self.counts.leases -= len(ended)
        connection.leases.clear()
        return ended

    # Waiters.

    def add_waiter(self, waiter: Waiter) -> None:
        """Queue it, as the last."""
        self.waiters[waiter] = None
        self.counts.wait(1)

    def remove_waiter(self, waiter: Waiter) -> None:
        """Take it out of the queue, if it is there."""
        if waiter in self.waiters:
            del self.waiters[waiter]
            self.counts.wait(-1)

    def first_waiter(self) -> Waiter | None:
        """The waiter that is served next."""
        return next(iter(self.waiters), None)

    def hand_over(self, waiter: Waiter, connection: Connection) -> Lease:
        """Give a waiter its lease."""
        self.remove_waiter(waiter)
        lease = self.lend(connection, waiter.task, waiter.in_block)
        self.counts.acquires_waited += 1
        self.counts.acquire_wait_seconds += lease.since - waiter.since
        waiter.resolve(lease)
        return lease

    def fail_waiter(self, waiter: Waiter, error: PoolError) -> float:
        """Give a waiter an error. Returns how long it had waited, in seconds."""
        self.remove_waiter(waiter)
        waited = trio.current_time() - waiter.since
        self.counts.acquires_rejected += 1
        self.counts.acquire_wait_seconds += waited
        waiter.resolve(error)
        return waited
