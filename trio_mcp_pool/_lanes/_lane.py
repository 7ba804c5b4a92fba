"""The lane: what can happen to the sessions of one server and scope.

A lane holds all connections of one key and has a matcher, which holds its waiters. Things happen to it: a caller acquires,
leaves the queue or releases; a dial succeeds or fails; a session dies, is idle, grows too old; the server is drained, the
pool closes. Each of these is one synchronous step, and each is one method here. A step changes the records and says what has
to be matched again; the matching, and all that follows from it, comes at the end of the step (`_host.py`). Nothing inside a
step awaits, so that no lock is needed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, Final, Literal, final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _events as events
from .._connection._record import Connection, DialPurpose, EndReason, Phase
from .._connection._states import State
from .._errors import AcquireTimeoutError, ConnectError, PoolError, SessionLostError, TooManyWaitersError
from .._events import CloseReason
from .._policy import PoolPolicy
from .._servers import CustomServer, Server
from .._wire._link import Call
from . import _suspicion as suspicion
from ._deadlock import held_for_ever, waits_for_itself
from ._host import Host, Shared, step
from ._lease import Lease, Waiter
from ._matcher import Matcher
from ._replacement import RECENTLY, Replacement

_READY, _DIALING, _DRAINING, _CLOSING = State.READY, State.DIALING, State.DRAINING, State.CLOSING
# `max_lifetime` is shortened by up to this share.
_LIFETIME_JITTER: Final = 0.05


@final
class Lane:
    """All connections and all waiters of one server and scope."""

    def __init__(
        self, host: Host, shared: Shared, scope: Hashable, server: Server, policy: PoolPolicy, *, stateful: bool = False
    ) -> None:
        self.host = host
        self.shared = shared
        self.name: str = shared.name
        self.scope = scope
        self.server: Server = server
        self.policy: PoolPolicy = policy
        self.stateful = stateful
        """Whether the next caller gets an error after the end of a session, because the session may have held state."""
        self.key: Hashable = scope
        """Under what the lane stands in `shared.lanes`."""
        self.matcher: Matcher = Matcher(self, policy, shared.counts)
        self.replacement: Replacement = Replacement()
        self.connections: dict[Connection, None] = {}
        self.queued: dict[Connection, None] = {}
        """Dials that wait for their turn."""
        self.watchers: dict[Waiter, None] = {}
        """Tasks that wait for a session to be ready, without a lease of their own."""
        self.dialing: int = 0
        self.ready: int = 0
        self.leaving: int = 0
        self.limit: int = 0
        """`max_sessions` as it is counted: after a change to fewer, what was allowed before until it has gone."""
        self.used_at: float = -math.inf
        self.refusal: PoolError | None = None
        """Why no lease is given any more."""
        self.notice: SessionLostError | None = None
        """The error that the next caller gets (R8: it is about one connection, whose loss it reports)."""
        self._notice_of: Connection | None = None

    def __repr__(self) -> str:
        return f"<Lane of {self.name!r}: {len(self.connections)} connections, {len(self.matcher.waiters)} waiters>"

    @property
    def empty(self) -> bool:
        """Whether the lane may be forgotten."""
        return not self.connections and not self.matcher.waiters and not self.watchers

    # Acquire, leave the queue, release.

    @enable_ki_protection
    def try_acquire(self, in_block: bool = False) -> Lease | None:
        """A lease at once, or `None` if it would take a wait or a dial. Raises the error that a caller must get first."""
        if self.refusal is not None or self.notice is not None:
            self._raise_refusal()
        matcher = self.matcher
        if matcher.waiters:
            return None
        connection = matcher.best()
        if connection is None and (connection := self._suspect_as_last_resort()) is None:
            return None
        lease = matcher.lend(connection, trio.lowlevel.current_task(), in_block)
        if self.host.attentive:
            self._lease_started(connection, 0.0, queued=False)
        return lease

    @enable_ki_protection
    async def acquire(self, in_block: bool = False) -> Lease:
        """A lease, waited for if need be."""
        await trio.lowlevel.checkpoint_if_cancelled()
        lease = self.try_acquire(in_block)
        if lease is None:
            return await self.wait(in_block)
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except BaseException:
            self.release(lease)
            raise
        return lease

    @enable_ki_protection
    async def wait(self, in_block: bool = False) -> Lease:
        """Queue for a lease that `try_acquire` did not give in this same step."""
        waiter = Waiter(in_block)
        self._enqueue(waiter)
        timeout = self.policy.acquire_timeout
        try:
            with trio.move_on_after(timeout) if timeout < math.inf else nullcontext():
                await self._park(waiter)
        except BaseException:
            self._left_queue(waiter, "cancelled")
            raise
        result = waiter.result
        if isinstance(result, Lease):
            return result
        error = result if isinstance(result, PoolError) else self._timed_out(waiter, timeout)
        try:
            raise error
        finally:
            del error, result, waiter  # the traceback holds this frame, and the frame must not hold the error

    @enable_ki_protection
    async def wait_ready(self) -> None:
        """Wait until a session lives, free or not, dialling one if need be. Checkpoints. Takes no lease.

        Raises what `acquire` raises of a failed dial, of a server in backoff, and of a closed pool.
        """
        if self.refusal is not None:
            raise self.refusal._fresh()
        if self.ready:
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = Waiter(lease_wanted=False)
        self._watch(waiter)
        try:
            await self._park(waiter)
        except BaseException:
            self._left_queue(waiter, None)
            raise
        error = waiter.result
        if isinstance(error, PoolError):
            try:
                raise error
            finally:
                del error, waiter

    @enable_ki_protection
    async def _park(self, waiter: Waiter) -> None:
        """Sleep until the waiter has its result."""
        if waiter.result is not None:
            # It came while the observers were called.
            await trio.lowlevel.cancel_shielded_checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self.matcher.remove_waiter(waiter)
            self.watchers.pop(waiter, None)
            return trio.lowlevel.Abort.SUCCEEDED

        waiter.parked = True
        await trio.lowlevel.wait_task_rescheduled(abort)

    @enable_ki_protection
    def release(self, lease: Lease) -> None:
        """End a lease. Idempotent, and without effect on a connection that is no longer live."""
        if lease.ended:
            return
        lease.ended = True
        connection = lease.connection
        if lease not in connection.leases:
            return
        last = self.matcher.end(lease)
        if not self.matcher.waiters and not self.host.attentive:
            if not last:
                return
            if (
                connection.state is _READY
                and not connection.outdated
                and len(self.connections) <= self.policy.max_sessions
            ):
                # The usual case: there are no waiters and no observers. The owner's timer is early as a rule, so that it
                # need not be moved.
                self.shared.counts.last_release()
                connection.counted = "idle"
                connection.idle_since = self.used_at = connection.used_at
                owner = connection.owner
                if owner is not None and owner.next_check_at > connection.used_at + self.policy.idle_timeout:
                    owner.wake_at(self.next_check_at(connection))
                return
        self._released(lease, last)

    @step
    def _released(self, lease: Lease, last: bool) -> None:
        connection = lease.connection
        self._emit(events.LeaseEnded, connection, used=connection.used_at - lease.since)
        if last:
            self.used_at = connection.idle_since = connection.used_at
            self._no_lease_left(connection)
        self.host.rematch(self)

    def _no_lease_left(self, connection: Connection) -> None:
        if connection.state is not _READY:
            self._close(connection, connection.drain_reason)
        elif self._is_beyond_limit():
            self._close(connection, "drained")  # the surplus after a change to fewer sessions
        elif connection.outdated and (self.replacement.failures or self.host.is_full()):
            self._close(connection, connection.drain_reason)
        else:
            self._recount(connection, "idle")
            if connection.owner is not None:
                connection.owner.wake_at(self.next_check_at(connection))

    # What owners report: see `Listener` in `_connection/_record.py`.

    @step
    def dialled(self, connection: Connection) -> None:
        """A session is ready."""
        if connection.state is not _DIALING:
            return
        self.host.dial_over(connection)
        self._move(connection, _READY)
        self._recount(connection, "idle")
        now = connection.ready_at = connection.idle_since = trio.current_time()
        lifetime = self.policy.max_lifetime
        connection.retire_at = now + lifetime * (1 - _LIFETIME_JITTER * random.random())
        took = now - connection.dial_started_at
        self.shared.counts.connect_seconds += took
        self.replacement.succeeded()
        predecessor = self._next_to_end()
        self._emit(events.SessionOpened, connection, seconds=took, pid=connection.link.pid)
        if connection.replace_when_ready:
            connection.used_at = self.used_at
            self._replace(connection, connection.drain_reason, connection.drain_by)
        if predecessor is not None:
            patience = self.policy.drain_timeout if predecessor.drain_reason == "broken" else math.inf
            self._retire(predecessor, predecessor.drain_reason, min(predecessor.drain_by, now + patience))
        self.matcher.place(connection)
        if self.ready == self.policy.min_sessions + 1 > 1:
            # One that was kept for `min_sessions` may now be surplus.
            for other in self.connections:
                if other.owner is not None and other.state is _READY:
                    other.owner.wake_at(self.next_check_at(other))
        self.host.rematch(self)

    @step
    def dial_failed(self, connection: Connection, error: ConnectError, cause: BaseException | None) -> None:
        """A dial has failed."""
        if connection.state is not _DIALING:
            return
        self.host.dial_over(connection)
        now = trio.current_time()
        self._begin_closing(connection, "failed")
        if connection.owner is not None:
            connection.owner.bound_cleanup(now + self.policy.close_timeout)
        self._dial_failure(connection, error, cause)
        self._emit(events.DialFailed, connection, error=error, seconds=now - connection.dial_started_at)
        if self.policy.when_unavailable == "fail" and not self._can_still_serve():
            self._fail_waiters(error)
        self.host.rematch(self)

    def _dial_failure(self, connection: Connection, error: ConnectError, cause: BaseException | None) -> None:
        error.__cause__ = cause
        outdated = self.replacement.outdated
        # A successor's failure counts against nobody while a predecessor lives. That of a dial for callers or `min_sessions`
        # does, or the lane would dial again at once.
        is_successor = bool(outdated) and connection.purpose == "replacement"
        if is_successor:
            self.replacement.failed(self.policy.backoff)
            error.attempt = self.replacement.failures
            error.retry_after = self.replacement.retry_at - trio.current_time()
        elif self.shared.health.failed(connection.dial_mark, error, cause, self.policy.backoff):
            self._rematch_unserved()
        for predecessor in list(outdated):
            if predecessor.drain_reason == "broken":
                self.replacement.keep(predecessor)  # the handshake beside it has decided: it stays (R11)
                self.matcher.place(predecessor)
            elif not is_successor:
                pass
            elif not predecessor.leases:
                self._close(predecessor, predecessor.drain_reason)
            elif predecessor.owner is not None:
                predecessor.owner.wake_at(self.next_check_at(predecessor))

    @step
    def dial_overdue(self, connection: Connection) -> None:
        """A dial was still under way when the time of a drain was over."""
        if connection.state is _DIALING:
            self._close(connection, connection.drain_reason)
            self.host.rematch(self)

    @step
    def died(self, connection: Connection) -> None:
        """A session was found dead."""
        if connection.state is not _READY and connection.state is not _DRAINING:
            return
        link, backoff = connection.link, self.policy.backoff
        self.shared.counts.sessions_lost += 1
        cause = link.lost_cause
        reason = link.mask(str(cause)) if cause is not None else "end of stream"
        self._emit(events.SessionDied, connection, reason=reason)
        self.matcher.remove(connection)
        self._move(connection, State.BROKEN)
        if not connection.has_answered:
            age = trio.current_time() - connection.ready_at
            if age >= backoff.cap:
                if self.shared.health.failures and not self.shared.health.in_backoff:
                    self.shared.health.proved()
            else:
                error = ConnectError(
                    f"the session of server {self.name!r} died {age:.3g} s after its handshake, before it "
                    f"had answered a call: {reason}",
                    server=self.name,
                    phase="handshake",
                    exit_status=link.exit_status,
                    stderr_tail=link.stderr_tail,
                )
                if self.shared.health.failed(connection.dial_mark, error, None, backoff):
                    self._rematch_unserved()
        self._close(connection, "broken")
        self.host.rematch(self)

    @step
    def answered(self, connection: Connection) -> None:
        """The server has answered a caller: for the first time, or while the session was suspect."""
        if suspicion.is_suspect(connection):
            self._clear_suspicion(connection)
        if not connection.has_answered:
            connection.has_answered = True
            failed = self.shared.health.failures
            self.shared.health.proved()
            if failed:
                self._rematch_unserved()
                self.host.rematch(self)

    @step
    def suspect(self, connection: Connection, call: Call) -> None:
        """A call was cancelled or timed out: the session is suspect until something is heard of the server."""
        if connection.state is _READY and not suspicion.is_suspect(connection):
            suspicion.suspect(connection, call)
            self.matcher.place(connection)
            assert connection.owner is not None
            connection.owner.wake_at(suspicion.probe_due_at(connection))

    @step
    def undecided(self, connection: Connection) -> None:
        """The wire cannot tell whether the server still knows the session: a handshake beside it decides (R11)."""
        if connection.state is _READY and not connection.outdated and self.policy.max_overlap:
            connection.drain_reason = "broken"
            self.replacement.add(connection)
            self.matcher.place(connection)
            self.host.rematch(self)

    def next_check_at(self, connection: Connection) -> float:
        """When there will be something to check."""
        if connection.state is not _READY:
            return connection.drain_by
        at = min(connection.retire_at, suspicion.probe_due_at(connection))
        if connection.outdated:
            at = min(at, connection.drain_by)
            if self.replacement.retry_at > trio.current_time():
                at = min(at, self.replacement.retry_at)
        if not connection.leases:
            if self._is_surplus():
                at = min(at, connection.idle_since + self.policy.idle_timeout)
            if self.policy.probe_interval is not None:
                at = min(at, self._last_sign(connection) + self.policy.probe_interval)
        if self.shared.health.failures and not connection.has_answered:
            at = min(at, connection.ready_at + self.policy.backoff.cap)
        return at

    @step
    def check(self, connection: Connection) -> bool:
        """Act on what is due. Returns whether to probe."""
        now = trio.current_time()
        health = self.shared.health
        self.host.rematch(self)
        if connection.state is not _READY:
            if now >= connection.drain_by:
                self._close(connection, connection.drain_reason)
            return False
        if health.failures and not connection.has_answered and now >= connection.ready_at + self.policy.backoff.cap:
            connection.has_answered = True  # it has lived for long enough, which proves as much
            health.proved()
            self._rematch_unserved()
        if now >= connection.drain_by:
            self._close(connection, connection.drain_reason)
        elif now >= connection.retire_at:
            connection.retire_at = math.inf
            self._replace(connection, "lifetime", math.inf)
        elif not connection.leases and self._is_surplus() and now >= connection.idle_since + self.policy.idle_timeout:
            self._close(connection, "idle")
        elif now >= suspicion.probe_due_at(connection):
            connection.probe_wanted = False
            if not suspicion.was_heard(connection):
                return True
            self._clear_suspicion(connection)
        elif self.policy.probe_interval is not None and not connection.leases:
            return now >= self._last_sign(connection) + self.policy.probe_interval
        return False

    @step
    def probed(self, connection: Connection, alive: bool) -> None:
        """A probe was answered, or was not."""
        if alive:
            connection.probed_at = trio.current_time()
            self._clear_suspicion(connection)
        elif suspicion.failed_probe(connection):
            connection.link.lost(TimeoutError("it did not answer a probe"))
        else:
            self.matcher.place(connection)

    @step
    def closed(self, connection: Connection) -> None:
        """Nothing of a connection is left."""
        self.host.dial_over(connection)
        self._remove(connection)
        self.host.rematch(self)

    # What the pool does to it.

    def register(self) -> None:
        """Count as one of the server's lanes. A lane that was only looked at does not. Idempotent."""
        if self.key not in self.shared.lanes:
            self.shared.lanes[self.key] = self
            self.shared.counts.min_sessions += self.policy.min_sessions
            self._count_limit()

    def unregister(self) -> None:
        """The lane is empty and is forgotten."""
        del self.shared.lanes[self.key]
        self.shared.unserved.pop(self, None)
        self.shared.counts.min_sessions -= self.policy.min_sessions
        self.shared.counts.max_sessions -= self.limit
        self.limit = 0

    def start(self, connection: Connection) -> None:
        """The dial's turn has come: its owner is being started."""
        self.queued.pop(connection, None)
        connection.dial_mark = self.shared.health.next_mark()
        connection.link.attempt = self.shared.health.failures + 1
        connection.dial_started_at = trio.current_time()

    @step
    def tick(self) -> None:
        """Match again, although nothing happened in this lane."""
        self.host.rematch(self)

    @step
    def change(self, server: Server, policy: PoolPolicy) -> None:
        """From now on dial another server, by another policy. What stands of the old one is for `replace_all` to end."""
        self.server = server
        for connection in self.queued:
            connection.server = server
        self.change_policy(policy)

    @step
    def change_policy(self, policy: PoolPolicy) -> None:
        """From now on keep the sessions by another policy."""
        before, self.policy = self.policy, policy
        if self.key in self.shared.lanes:
            self.shared.counts.min_sessions += policy.min_sessions - before.min_sessions
        self.matcher.change(policy, self.connections)
        self._count_limit()
        for connection in list(self.connections):
            connection.policy = policy
            link = connection.link
            link.close_timeout, link.write_timeout = policy.close_timeout, policy.write_timeout
            link.probe_timeout = policy.probe_timeout
            if connection.state is not _READY:
                continue
            connection.retire_at = connection.ready_at + policy.max_lifetime
            if not connection.leases and self._is_beyond_limit():
                self._close(connection, "drained")
            elif connection.owner is not None:
                connection.owner.wake_at(self.next_check_at(connection))
        self.host.rematch(self)

    @step
    def replace_all(self, timeout: float, *, changed: bool) -> list[Connection]:
        """Replace all connections; what runs on them has `timeout` seconds from now. Returns the old ones.

        `changed`: the server is another one now, so dials that are under way are of no use.
        """
        by = trio.current_time() + timeout
        old = [connection for connection in self.connections if connection not in self.queued]
        for connection in old:
            if connection.state is _DIALING:
                if changed or not self.replacement.overlapping:
                    self._close(connection, "drained")
                else:
                    # It is the successor that an earlier drain has dialled: it is not aborted, but replaced.
                    connection.replace_when_ready = True
                    connection.drain_by = min(connection.drain_by, by)
                    assert connection.owner is not None
                    connection.owner.bound_dial(by)
            elif connection.state is _READY:
                self._replace(connection, "drained", by)
            elif connection.state is _DRAINING:
                self._retire(connection, connection.drain_reason, by)
        self.host.rematch(self)
        return old

    @step
    def retire_all(self, timeout: float, reason: CloseReason) -> list[Connection]:
        """End all connections without a successor: no new leases, running ones have `timeout` seconds. Returns them."""
        by = trio.current_time() + timeout
        old = list(self.connections)
        for connection in old:
            if connection.state is _DIALING:
                self._close(connection, reason)
            elif connection.state in (_READY, _DRAINING):
                connection.drain_reason = reason
                self._retire(connection, reason, by)
        self.host.rematch(self)
        return old

    @step
    def refuse(self, error: PoolError) -> None:
        """Give no more leases, and fail the waiters."""
        self.refusal = error
        self._count_limit()
        self._fail_waiters(error)

    @step
    def end_leases(self, task: trio.lowlevel.Task) -> None:
        """End the leases that a task holds and that no other task can release (R2)."""
        for connection in list(self.connections):
            for lease in list(connection.leases):
                if isinstance(lease, Lease) and lease.task is task and (lease.in_block or not lease.shared):
                    self.release(lease)

    @step
    def close(self, reason: CloseReason, by: float) -> None:
        """Close all connections, whatever runs on them, by the given time."""
        for connection in list(self.connections):
            if connection.state is _CLOSING:
                if connection.owner is not None:
                    connection.owner.bound_cleanup(by)
            else:
                self._close(connection, reason, by)

    @step
    def make_room(self, connection: Connection) -> None:
        """Close a session, or take no new leases on it, because another lane needs its place (R10b)."""
        if connection.state is _READY:
            self._retire(connection, "idle", math.inf)
            self.host.rematch(self)

    @step
    def no_place_left(self) -> None:
        """Sessions of `open_scope` hold all places: fail the callers whose dials wait for one (R10b)."""
        if self.ready or self.dialing > len(self.queued):
            return
        self._withdraw_dials(ConnectError("there was no place for it (max_sessions_total)", server=self.name))
        self._fail_waiters(self._no_place_error())

    def pins(self, task: trio.lowlevel.Task) -> bool:
        """Whether a wait of this task, without a deadline, for all connections to go could never end (R4)."""
        return self.policy.drain_timeout == math.inf and waits_for_itself(task, self.connections)

    def clear_notice(self, connection: Connection) -> None:
        """The loss of this connection has been reported to a caller; that of another one has not (R8)."""
        if self._notice_of is connection:
            self.notice = self._notice_of = None

    def gauges(self) -> dict[str, int]:
        """How things stand, read off the collections; for tests, which compare it with what was counted."""
        phases = [connection.counted for connection in self.connections]
        return {
            "size": len(phases),
            "sessions_idle": phases.count("idle"),
            "sessions_in_use": phases.count("in_use"),
            "sessions_connecting": phases.count("connecting"),
            "sessions_closing": phases.count("closing"),
            "tasks_waiting_acquire": len(self.matcher.waiters),
            "leases_in_flight": sum(len(connection.leases) for connection in self.connections),
        }

    # Matching. It runs at the end of a step.

    def match(self) -> None:
        """Serve waiters, start the dials that they and the policy want, and fail those that nothing can serve."""
        matcher = self.matcher
        while (waiter := matcher.first_waiter()) is not None:
            if self.notice is not None:
                error, self.notice, self._notice_of = self.notice, None, None
                self._fail_waiter(waiter, error)
                continue
            connection = matcher.best()
            if connection is None:
                break
            self._hand_over(waiter, connection)
        if self.watchers and self.ready:
            watchers, self.watchers = self.watchers, {}
            for watcher in watchers:
                watcher.resolve(True)
        blocked = False
        if self.refusal is None:
            blocked = self._plan_dials()
            while (waiter := matcher.first_waiter()) is not None:
                suspect = self._suspect_as_last_resort()
                if suspect is None:
                    break
                self._hand_over(waiter, suspect)
            if (
                (matcher.waiters or self.watchers)
                and self.policy.when_unavailable == "fail"
                and self.shared.health.in_backoff
                and not self._can_still_serve()
            ):
                self._fail_waiters(self.shared.health.unavailable())
        if blocked or matcher.waiters or self.watchers:
            self.shared.unserved[self] = None
        else:
            self.shared.unserved.pop(self, None)
        if self.empty:
            self.host.lane_is_empty(self)

    def _hand_over(self, waiter: Waiter, connection: Connection) -> None:
        lease = self.matcher.hand_over(waiter, connection)
        if self.host.attentive:
            self._lease_started(connection, lease.since - waiter.since, queued=True)

    def _plan_dials(self) -> bool:
        """Start the dials that are wanted and allowed. Returns whether more are wanted than can be had now."""
        policy, health = self.policy, self.shared.health
        if health.in_backoff and self.queued and policy.when_unavailable == "fail":
            self._withdraw_dials(health.unavailable())
        # While sessions overlap, a new one may serve nobody, because the old ones hold all leases that there may be.
        servable = min(len(self.matcher.waiters), max(0, self.matcher.places - self.matcher.leases))
        demand = -(-servable // policy.max_in_flight) - self.dialing
        if self.watchers and not self.ready:
            demand = max(demand, 1 - self.dialing)
        kept = policy.min_sessions - self.dialing - self.ready
        successors = self.replacement.successors_wanted() - self.dialing
        wanted = max(demand, kept, successors)
        if wanted <= 0:
            return bool(self.replacement.outdated)
        if health.in_backoff:
            self.host.wake_at(self.shared, health.retry_at)
            return True
        room = self._room()
        if room <= 0 < successors and self.ready > 1:
            self._end_idle_outdated()
        for number in range(min(wanted, room)):
            self._dial("demand" if number < demand else "min_sessions" if number < kept else "replacement")
        return wanted > room

    def _next_to_end(self) -> Connection | None:
        """The outdated session that drains when a successor is ready."""
        return self.matcher.least_used_outdated() or self.replacement.first()

    def _end_idle_outdated(self) -> None:
        """Where there is no room for a successor, an idle outdated session ends first, while another one can be lent."""
        if len(self.connections) > self.ready:
            return  # a place will be free without that: one drains or closes, or a successor is being dialled already
        predecessor = self._next_to_end()
        if predecessor is not None and not predecessor.leases:
            self._close(predecessor, predecessor.drain_reason)

    def _room(self) -> int:
        """How many more connections may exist now (R9)."""
        allowed = self.policy.max_sessions + self.replacement.room(self.policy)
        return allowed - len(self.connections) - self.shared.occupied(self.key)

    def _dial(self, purpose: DialPurpose) -> None:
        connection = Connection(self.host.next_number(), self.name, self.scope, self.server, self.policy, self, purpose)
        connection.link.scope, connection.link.number = self.scope, connection.number
        self.connections[connection] = None
        self.queued[connection] = None
        self.dialing += 1
        self.shared.counts.connects += 1
        self._recount(connection, "connecting")
        self._emit(events.DialStarted, connection)
        self.host.queue_dial(connection, self.shared)

    def _withdraw_dials(self, error: ConnectError) -> None:
        """Dials that have not started do not start: their server is in backoff (R5), or there is no place for them (R10b)."""
        for connection in list(self.queued):
            self.host.dial_over(connection)
            self._begin_closing(connection, "failed")
            self._emit(events.DialFailed, connection, error=error, seconds=0.0)
            self._remove(connection)

    def _suspect_as_last_resort(self) -> Connection | None:
        """The suspect session to lend, where there is no other; it is probed at once (R4)."""
        connection = self.matcher.best_suspect()
        if connection is None:
            return None
        if suspicion.was_heard(connection):
            self._clear_suspicion(connection)
            return connection
        if self.dialing or (self._room() > 0 and not self.shared.health.in_backoff):
            return None
        connection.probe_wanted = True
        if connection.owner is not None:
            connection.owner.wake_at(trio.current_time())
        return connection

    def _can_still_serve(self) -> bool:
        """Whether a waiter may still be served by what the lane has."""
        return self.ready > 0 or self.dialing > 0

    def _rematch_unserved(self) -> None:
        for lane in list(self.shared.unserved):
            self.host.rematch(lane)

    # Waiters.

    @step
    def _enqueue(self, waiter: Waiter) -> None:
        self._check_can_wait(waiter)
        self.register()
        position = self.host.event_position()
        self.matcher.add_waiter(waiter)
        self.match()
        most = self.policy.max_waiting
        beyond = len(self.matcher.waiters) - self.dialing * self.policy.max_in_flight
        if most is not None and waiter.result is None and beyond > most:
            self.matcher.remove_waiter(waiter)
            self.host.rematch(self)
            self._reject(
                TooManyWaitersError(
                    f"{most} callers wait for server {self.name!r} already (max_waiting)",
                    server=self.name,
                    statistics=self.host.statistics(),
                )
            )
        if self.host.observed:
            started = events.WaitStarted(at=waiter.since, server=self.name, scope=self.scope)
            self.host.emit_before(position, started)

    @step
    def _watch(self, waiter: Waiter) -> None:
        self._check_available()
        self.register()
        self.watchers[waiter] = None
        self.host.rematch(self)

    def _check_can_wait(self, waiter: Waiter) -> None:
        """Raise where waiting would be useless. Nothing has been changed yet."""
        places_left = self.matcher.leases < self.matcher.places
        if self._room() <= 0 or not places_left:
            held = held_for_ever(waiter.task, self.connections, self.policy.max_in_flight, places_left)
            if held and not (isinstance(self.server, CustomServer) and not self._own_blocks_only(waiter.task)):
                raise RuntimeError(
                    f"this task already holds every session of server {self.name!r} that there can be ({held} lease(s)), "
                    "so it would wait for itself; release one first, or raise max_sessions or max_in_flight"
                )
        self._check_available()

    def _own_blocks_only(self, task: trio.lowlevel.Task) -> bool:
        return all(
            isinstance(lease, Lease) and lease.in_block and lease.task is task
            for connection in self.connections
            for lease in connection.leases
        )

    def _check_available(self) -> None:
        if self._can_still_serve():
            return
        if self.shared.health.in_backoff and self.policy.when_unavailable == "fail":
            self._reject(self.shared.health.unavailable())
        if self.host.all_places_scoped(len(self.connections)):
            self._reject(self._no_place_error())

    def _no_place_error(self) -> TooManyWaitersError:
        return TooManyWaitersError(
            f"no session of server {self.name!r} can be opened: scopes of open_scope hold all places (max_sessions_total); "
            "close one of them, or raise max_sessions_total",
            server=self.name,
            statistics=self.host.statistics(),
        )

    @step
    def _left_queue(self, waiter: Waiter, reason: Literal["cancelled", "timed out"] | None) -> None:
        """A waiter has left the queue: it was cancelled, or its time was over."""
        self.matcher.remove_waiter(waiter)
        self.watchers.pop(waiter, None)
        self.host.rematch(self)
        if isinstance(waiter.result, Lease):
            self.release(waiter.result)
        elif reason is not None and waiter.result is None:
            waited = trio.current_time() - waiter.since
            counts = self.shared.counts
            counts.acquire_wait_seconds += waited
            if reason == "cancelled":
                counts.acquires_cancelled += 1
            else:
                counts.acquires_timed_out += 1
            self._emit_failed(reason, waited, queued=True)

    def _timed_out(self, waiter: Waiter, timeout: float) -> AcquireTimeoutError:
        self._left_queue(waiter, "timed out")
        error = AcquireTimeoutError(
            f"no session of server {self.name!r} was free within acquire_timeout ({timeout:g} s)", server=self.name
        )
        error.__cause__ = self.shared.health.error
        return error

    def _fail_waiters(self, error: PoolError) -> None:
        while (waiter := self.matcher.first_waiter()) is not None:
            self._fail_waiter(waiter, error._fresh())
        watchers, self.watchers = self.watchers, {}
        for watcher in watchers:
            watcher.resolve(error._fresh())

    def _fail_waiter(self, waiter: Waiter, error: PoolError) -> None:
        waited = self.matcher.fail_waiter(waiter, error)
        self._emit_failed("rejected", waited, queued=True)

    @step
    def _raise_refusal(self) -> None:
        if self.refusal is not None:
            self._reject(self.refusal._fresh())
        if self.notice is not None:
            error, self.notice, self._notice_of = self.notice, None, None
            self._reject(error)

    def _reject(self, error: PoolError) -> None:
        self.shared.counts.acquires_rejected += 1
        self._emit_failed("rejected", 0.0, queued=False)
        try:
            raise error
        finally:
            del error  # the traceback holds this frame, and the frame must not hold the error

    # Connections.

    def _replace(self, connection: Connection, reason: CloseReason, by: float) -> None:
        """Replace a ready session: beside its successor if it is needed, else strictly: close it, then dial (R9)."""
        missed = bool(connection.leases) or (not self.host.is_full() and self._would_be_missed(connection))
        if connection.outdated:
            connection.drain_by = min(connection.drain_by, by)
            connection.drain_reason = reason if by < math.inf else connection.drain_reason
        elif missed and self.policy.max_overlap and not self.stateful and self.refusal is None:
            connection.drain_by, connection.drain_reason = by, reason
            self.replacement.add(connection)
            self.matcher.place(connection)
        else:
            self._retire(connection, reason, by)
            return
        if connection.owner is not None:
            connection.owner.wake_at(by)

    def _would_be_missed(self, connection: Connection) -> bool:
        """Whether callers would have to wait if this idle session was closed before it has a successor."""
        return (
            trio.current_time() - connection.used_at <= RECENTLY
            or self.ready <= self.policy.min_sessions
            or bool(self.matcher.waiters)
        )

    def _retire(self, connection: Connection, reason: CloseReason, by: float) -> None:
        """End a session without cutting what runs on it before `by`."""
        if not connection.leases:
            self._close(connection, reason)
            return
        connection.drain_reason = reason
        connection.drain_by = min(connection.drain_by, by)
        if connection.state is _READY:
            self.matcher.remove(connection)
            self._move(connection, _DRAINING)
        if connection.owner is not None:
            connection.owner.wake_at(connection.drain_by)

    def _move(self, connection: Connection, state: State) -> None:
        if connection.state is _READY:
            self.ready -= 1
            connection.outdated = False
            self.replacement.outdated.pop(connection, None)
            self.host.idle_changed(connection)
        elif connection.state is _DIALING:
            self.dialing -= 1
            self.queued.pop(connection, None)
        connection.move(state)
        if state is _READY:
            self.ready += 1
        elif state is _CLOSING:
            self.leaving += 1

    def _begin_closing(self, connection: Connection, reason: EndReason) -> None:
        self.matcher.remove(connection)
        self._move(connection, _CLOSING)
        connection.end_reason = reason
        connection.closing_since = trio.current_time()
        self._recount(connection, "closing")
        self.host.connection_moved(connection)

    def _close(self, connection: Connection, reason: CloseReason, by: float | None = None) -> None:
        """End a connection now, whatever runs on it."""
        was_session = connection.state is not _DIALING
        if not was_session:
            self.host.dial_over(connection)
        self._begin_closing(connection, reason)
        now = trio.current_time()
        for lease in self.matcher.end_all(connection):
            self._emit(events.LeaseEnded, connection, used=now - lease.since)
        if self.stateful and was_session and reason != "shutdown" and self.refusal is None:
            self._note_loss(connection)
        if connection.owner is not None:
            connection.owner.close(now + self.policy.close_timeout if by is None else by)
        else:
            self._remove(connection)

    def _note_loss(self, connection: Connection) -> None:
        if self.notice is None and self._notice_of is not connection:
            self._notice_of = connection
            self.notice = SessionLostError(
                f"the session that this scope had with server {self.name!r} is gone, and what it remembered with it; "
                "the next call gets a new one",
                server=self.name,
                exit_status=connection.link.exit_status,
                stderr_tail=connection.link.stderr_tail,
            )

    def _remove(self, connection: Connection) -> None:
        """The connection is really gone: it stops counting."""
        failed = connection.end_reason == "failed"
        connection.move(State.FAILED if failed else State.CLOSED)
        del self.connections[connection]
        self.leaving -= 1
        self.replacement.forget(connection)
        counts = self.shared.counts
        if failed:
            counts.connects_failed += 1
        else:
            name = f"closed_{connection.end_reason}"
            setattr(counts, name, getattr(counts, name) + 1)
        self._recount(connection, None)
        self._count_limit()
        link = connection.link
        self._emit(
            events.SessionClosed,
            connection,
            reason=connection.end_reason,
            age=self._age(connection),
            seconds=trio.current_time() - connection.closing_since,
            exit_status=link.exit_status,
            killed=tuple(link.killed),
            left_behind=tuple(link.left_behind),
        )
        self.host.connection_moved(connection)

    def _clear_suspicion(self, connection: Connection) -> None:
        suspicion.clear(connection)
        self.matcher.place(connection)
        self.host.rematch(self)

    def _is_surplus(self) -> bool:
        """Whether a ready session may be closed without falling below `min_sessions`."""
        least = self.policy.min_sessions
        return least == 0 or self.ready > least

    def _is_beyond_limit(self) -> bool:
        """Whether there are more sessions than the policy allows, because it allowed more before."""
        standing = len(self.connections) - self.leaving - self.replacement.overlapping
        return standing > self.policy.max_sessions

    def _age(self, connection: Connection) -> float:
        return max(0.0, min(connection.closing_since, trio.current_time()) - connection.ready_at)

    @staticmethod
    def _last_sign(connection: Connection) -> float:
        return max(connection.ready_at, connection.link.heard_at, connection.probed_at)

    # Numbers and events.

    def _recount(self, connection: Connection, phase: Phase | None) -> None:
        self.shared.counts.recount(connection.counted, phase)
        connection.counted = phase
        self.host.idle_changed(connection)

    def _count_limit(self) -> None:
        """Keep the gauge `max_sessions`: after a change to fewer, what was allowed before counts until it has gone."""
        if self.key not in self.shared.lanes:
            return
        standing = len(self.connections) - self.replacement.room(self.policy)
        limit = max(self.policy.max_sessions, standing) if self.refusal is None else standing
        self.shared.counts.max_sessions += limit - self.limit
        self.limit = limit

    @step
    def _lease_started(self, connection: Connection, waited: float, *, queued: bool) -> None:
        self.host.idle_changed(connection)
        self._emit(events.LeaseStarted, connection, waited=waited, queued=queued)

    def _emit(self, kind: Callable[..., events.Event], connection: Connection, **fields: Any) -> None:
        if self.host.observed:
            self.host.emit(
                kind(at=trio.current_time(), server=self.name, scope=self.scope, connection=connection.number, **fields)
            )

    def _emit_failed(
        self, reason: Literal["cancelled", "timed out", "rejected"], waited: float, *, queued: bool
    ) -> None:
        if self.host.observed:
            self.host.emit(
                events.AcquireFailed(
                    at=trio.current_time(),
                    server=self.name,
                    scope=self.scope,
                    reason=reason,
                    waited=waited,
                    queued=queued,
                )
            )
