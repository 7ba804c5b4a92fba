"""How callers wait in a lane: in its queue for a lease (R6), or beside it for any session to be ready.

A caller waits only where waiting can end. So before it is queued it is told what stands in the way: it would wait for
itself (R4), the server is in backoff (R5), no place can become free (R10b), or too many wait already. A caller that leaves
the queue, cancelled or out of time, leaves no trace but a count; if it was given a lease in that same moment, the lease is
given back.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Literal

import trio
from trio.lowlevel import enable_ki_protection

from .. import _events as events
from .._errors import AcquireTimeoutError, PoolError, TooManyWaitersError
from .._servers import CustomServer
from ._deadlock import held_for_ever
from ._host import step
from ._lease import Lease, Waiter
from ._state import LaneState


@enable_ki_protection
async def wait(lane: LaneState, in_block: bool) -> Lease:
    """Queue for a lease that `try_acquire` did not give in this same step."""
    observer = lane.host.caller_observer
    if observer is None:
        return await _wait(lane, in_block)
    since = trio.current_time()
    error: BaseException | None = None
    try:
        return await _wait(lane, in_block)
    except BaseException as exc:
        error = exc
        raise
    finally:
        observer.waited(lane.name, trio.current_time() - since, error)
        del error  # the traceback holds this frame, and the frame must not hold the error


@enable_ki_protection
async def _wait(lane: LaneState, in_block: bool) -> Lease:
    waiter = Waiter(in_block)
    enqueue(lane, waiter)
    timeout = lane.policy.acquire_timeout
    try:
        with trio.move_on_after(timeout) if timeout < math.inf else nullcontext():
            await park(lane, waiter)
    except BaseException:
        left_queue(lane, waiter, "cancelled")
        raise
    result = waiter.result
    if isinstance(result, Lease):
        return result
    error = result if isinstance(result, PoolError) else timed_out(lane, waiter, timeout)
    try:
        raise error
    finally:
        del error, result, waiter  # the traceback holds this frame, and the frame must not hold the error


@enable_ki_protection
async def wait_ready(lane: LaneState) -> None:
    """Wait until a session lives, free or not, dialling one if need be. Checkpoints. Takes no lease.

    Raises what `acquire` raises of a failed dial, of a server in backoff, and of a closed pool.
    """
    waiter = Waiter(in_block=False)
    watch(lane, waiter)
    await park(lane, waiter)
    error = waiter.result
    if isinstance(error, PoolError):
        try:
            raise error
        finally:
            del error, waiter


@enable_ki_protection
async def park(lane: LaneState, waiter: Waiter) -> None:
    """Sleep until the waiter has its result."""
    if waiter.result is not None:
        # It came while the observers were called.
        await trio.lowlevel.cancel_shielded_checkpoint()
        return

    def abort(_: object) -> trio.lowlevel.Abort:
        lane.matcher.remove_waiter(waiter)
        lane.watchers.pop(waiter, None)
        return trio.lowlevel.Abort.SUCCEEDED

    waiter.parked = True
    await trio.lowlevel.wait_task_rescheduled(abort)


@step
def enqueue(lane: LaneState, waiter: Waiter) -> None:
    """Queue a caller, and serve it in the same step if that is possible."""
    check_can_wait(lane, waiter)
    lane.register()
    position = lane.host.event_position()
    lane.matcher.add_waiter(waiter)
    if not lane.will_be_served_by_dials():
        lane.match()
    most = lane.policy.max_waiting
    beyond = len(lane.matcher.waiters) - lane.dialing * lane.policy.max_in_flight
    if most is not None and waiter.result is None and beyond > most:
        lane.matcher.remove_waiter(waiter)
        lane.host.rematch(lane)
        reject(
            lane,
            TooManyWaitersError(
                f"{most} callers wait for server {lane.name!r} already (max_waiting)",
                server=lane.name,
                statistics=lane.host.statistics(),
            ),
        )
    if lane.host.observed:
        started = events.WaitStarted(at=waiter.since, server=lane.name, scope=lane.scope)
        lane.host.emit_before(position, events.of_caller(started, waiter.task.context.copy()))


@step
def watch(lane: LaneState, waiter: Waiter) -> None:
    """Keep a task that waits for any session to be ready."""
    if lane.refusal is not None:
        raise lane.refusal._fresh()
    lane.register()
    lane.watchers[waiter] = None
    lane.host.rematch(lane)


def check_can_wait(lane: LaneState, waiter: Waiter) -> None:
    """Raise where waiting would be useless. Nothing has been changed yet."""
    places_left = lane.matcher.leases < lane.matcher.places
    if lane.room() <= 0 or not places_left:
        held = held_for_ever(waiter.task, lane.connections, lane.policy.max_in_flight, places_left)
        if held and not (isinstance(lane.server, CustomServer) and not own_blocks_only(lane, waiter.task)):
            raise RuntimeError(
                f"this task already holds every session of server {lane.name!r} that there can be ({held} lease(s)), "
                "so it would wait for itself; release one first, or raise max_sessions or max_in_flight"
            )
    check_available(lane)


def own_blocks_only(lane: LaneState, task: trio.lowlevel.Task) -> bool:
    """Whether every lease belongs to a `session` block of this task."""
    return all(
        isinstance(lease, Lease) and lease.in_block and lease.task is task
        for connection in lane.connections
        for lease in connection.leases
    )


def check_available(lane: LaneState) -> None:
    """Raise where no session can be had now, and the policy says that callers do not wait for one."""
    if lane.can_still_serve():
        return
    if lane.shared.health.in_backoff and lane.policy.when_unavailable == "fail":
        reject(lane, lane.shared.health.unavailable())
    if lane.host.all_places_scoped(len(lane.connections)):
        reject(lane, no_place_error(lane))


def no_place_error(lane: LaneState) -> TooManyWaitersError:
    """Scopes hold all places that the pool has."""
    return TooManyWaitersError(
        f"no session of server {lane.name!r} can be opened: scopes of open_scope hold all places (max_sessions_total); "
        "close one of them, or raise max_sessions_total",
        server=lane.name,
        statistics=lane.host.statistics(),
    )


@step
def left_queue(lane: LaneState, waiter: Waiter, reason: Literal["cancelled", "timed out"]) -> None:
    """A waiter has left the queue: it was cancelled, or its time was over."""
    lane.host.rematch(lane)
    if isinstance(waiter.result, Lease):
        lane.release(waiter.result)
    elif waiter.result is None:
        waited = trio.current_time() - waiter.since
        counts = lane.shared.counts
        counts.acquire_wait_seconds += waited
        if reason == "cancelled":
            counts.acquires_cancelled += 1
        else:
            counts.acquires_timed_out += 1
        emit_failed(lane, waiter.task, reason, waited, queued=True)


def timed_out(lane: LaneState, waiter: Waiter, timeout: float) -> AcquireTimeoutError:
    """The time of a waiter is over: take it out of the queue. Returns its error."""
    left_queue(lane, waiter, "timed out")
    error = AcquireTimeoutError(
        f"no session of server {lane.name!r} was free within acquire_timeout ({timeout:g} s)", server=lane.name
    )
    error.__cause__ = lane.shared.health.error
    return error


def fail_waiters(lane: LaneState, error: PoolError) -> None:
    """Give all that wait this error."""
    while (waiter := lane.matcher.first_waiter()) is not None:
        fail_waiter(lane, waiter, error._fresh())
    watchers, lane.watchers = lane.watchers, {}
    for watcher in watchers:
        watcher.resolve(error._fresh())


def fail_waiter(lane: LaneState, waiter: Waiter, error: PoolError) -> None:
    """Give one that waits this error."""
    waited = lane.matcher.fail_waiter(waiter, error)
    emit_failed(lane, waiter.task, "rejected", waited, queued=True)


@step
def raise_refusal(lane: LaneState) -> None:
    """Raise what a caller must be told before it gets a lease: that there are none, or that its state is lost."""
    if lane.refusal is not None:
        reject(lane, lane.refusal._fresh())
    if (error := lane.take_notice()) is not None:
        try:
            reject(lane, error)
        finally:
            del error  # as in `reject`


def reject(lane: LaneState, error: PoolError) -> None:
    """Count and raise it."""
    lane.shared.counts.acquires_rejected += 1
    emit_failed(lane, trio.lowlevel.current_task(), "rejected", 0.0, queued=False)
    try:
        raise error
    finally:
        del error  # the traceback holds this frame, and the frame must not hold the error


def emit_failed(
    lane: LaneState,
    caller: trio.lowlevel.Task,
    reason: Literal["cancelled", "timed out", "rejected"],
    waited: float,
    *,
    queued: bool,
) -> None:
    if lane.host.observed:
        failed = events.AcquireFailed(
            at=trio.current_time(),
            server=lane.name,
            scope=lane.scope,
            reason=reason,
            waited=waited,
            queued=queued,
        )
        lane.host.emit(events.of_caller(failed, caller.context.copy()))
