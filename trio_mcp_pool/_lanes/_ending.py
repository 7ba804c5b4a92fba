"""How a session of a lane ends: replaced beside its successor, retired when its last call is over, or closed at once (R9).

To *replace* is to dial a successor first and to end the session when that one is ready, so that its callers need not wait. To
*retire* is to give no new leases and to wait for those that run, until a given time. To *close* is to leave now, whatever
runs. The owner does the leaving, which takes a while; until then the connection counts as closing, and when nothing is left
of it, it is *removed*.
"""

from __future__ import annotations

import math

import trio

from .. import _events as events
from .._connection._record import Connection, EndReason
from .._connection._states import State
from .._events import CloseReason
from ._replacement import RECENTLY
from ._state import LaneState


def replace(lane: LaneState, connection: Connection, reason: CloseReason, by: float) -> None:
    """Replace a ready session: beside its successor if it is needed, else strictly: close it, then dial (R9)."""
    missed = bool(connection.leases) or (not lane.host.is_full() and would_be_missed(lane, connection))
    if connection.outdated:
        connection.drain_by = min(connection.drain_by, by)
        connection.drain_reason = reason if by < math.inf else connection.drain_reason
        if connection.owner is not None:
            connection.owner.wake_at(by)
    elif missed and lane.policy.max_overlap and not lane.stateful and lane.refusal is None:
        connection.drain_by, connection.drain_reason = by, reason
        outdate(lane, connection)
    else:
        retire(lane, connection, reason, by)


def outdate(lane: LaneState, connection: Connection) -> None:
    """From now on a successor of it is wanted: at once, or when the backoff of successors that failed is over."""
    lane.replacement.add(connection)
    lane.matcher.place(connection)
    if connection.owner is not None:
        connection.owner.wake_at(lane.next_check_at(connection))


def would_be_missed(lane: LaneState, connection: Connection) -> bool:
    """Whether callers would have to wait if this idle session was closed before it has a successor."""
    return (
        trio.current_time() - connection.used_at <= RECENTLY
        or lane.ready <= lane.policy.min_sessions
        or bool(lane.matcher.waiters)
    )


def retire(lane: LaneState, connection: Connection, reason: CloseReason, by: float) -> None:
    """End a session without cutting what runs on it before `by`."""
    if not connection.leases:
        close(lane, connection, reason)
        return
    connection.drain_reason = reason
    connection.drain_by = min(connection.drain_by, by)
    if connection.state is State.READY:
        lane.matcher.remove(connection)
        lane.move(connection, State.DRAINING)
    if connection.owner is not None:
        connection.owner.wake_at(connection.drain_by)


def begin_closing(lane: LaneState, connection: Connection, reason: EndReason) -> None:
    """It is lent no more, and counts as closing."""
    lane.matcher.remove(connection)
    lane.move(connection, State.CLOSING)
    connection.end_reason = reason
    connection.closing_since = trio.current_time()
    lane.recount(connection, "closing")
    lane.host.connection_moved(connection)


def close(lane: LaneState, connection: Connection, reason: CloseReason, by: float | None = None) -> None:
    """End a connection now, whatever runs on it."""
    was_session = connection.state is not State.DIALING
    if not was_session:
        lane.host.dial_over(connection)
    begin_closing(lane, connection, reason)
    now = trio.current_time()
    for lease in lane.matcher.end_all(connection):
        lane.emit(events.LeaseEnded, connection, lease.context, used=now - lease.since)
    if lane.stateful and was_session and reason != "shutdown" and lane.refusal is None:
        lane.note_loss(connection)
    if connection.owner is not None:
        connection.owner.close(now + lane.policy.close_timeout if by is None else by)
    else:
        remove(lane, connection)


def remove(lane: LaneState, connection: Connection) -> None:
    """The connection is really gone: it stops counting."""
    failed = connection.end_reason == "failed"
    connection.move(State.FAILED if failed else State.CLOSED)
    del lane.connections[connection]
    lane.leaving -= 1
    lane.replacement.forget(connection)
    counts = lane.shared.counts
    if failed:
        counts.connects_failed += 1
    else:
        name = f"closed_{connection.end_reason}"
        setattr(counts, name, getattr(counts, name) + 1)
    lane.recount(connection, None)
    lane.count_limit()
    link = connection.link
    lane.emit(
        events.SessionClosed,
        connection,
        reason=connection.end_reason,
        age=lane.age(connection),
        seconds=trio.current_time() - connection.closing_since,
        exit_status=link.exit_status,
        killed=tuple(link.killed),
        left_behind=tuple(link.left_behind),
    )
    lane.host.connection_moved(connection)
