"""The lane: what can happen to the sessions of one server and scope.

A lane holds all connections and all waiters of one key as two ordered collections. Things happen to it: somebody asks,
gives up or gives back; a dial succeeds or fails; a session dies, lies idle, grows too old; the server is drained or the
pool closes. Each of these is one synchronous step, and each is one method here. A step changes the collections, matches
waiters with free sessions (`_matcher.py`), and collects what follows from it (dials to start, connections to close, events
to tell) in a `Step`, which the pool carries out afterwards. Nothing inside a step awaits, so under Trio nothing can happen
in the middle of one, and no lock is needed. Steps are protected from `KeyboardInterrupt`, which could otherwise fall
between two lines (R17).
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, final

import trio
from trio.lowlevel import enable_ki_protection

from . import _events as events
from ._connection import Connection, State
from ._errors import AcquireTimeoutError, ConnectError, PoolError, SessionLostError, TooManyWaitersError
from ._lease import Lease, Step, Waiter
from ._matcher import Matcher

if TYPE_CHECKING:
    from ._events import CloseReason
    from ._policy import PoolPolicy
    from ._servers import Server

_READY = State.READY
# `max_lifetime` is shortened by up to this share.
_LIFETIME_JITTER = 0.05


@final
class Lane(Matcher):
    """All connections and all waiters of one server and scope."""

    refusal: PoolError | None
    notice: SessionLostError | None
    opened: trio.Event
    server: Server
    policy: PoolPolicy
    limit: int

    # Asking, giving up, giving back.

    @enable_ki_protection
    def take(self) -> Lease | None:
        """A lease at once, or `None` if it would take a wait or a dial. Raises what a caller must be told first."""
        if self.refusal is not None or self.notice is not None:
            self._refuse()
        if self.waiters or (connection := self._best()) is None:
            return None
        lease = self._lend(connection, trio.lowlevel.current_task())
        if self.host.observed:
            self._done(Step(events=[self._told(events.LeaseStarted, connection, waited=0.0, queued=False)]))
        return lease

    @enable_ki_protection
    async def acquire(self) -> Lease:
        """A lease, waited for if need be."""
        await trio.lowlevel.checkpoint_if_cancelled()
        lease = self.take()
        if lease is None:
            return await self.wait()
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        except BaseException:
            self.release(lease)
            raise
        return lease

    @enable_ki_protection
    async def wait(self) -> Lease:
        """Queue for a lease that `take` did not give in this same step."""
        waiter = Waiter()
        self._queue(waiter)
        timeout = self.policy.acquire_timeout
        got: Lease | PoolError | None = None
        try:
            with trio.move_on_after(timeout) if timeout < math.inf else nullcontext():
                got = await waiter.receive.receive()
        except BaseException:
            self._withdraw(waiter, "cancelled")
            raise
        if got is None:
            self._withdraw(waiter, "timed out")
            raise AcquireTimeoutError(
                f"no session of server {self.name!r} was free within acquire_timeout ({timeout:g} s)", server=self.name
            ) from self.health.error
        if isinstance(got, PoolError):
            raise got
        return got

    @enable_ki_protection
    def release(self, lease: Lease) -> None:
        """Give a lease back. Idempotent, and without effect on a connection that is no longer live."""
        if lease.ended:
            return
        lease.ended = True
        connection = lease.connection
        leases = connection.leases
        if lease not in leases:
            return
        leases.remove(lease)
        now = trio.current_time()
        self.counts.usage_seconds += now - lease.since
        if not self.waiters and not self.host.observed:
            if leases:
                return
            if connection.state is _READY:
                # The usual case, without the ceremony: nobody waits, nobody watches, and as a rule the owner wakes before
                # the session has been idle for long enough.
                self.tally.use(-1)
                connection.idle_since = now
                if connection.asks_at > now + self.policy.idle_timeout or self.policy.probe_interval is not None:
                    connection.wake(self.next_question(connection))
                return
        step = Step() if self.waiters or self.host.observed or connection.state is not _READY else None
        if step is not None and self.host.observed:
            step.events.append(self._told(events.LeaseEnded, connection, used=now - lease.since))
        if not leases:
            self.tally.use(-1)
            connection.idle_since = now
            if connection.state is not _READY:
                assert step is not None
                self._close(step, connection, connection.drain_reason)
            else:
                connection.wake(self.next_question(connection))
        if step is not None:
            self._match(step)
            self._done(step)

    # What owners report: see `Listener` in `_connection.py`.

    @enable_ki_protection
    def dialled(self, connection: Connection) -> None:
        if connection.state is not State.DIALING:
            return
        step = Step(dial_over=True)
        connection.move(_READY)
        self.opened.set()
        self.opened = trio.Event()
        now = connection.ready_at = connection.idle_since = trio.current_time()
        lifetime = self.policy.max_lifetime
        connection.retire_at = (
            now + lifetime * (1 - _LIFETIME_JITTER * random.random()) if lifetime < math.inf else math.inf
        )
        took = now - connection.began_at
        self.counts.connect_seconds += took
        self._trial_over(step, connection)
        step.events.append(self._told(events.SessionOpened, connection, seconds=took, pid=connection.link.pid))
        for other in self.connections:
            # One more is ready, so one that was kept for `min_sessions` may now be surplus.
            if other.state is _READY and not other.leases:
                other.wake(self.next_question(other))
        self._match(step)
        self._done(step)

    @enable_ki_protection
    def dial_failed(self, connection: Connection, error: ConnectError, cause: BaseException | None) -> None:
        if connection.state is not State.DIALING:
            return
        step = Step(dial_over=True)
        self._begin_closing(connection, "failed")
        now = trio.current_time()
        connection.give_up(now + self.policy.close_timeout)
        self.health.failed(error, cause, self.policy.backoff)
        step.events.append(self._told(events.DialFailed, connection, error=error, seconds=now - connection.began_at))
        self._trial_over(step, connection)
        if self.policy.when_unavailable == "fail" and not self._hope():
            self._tell_waiters(step, error)
        self._match(step)
        self._done(step)

    @enable_ki_protection
    def died(self, connection: Connection) -> None:
        if not connection.live:
            return
        step = Step()
        self.counts.sessions_lost += 1
        cause = connection.link.lost_cause
        reason = connection.link.mask(str(cause)) if cause is not None else "end of stream"
        step.events.append(self._told(events.SessionDied, connection, reason=reason))
        connection.move(State.BROKEN)
        if not connection.proven and trio.current_time() - connection.ready_at < self.policy.backoff.cap:
            link = connection.link
            error = ConnectError(
                f"the session of server {self.name!r} died before it had answered anything: {reason}",
                server=self.name,
                phase="handshake",
                exit_status=link.exit_status,
                stderr_tail=link.stderr_tail,
            )
            self.health.died_young(error, self.policy.backoff)
        elif not connection.proven and not self.health.left_alone:
            # It lived long enough to end the row, though nobody asked it anything.
            self.health.proved()
        self._close(step, connection, "broken")
        self._match(step)
        self._done(step)

    @enable_ki_protection
    def proved(self, connection: Connection) -> None:
        connection.proven = True
        if self.health.failures:
            self.health.proved()
            step = Step(siblings=True)
            self._match(step)
            self._done(step)

    def next_question(self, connection: Connection) -> float:
        if connection.state is not _READY:
            return connection.drain_by
        at = connection.retire_at
        if connection.suspect_since < math.inf:
            at = min(at, connection.suspect_since + self.policy.probe_timeout)
        if not connection.leases:
            if self._surplus():
                at = min(at, connection.idle_since + self.policy.idle_timeout)
            if self.policy.probe_interval is not None:
                at = min(at, self._last_sign(connection) + self.policy.probe_interval)
        return at

    @enable_ki_protection
    def asked(self, connection: Connection) -> bool:
        now = trio.current_time()
        step = Step()
        probe = False
        if connection.state is not _READY:
            if now >= connection.drain_by:
                self._close(step, connection, connection.drain_reason)
        elif now >= connection.retire_at:
            self._retire(step, connection, "lifetime", math.inf)
        elif not connection.leases and self._surplus() and now >= connection.idle_since + self.policy.idle_timeout:
            self._close(step, connection, "idle")
        elif now >= connection.suspect_since + self.policy.probe_timeout:
            probe = connection.link.heard_at <= connection.suspect_since
            if not probe:
                # It was heard from since, so it is well, also where a probe had failed while it was busy.
                connection.suspect_since = math.inf
                connection.unfit = False
        elif self.policy.probe_interval is not None and not connection.leases:
            probe = now >= self._last_sign(connection) + self.policy.probe_interval
        self._match(step)
        self._done(step)
        return probe

    @enable_ki_protection
    def probed(self, connection: Connection, alive: bool) -> None:
        now = trio.current_time()
        if alive:
            connection.suspect_since = math.inf
            connection.probed_at = now
            if connection.unfit:
                connection.unfit = False
                step = Step()
                self._match(step)
                self._done(step)
        elif connection.calls:
            # A server with one thread cannot answer while it works; its long call must not die for that.
            connection.unfit = True
            connection.suspect_since = now
        else:
            connection.link.lost(TimeoutError("it did not answer a probe"))

    @enable_ki_protection
    def suspect(self, connection: Connection) -> None:
        """A call was cancelled or timed out: from now on, silence must be explained."""
        if connection.state is _READY and connection.suspect_since == math.inf:
            connection.suspect_since = trio.current_time()
            connection.wake(connection.suspect_since + self.policy.probe_timeout)

    @enable_ki_protection
    def gone(self, connection: Connection) -> None:
        step = Step(gone=True, dial_over=True)
        self._bury(step, connection)
        self._match(step)
        self._done(step)

    def fatal(self, error: BaseException) -> None:
        self.host.fatal(error)

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        self.host.spawn(task, name)

    # What the pool does to it.

    @enable_ki_protection
    def tick(self) -> None:
        """Match again: a backoff has ended, a trial elsewhere is over, or sessions are to be kept open."""
        step = Step()
        self._match(step)
        self._done(step)

    @enable_ki_protection
    def change(self, server: Server, policy: PoolPolicy) -> None:
        """From now on dial another server, by another policy. The connections that stand are for `drain` to end."""
        self.server, self.policy = server, policy
        self.limit = max(policy.max_sessions, len(self.connections))

    @enable_ki_protection
    def drain(self, timeout: float, reason: CloseReason = "drained") -> list[Connection]:
        """No new leases on these connections; running ones have `timeout` seconds. Returns the connections."""
        step = Step()
        old = list(self.connections)
        by = trio.current_time() + timeout
        for connection in old:
            if connection.state is State.DIALING:
                self._close(step, connection, reason)
            elif connection.state is _READY:
                self._retire(step, connection, reason, by)
            elif connection.state is State.DRAINING:
                connection.drain_reason = reason
                connection.drain_by = min(connection.drain_by, by)
                connection.wake(connection.drain_by)
        self._match(step)
        self._done(step)
        return old

    @enable_ki_protection
    def refuse(self, error: PoolError) -> None:
        """Give no more leases, and tell those who wait."""
        self.refusal = error
        step = Step()
        self._tell_waiters(step, error)
        self._done(step)

    @enable_ki_protection
    def end_leases(self, task: object) -> None:
        """End the leases that a task holds and can no longer give back."""
        for connection in list(self.connections):
            for lease in [lease for lease in connection.leases if isinstance(lease, Lease) and lease.task is task]:
                self.release(lease)

    @enable_ki_protection
    def close(self, reason: CloseReason, by: float) -> None:
        """Close all connections, whatever runs on them, by the given time."""
        step = Step()
        for connection in list(self.connections):
            if connection.state is State.CLOSING:
                connection.hasten(by)
            else:
                self._close(step, connection, reason, by)
        self._done(step)

    # The asking, step by step.

    @enable_ki_protection
    def _queue(self, waiter: Waiter) -> None:
        self._check_not_deadlocked(waiter.task)
        self.siblings[self.scope] = self
        if not self._hope() and self.health.left_alone and self.policy.when_unavailable == "fail":
            self._reject(self.health.unavailable())
        step = Step(events=[events.WaitStarted(at=waiter.since, server=self.name, scope=self.scope)])
        self.waiters[waiter] = None
        self.tally.wait(1)
        self._match(step)
        most = self.policy.max_waiting
        if most is not None:
            dialling = sum(c.state is State.DIALING for c in self.connections)
            if len(self.waiters) - dialling * self.policy.max_in_flight > most:
                del self.waiters[waiter]
                self.tally.wait(-1)
                del step.events[0]  # that it began to wait: it did not
                self._done(step)
                self._reject(
                    TooManyWaitersError(
                        f"{most} callers wait for server {self.name!r} already (max_waiting)",
                        server=self.name,
                        statistics=self.host.statistics(),
                    )
                )
        self._done(step)

    @enable_ki_protection
    def _withdraw(self, waiter: Waiter, reason: Literal["cancelled", "timed out"]) -> None:
        if waiter in self.waiters:
            del self.waiters[waiter]
            self.tally.wait(-1)
        waited = trio.current_time() - waiter.since
        self.counts.acquire_wait_seconds += waited
        if reason == "cancelled":
            self.counts.acquires_cancelled += 1
        else:
            self.counts.acquires_timed_out += 1
        step = Step(events=[self._failed(reason, waited, queued=True)])
        self._done(step)

    def _check_not_deadlocked(self, task: object) -> None:
        if len(self.connections) < self.policy.max_sessions:
            return
        held = 0
        for connection in self.connections:
            if connection.state is _READY:
                if len(connection.leases) < self.policy.max_in_flight:
                    return  # unfit at the moment: its probe will decide
            elif connection.state is not State.DRAINING or connection.drain_by < math.inf:
                return
            for lease in connection.leases:
                assert isinstance(lease, Lease)
                if lease.task is not task:
                    return
                held += 1
        if held:
            raise RuntimeError(
                f"this task already holds every session of server {self.name!r} that there can be ({held} lease(s)), so it "
                "would wait for itself; release one first, or raise max_sessions or max_in_flight"
            )

    def _refuse(self) -> None:
        if self.refusal is not None:
            self._reject(self.refusal._fresh())
        if self.notice is not None:
            error, self.notice = self.notice, None
            self._reject(error)

    def _reject(self, error: PoolError) -> None:
        self.counts.acquires_rejected += 1
        self._done(Step(events=[self._failed("rejected", 0.0, queued=False)]))
        raise error

    def _done(self, step: Step) -> None:
        self.host.apply(self, step)
