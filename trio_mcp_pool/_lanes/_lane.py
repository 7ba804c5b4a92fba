"""The lane: what can happen to the sessions of one server and scope.

A lane holds all connections of one key and has a matcher, which holds its waiters. Things happen to it: a caller acquires,
leaves the queue or releases; a dial succeeds or fails; a session dies, is idle, grows too old; the server is drained, the
pool closes. Each of these is one method here. What comes from callers and owners is one synchronous step; what the pool does
is part of a step of its own. A step changes the record (`_state.py`) and says what has to be matched again; the matching
(`_matching.py`), and all that follows from it, comes at the end of the step (`_host.py`). Nothing inside a step awaits, so
that no lock is needed.
"""

from __future__ import annotations

import math
import random
from typing import Final, final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _events as events
from .._connection._record import Connection
from .._connection._states import State
from .._errors import ConnectError, PoolError
from .._events import CloseReason
from .._groups import text_of
from .._policy import PoolPolicy
from .._servers import Server
from .._wire._link import Call
from . import _ending as ending
from . import _matching as matching
from . import _suspicion as suspicion
from . import _waiting as waiting
from ._deadlock import waits_for_itself
from ._host import step
from ._lease import Lease
from ._state import LaneState

_READY, _DIALING, _DRAINING, _CLOSING = State.READY, State.DIALING, State.DRAINING, State.CLOSING
# `max_lifetime` is shortened by up to this share.
_LIFETIME_JITTER: Final = 0.05


