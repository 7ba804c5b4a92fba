"""Waits that can never end (R4).

A task that waits for a place that only it could free would wait for ever. It gets a `RuntimeError` instead, but only where
that is certain. Certain are a task's own `session` blocks, which it cannot leave while it waits; and the lease of a call
whose handler is this very task, because the call cannot end before the handler does. A lease of `acquire` proves nothing:
it may have been handed to a task that will release it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import trio

from .._connection._record import Connection
from .._connection._states import State
from .._wire._link import current_call, current_handler
from ._lease import Lease


def pinned_leases(task: trio.lowlevel.Task) -> frozenset[object]:
    """The leases of calls that cannot end before this task goes on, because it runs in their handler, or makes the call."""
    handler = current_handler.get()
    in_handler = handler is not None and handler.task is task
    pinned = set()
    call = current_call.get()
    while call is not None:
        if in_handler or call.task is task:
            pinned.add(call.lease)
        call = call.parent
    return frozenset(pinned)


def is_pinned(lease: Lease, task: trio.lowlevel.Task, pinned: frozenset[object], connection: Connection) -> bool:
    """Whether this lease cannot end while the task waits."""
    if (lease.in_block and lease.task is task) or lease in pinned:
        return True
    # On stdio in the older era a request of the server names no call. Where there is only one lease, it belongs to that one.
    handler = current_handler.get()
    return (
        handler is not None
        and handler.task is task
        and handler.link is connection.link
        and len(connection.leases) == 1
        and bool(connection.calls)
    )


def held_for_ever(
    task: trio.lowlevel.Task, connections: Iterable[Connection], max_in_flight: int, places_left: bool
) -> int:
    """How many leases pin all these connections while `task` waits; 0 where the wait may end.

    `places_left` says whether the lane could give more leases if it had a session with a place.
    """
    pinned: frozenset[object] | None = None
    held = 0
    for connection in connections:
        if connection.state is State.READY:
            if places_left and len(connection.leases) < max_in_flight:
                return 0  # it is suspect or unfit at the moment: its probe will decide
        elif connection.state is not State.DRAINING:
            return 0
        if connection.drain_by < math.inf:
            return 0  # it ends then, whoever holds it
        for lease in connection.leases:
            assert isinstance(lease, Lease)
            if pinned is None:
                pinned = pinned_leases(task)
            if not is_pinned(lease, task, pinned, connection):
                return 0
            held += 1
    return held


def waits_for_itself(task: trio.lowlevel.Task, connections: Iterable[Connection]) -> bool:
    """Whether one of these connections can end only when `task` goes on: for waits until they have gone."""
    if trio.current_effective_deadline() < math.inf:
        return False
    pinned = pinned_leases(task)
    return any(
        isinstance(lease, Lease) and is_pinned(lease, task, pinned, connection)
        for connection in connections
        for lease in connection.leases
    )
