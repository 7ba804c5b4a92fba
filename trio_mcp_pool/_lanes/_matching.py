"""Matching: who gets which session, and what must be dialled so that everybody gets one (R4, R6, R9).

It runs at the end of each step that may have changed the answer. First the waiters are served with what is free. For those
that remain dials are started, as many as they, `min_sessions` and the sessions that are being replaced want, and no more than
there is room for. Only then are suspect sessions lent, and only where no dial is under way. Whoever cannot be served at all
is told so.
"""

from __future__ import annotations

import trio

from .. import _events as events
from .._connection._record import Connection, DialPurpose
from .._errors import ConnectError
from . import _ending as ending
from . import _suspicion as suspicion
from . import _waiting as waiting
from ._host import step
from ._lease import Lease, Waiter
from ._state import LaneState


def match(lane: LaneState) -> None:
    """Serve waiters, start the dials that they and the policy want, and fail those that nothing can serve."""
    matcher = lane.matcher
    while (waiter := matcher.first_waiter()) is not None:
        if (error := lane.take_notice()) is not None:
            waiting.fail_waiter(lane, waiter, error)
            continue
        connection = matcher.best()
        if connection is None:
            break
        hand_over(lane, waiter, connection)
    if lane.watchers and lane.ready:
        watchers, lane.watchers = lane.watchers, {}
        for watcher in watchers:
            watcher.resolve(True)
    blocked = False
    if lane.refusal is None:
        blocked = plan_dials(lane)
        while (waiter := matcher.first_waiter()) is not None:
            suspect = suspect_as_last_resort(lane)
            if suspect is None:
                break
            hand_over(lane, waiter, suspect)
        if (
            (matcher.waiters or lane.watchers)
            and lane.policy.when_unavailable == "fail"
            and lane.shared.health.in_backoff
            and not lane.can_still_serve()
        ):
            waiting.fail_waiters(lane, lane.shared.health.unavailable())
    if blocked or matcher.waiters or lane.watchers:
        lane.shared.unserved[lane] = None
    else:
        lane.shared.unserved.pop(lane, None)
    if lane.empty:
        lane.host.lane_is_empty(lane)


def hand_over(lane: LaneState, waiter: Waiter, connection: Connection) -> None:
    """Give a waiter a lease on this connection."""
    lease = lane.matcher.hand_over(waiter, connection)
    if lane.host.attentive:
        lease_started(lane, lease, lease.since - waiter.since, queued=True)


def plan_dials(lane: LaneState) -> bool:
    """Start the dials that are wanted and allowed. Returns whether the server's backoff forbids some."""
    policy, health = lane.policy, lane.shared.health
    if health.in_backoff and lane.queued and policy.when_unavailable == "fail":
        withdraw_dials(lane, health.unavailable())
    # While sessions overlap, a new one may serve nobody, because the old ones hold all leases that there may be.
    servable = min(len(lane.matcher.waiters), max(0, lane.matcher.places - lane.matcher.leases))
    demand = -(-servable // policy.max_in_flight) - lane.dialing
    if lane.watchers and not lane.ready:
        demand = max(demand, 1 - lane.dialing)
    kept = policy.min_sessions - lane.dialing - lane.ready
    successors = lane.replacement.successors_wanted() - lane.dialing
    wanted = max(demand, kept, successors)
    if wanted <= 0:
        return False
    if health.in_backoff:
        lane.host.wake_at(lane.shared, health.retry_at)
        return True
    room = lane.room()
    if room <= 0 < successors and lane.ready > 1:
        end_idle_outdated(lane)
    for number in range(min(wanted, room)):
        dial(lane, "demand" if number < demand else "min_sessions" if number < kept else "replacement")
    return False


def next_to_end(lane: LaneState) -> Connection | None:
    """The outdated session that drains when a successor is ready."""
    return lane.matcher.least_used_outdated() or lane.replacement.first()


def end_idle_outdated(lane: LaneState) -> None:
    """Where there is no room for a successor, an idle outdated session ends first, while another one can be lent."""
    if len(lane.connections) > lane.ready:
        return  # a place will be free without that: one drains or closes, or a successor is being dialled already
    predecessor = next_to_end(lane)
    if predecessor is not None and not predecessor.leases:
        ending.close(lane, predecessor, predecessor.drain_reason)


def dial(lane: LaneState, purpose: DialPurpose) -> None:
    """Have a connection dialled, when its turn comes."""
    connection = Connection(lane.host.next_number(), lane.name, lane.scope, lane.server, lane.policy, lane, purpose)
    connection.caller_observer = lane.host.caller_observer
    link = connection.link
    link.scope, link.number, link.callbacks = lane.scope, connection.number, lane.host.callbacks_for(lane.key)
    lane.connections[connection] = None
    lane.queued[connection] = None
    lane.dialing += 1
    lane.shared.counts.connects += 1
    lane.recount(connection, "connecting")
    lane.emit(events.DialStarted, connection)
    lane.host.queue_dial(connection, lane.shared)


def withdraw_dials(lane: LaneState, error: ConnectError) -> None:
    """Dials that have not started do not start: their server is in backoff (R5), or there is no place for them (R10b)."""
    for connection in list(lane.queued):
        lane.host.dial_over(connection)
        ending.begin_closing(lane, connection, "failed")
        lane.emit(events.DialFailed, connection, error=error, seconds=0.0)
        ending.remove(lane, connection)


def suspect_as_last_resort(lane: LaneState) -> Connection | None:
    """The suspect session to lend, where there is no other; it is probed at once (R4)."""
    connection = lane.matcher.best_suspect()
    if connection is None:
        return None
    if suspicion.was_heard(connection):
        lane.clear_suspicion(connection)
        return connection
    if lane.dialing or (lane.room() > 0 and not lane.shared.health.in_backoff):
        return None
    connection.probe_wanted = True
    if connection.owner is not None:
        connection.owner.wake_at(trio.current_time())
    return connection


@step
def lease_started(lane: LaneState, lease: Lease, waited: float, *, queued: bool) -> None:
    """Tell of a lease that was given."""
    lane.host.idle_changed(lease.connection)
    if lane.host.observed and lease.task is not None:
        # A copy now: when the lease ends, its task may have set other values, or do another caller's job.
        lease.context = lease.task.context.copy()
    lane.emit(events.LeaseStarted, lease.connection, lease.context, waited=waited, queued=queued)