@final
class Lane(LaneState):
    """A lane, and the steps in which it changes."""

    # Fields of the record that steps assign: type checkers want to read here what they hold.
    policy: PoolPolicy
    refusal: PoolError | None
    used_at: float

    # Acquire, leave the queue, release.

    @enable_ki_protection
    def try_acquire(self, *, in_block: bool) -> Lease | None:
        """A lease at once, or `None` if it would take a wait or a dial. Raises the error that a caller must get first."""
        if self.refusal is not None or self.notice is not None:
            waiting.raise_refusal(self)
        matcher = self.matcher
        if matcher.waiters:
            return None
        connection = matcher.best()
        if connection is None and (connection := matching.suspect_as_last_resort(self)) is None:
            return None
        lease = matcher.lend(connection, trio.lowlevel.current_task(), in_block)
        if self.host.attentive:
            matching.lease_started(self, lease, 0.0, queued=False)
        return lease

    @enable_ki_protection
    async def acquire(self, *, in_block: bool) -> Lease:
        """A lease, waited for if need be."""
        await trio.lowlevel.checkpoint_if_cancelled()
        lease = self.try_acquire(in_block=in_block)
        if lease is None:
            return await self.wait(in_block=in_block)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return lease

    async def wait(self, *, in_block: bool) -> Lease:
        """Queue for a lease that `try_acquire` did not give in this same step."""
        return await waiting.wait(self, in_block)

    async def wait_ready(self) -> None:
        """Wait until a session lives, free or not, dialling one if need be. Checkpoints. Takes no lease.

        Raises what `acquire` raises of a failed dial, of a server in backoff, and of a closed pool.
        """
        await waiting.wait_ready(self)

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
        self.emit(events.LeaseEnded, connection, lease.context, used=connection.used_at - lease.since)
        if last:
            self.used_at = connection.idle_since = connection.used_at
            self._no_lease_left(connection)
        self.host.rematch(self)

    def _no_lease_left(self, connection: Connection) -> None:
        if connection.state is not _READY:
            ending.close(self, connection, connection.drain_reason)
        elif self.is_beyond_limit():
            ending.close(self, connection, "drained")  # the surplus after a change to fewer sessions
        elif connection.outdated and (self.replacement.failures or self.host.is_full()):
            ending.close(self, connection, connection.drain_reason)
        else:
            self.recount(connection, "idle")
            if connection.owner is not None:
                connection.owner.wake_at(self.next_check_at(connection))

    # What owners report: see `Listener` in `_connection/_record.py`.

    @step
    def dialled(self, connection: Connection) -> None:
        """A session is ready."""
        self.host.dial_over(connection)
        self.move(connection, _READY)
        self.recount(connection, "idle")
        now = connection.ready_at = connection.idle_since = trio.current_time()
        lifetime = self.policy.max_lifetime
        connection.retire_at = now + lifetime * (1 - _LIFETIME_JITTER * random.random())
        took = now - connection.dial_started_at
        self.shared.counts.connect_seconds += took
        self.replacement.forget_failures()
        predecessor = matching.next_to_end(self)
        if self.host.observed:
            link, client = connection.link, connection.client
            connection.opened = events.SessionOpened(
                at=now,
                server=self.name,
                scope=self.scope,
                connection=connection.number,
                seconds=took,
                pid=link.pid,
                protocol_version=client.protocol_version if client is not None else None,
                transport=link.transport,
                address=link.address[0],
                port=link.address[1],
            )
            self.host.emit(connection.opened)
        if connection.replace_when_ready:
            connection.used_at = self.used_at
            ending.replace(self, connection, connection.drain_reason, connection.drain_by)
        if predecessor is not None:
            patience = self.policy.drain_timeout if predecessor.drain_reason == "broken" else math.inf
            ending.retire(self, predecessor, predecessor.drain_reason, min(predecessor.drain_by, now + patience))
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
        self.host.dial_over(connection)
        now = trio.current_time()
        ending.begin_closing(self, connection, "failed")
        if connection.owner is not None:
            connection.owner.bound_cleanup(now + self.policy.close_timeout)
        self._dial_failure(connection, error, cause)
        self.emit(events.DialFailed, connection, error=error, seconds=now - connection.dial_started_at)
        if self.policy.when_unavailable == "fail" and not self.can_still_serve():
            waiting.fail_waiters(self, error)
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
            self.rematch_unserved()
        for predecessor in list(outdated):
            if predecessor.drain_reason == "broken":
                self.replacement.keep(predecessor)  # the handshake beside it has decided: it stays (R11)
                self.matcher.place(predecessor)
            elif not is_successor:
                pass
            elif not predecessor.leases:
                ending.close(self, predecessor, predecessor.drain_reason)
            elif predecessor.owner is not None:
                predecessor.owner.wake_at(self.next_check_at(predecessor))

    @step
    def dial_overdue(self, connection: Connection) -> None:
        """A dial was still under way when the time of a drain was over."""
        ending.close(self, connection, connection.drain_reason)
        self.host.rematch(self)

    @step
    def died(self, connection: Connection) -> None:
        """A session was found dead."""
        link, backoff = connection.link, self.policy.backoff
        self.shared.counts.sessions_lost += 1
        cause = link.lost_cause
        reason = link.mask(text_of(cause)) if cause is not None else "end of stream"
        self.emit(events.SessionDied, connection, reason=reason)
        self.move(connection, State.BROKEN)
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
                    self.rematch_unserved()
        ending.close(self, connection, "broken")
        self.host.rematch(self)

    @step
    def answered(self, connection: Connection) -> None:
        """The server has answered a caller: for the first time, or while the session was suspect."""
        if suspicion.is_suspect(connection):
            self.clear_suspicion(connection)
        if not connection.has_answered:
            connection.has_answered = True
            failed = self.shared.health.failures
            self.shared.health.proved()
            if failed:
                self.rematch_unserved()

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
        if not connection.outdated and self.policy.max_overlap:
            connection.drain_reason = "broken"
            ending.outdate(self, connection)
            self.host.rematch(self)

    @step
    def check(self, connection: Connection) -> bool:
        """Act on what is due. Returns whether to probe."""
        now = trio.current_time()
        health = self.shared.health
        self.host.rematch(self)
        if connection.state is not _READY:
            if now >= connection.drain_by:
                ending.close(self, connection, connection.drain_reason)
            return False
        if not connection.has_answered and now >= connection.ready_at + self.policy.backoff.cap:
            connection.has_answered = True  # it has lived for long enough, which proves as much
            if health.failures:
                health.proved()
                self.rematch_unserved()
        if now >= connection.drain_by:
            ending.close(self, connection, connection.drain_reason)
        elif now >= connection.retire_at:
            connection.retire_at = math.inf
            ending.replace(self, connection, "lifetime", math.inf)
        elif not connection.leases and self.is_surplus() and now >= connection.idle_since + self.policy.idle_timeout:
            ending.close(self, connection, "idle")
        elif now >= suspicion.probe_due_at(connection):
            if not suspicion.was_heard(connection):
                return True
            self.clear_suspicion(connection)
        elif self.policy.probe_interval is not None and not connection.leases:
            return now >= self.last_sign(connection) + self.policy.probe_interval
        return False

    @step
    def probed(self, connection: Connection, alive: bool) -> None:
        """A probe was answered, or was not."""
        if alive:
            connection.probed_at = trio.current_time()
            self.clear_suspicion(connection)
        elif suspicion.failed_probe(connection):
            connection.link.lost(TimeoutError("it did not answer a probe"))
        else:
            self.matcher.place(connection)

    @step
    def closed(self, connection: Connection) -> None:
        """Nothing of a connection is left."""
        ending.remove(self, connection)
        self.host.rematch(self)

    # What the pool does to it, in steps of its own.

    def start(self, connection: Connection) -> None:
        """The dial's turn has come: its owner is being started."""
        self.queued.pop(connection, None)
        connection.dial_mark = self.shared.health.next_mark()
        connection.link.attempt = self.shared.health.failures + 1
        connection.dial_started_at = trio.current_time()

    def tick(self) -> None:
        """Match again, although nothing happened in this lane."""
        self.host.rematch(self)

    def change(self, server: Server, policy: PoolPolicy) -> None:
        """From now on dial another server, by another policy. What stands of the old one is for `replace_all` to end."""
        self.adopt(server, policy)
        for connection in self.queued:
            connection.server = server
        for connection in list(self.connections):
            connection.policy = policy
            link = connection.link
            link.close_timeout, link.write_timeout = policy.close_timeout, policy.write_timeout
            link.probe_timeout = policy.probe_timeout
            if connection.state is not _READY:
                continue
            connection.retire_at = connection.ready_at + policy.max_lifetime
            if not connection.leases and self.is_beyond_limit():
                ending.close(self, connection, "drained")
            elif connection.owner is not None:
                connection.owner.wake_at(self.next_check_at(connection))
        self.host.rematch(self)

    def replace_all(self, timeout: float, *, changed: bool) -> list[Connection]:
        """Replace all connections; what runs on them has `timeout` seconds from now. Returns the old ones.

        `changed`: the server is another one now, so dials that are under way are of no use.
        """
        by = trio.current_time() + timeout
        self.replacement.forget_failures()
        old = [connection for connection in self.connections if connection not in self.queued]
        for connection in old:
            if connection.state is _DIALING:
                if changed or not self.replacement.overlapping:
                    ending.close(self, connection, "drained")
                else:
                    # It is the successor that an earlier drain has dialled: it is not aborted, but replaced.
                    connection.replace_when_ready = True
                    connection.drain_by = min(connection.drain_by, by)
                    assert connection.owner is not None
                    connection.owner.bound_dial(by)
            elif connection.state is _READY:
                ending.replace(self, connection, "drained", by)
            elif connection.state is _DRAINING:
                ending.retire(self, connection, connection.drain_reason, by)
        self.host.rematch(self)
        return old

    def retire_all(self, timeout: float, reason: CloseReason) -> list[Connection]:
        """End all connections without a successor: no new leases, running ones have `timeout` seconds. Returns them."""
        by = trio.current_time() + timeout
        old = list(self.connections)
        for connection in old:
            if connection.state is _DIALING:
                ending.close(self, connection, reason)
            elif connection.state in (_READY, _DRAINING):
                ending.retire(self, connection, reason, by)
        self.host.rematch(self)
        return old

    def refuse(self, error: PoolError) -> None:
        """Give no more leases, and fail the waiters."""
        self.refusal = error
        self.count_limit()
        waiting.fail_waiters(self, error)

    def end_leases(self, task: trio.lowlevel.Task) -> None:
        """End the leases that a task holds and that no other task can release (R2)."""
        for connection in list(self.connections):
            for lease in list(connection.leases):
                if isinstance(lease, Lease) and lease.task is task and (lease.in_block or not lease.shared):
                    self.release(lease)

    def close(self, reason: CloseReason, by: float) -> None:
        """Close all connections, whatever runs on them, by the given time."""
        for connection in list(self.connections):
            if connection.state is _CLOSING:
                if connection.owner is not None:
                    connection.owner.bound_cleanup(by)
            else:
                ending.close(self, connection, reason, by)

    def make_room(self, connection: Connection) -> None:
        """Close a session, or take no new leases on it, because another lane needs its place (R10b)."""
        if connection.state is _READY:
            ending.retire(self, connection, "idle", math.inf)
            self.host.rematch(self)

    def no_place_left(self) -> None:
        """Sessions of `open_scope` hold all places: fail the callers whose dials wait for one (R10b)."""
        matching.withdraw_dials(self, ConnectError("there was no place for it (max_sessions_total)", server=self.name))
        waiting.fail_waiters(self, waiting.no_place_error(self))

    def pins(self, task: trio.lowlevel.Task) -> bool:
        """Whether a wait of this task, without a deadline, for all connections to go could never end (R4)."""
        return self.policy.drain_timeout == math.inf and waits_for_itself(task, self.connections)

    def match(self) -> None:
        """Serve waiters, start the dials that they and the policy want, and fail those that nothing can serve."""
        matching.match(self)
