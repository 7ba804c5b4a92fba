"""The matching: waiters and connections brought together, inside one synchronous step.

The rules are three sentences. The first waiter gets the ready connection with the fewest leases, among equals the one used
last, so that the surplus may idle out (R4). Only when all are full is a new one dialled, as many as the waiters need and
the policy allows, closing ones counted (R5, R9). Whatever frees capacity ends in the same matching, so that it always
wakes somebody.

A waiter receives its lease through a memory channel without buffer (R6). If sending would block, the waiter has left and
merely has not run yet; nothing was booked yet and the next waiter is tried. So no session is ever on its way to nobody.

Everything here is the inside of a step: it is called by the events of `_lane.py`, never awaits, and only notes in the `Step`
what has to be started, stopped and told.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Literal

import trio

from . import _events as events
from ._books import Counts, Tally
from ._connection import Connection, Listener, State
from ._errors import PoolError, SessionLostError
from ._health import Health
from ._lease import Host, Lease, Step, Waiter
from ._policy import PoolPolicy

if TYPE_CHECKING:
    from ._events import CloseReason
    from ._lane import Lane
    from ._servers import Server

_READY = State.READY


class Matcher(Listener):
    """The collections of one lane, and the matching over them."""

    def __init__(
        self,
        host: Host,
        name: str,
        scope: Hashable,
        server: Server,
        policy: PoolPolicy,
        health: Health,
        tally: Tally,
        siblings: dict[Hashable, Lane],
        *,
        stateful: bool = False,
    ) -> None:
        self.host = host
        self.name = name
        self.scope = scope
        self.server: Server = server
        self.policy: PoolPolicy = policy
        self.limit: int = policy.max_sessions
        """`max_sessions`, or after a change to fewer: what is left of the sessions that were allowed before it."""
        self.health = health
        self.tally = tally
        self.siblings = siblings
        """All lanes of this server by scope, this one among them."""
        self.stateful = stateful
        """Whether the end of a session must be told to the next caller, because it may have held state."""
        self.counts: Counts = Counts()
        self.waiters: dict[Waiter, None] = {}
        self.connections: dict[Connection, None] = {}
        self.refusal: PoolError | None = None
        """Why no lease is given any more."""
        self.notice: SessionLostError | None = None
        self.opened: trio.Event = trio.Event()
        """Set when a session becomes ready, and replaced for the next one."""

    def __repr__(self) -> str:
        return f"<Lane of {self.name!r}: {len(self.connections)} connections, {len(self.waiters)} waiters>"

    @property
    def ready(self) -> bool:
        """Whether the lane has a live session, free or not."""
        return any(connection.state is _READY for connection in self.connections)

    @property
    def empty(self) -> bool:
        """Whether the lane may be forgotten."""
        return not self.connections and not self.waiters

    def gauges(self) -> dict[str, int]:
        """How things stand, read off the collections."""
        idle = in_use = connecting = closing = leases = 0
        for connection in self.connections:
            held = len(connection.leases)
            leases += held
            if held:
                in_use += 1
            elif connection.state is _READY:
                idle += 1
            elif connection.state is State.DIALING:
                connecting += 1
            else:
                closing += 1
        return {
            "min_sessions": self.policy.min_sessions,
            "max_sessions": self.limit,
            "size": len(self.connections),
            "sessions_idle": idle,
            "sessions_in_use": in_use,
            "sessions_connecting": connecting,
            "sessions_closing": closing,
            "tasks_waiting_acquire": len(self.waiters),
            "leases_in_flight": leases,
        }

    # Inside a step.

    def _best(self) -> Connection | None:
        most = self.policy.max_in_flight
        best: Connection | None = None
        for connection in self.connections:
            if connection.state is not _READY or connection.unfit:
                continue
            held = len(connection.leases)
            if held >= most:
                continue
            if best is None or (held, -connection.last_used) < (len(best.leases), -best.last_used):
                best = connection
        return best

    def _lend(self, connection: Connection, task: object) -> Lease:
        lease = self._lease(connection, task)
        self._book(lease)
        return lease

    def _lease(self, connection: Connection, task: object) -> Lease:
        # Every matcher is a lane; the two are apart only so that each can be read in one go.
        return Lease(self, connection, task, trio.current_time())  # type: ignore[arg-type]

    def _book(self, lease: Lease) -> None:
        connection = lease.connection
        if not connection.leases:
            self.tally.use(1)
        connection.leases.add(lease)
        self.counts.acquires += 1
        connection.last_used = self.counts.acquires

    def _match(self, step: Step) -> None:
        while self.waiters:
            waiter = next(iter(self.waiters))
            if self.notice is not None:
                error, self.notice = self.notice, None
                self._tell(step, waiter, error)
                continue
            connection = self._best()
            if connection is None:
                break
            self._hand_over(step, waiter, connection)
        if self.refusal is None:
            self._dial(step)
            if self.waiters and self.health.left_alone and self.policy.when_unavailable == "fail" and not self._hope():
                self._tell_waiters(step, self.health.unavailable())

    def _hand_over(self, step: Step, waiter: Waiter, connection: Connection) -> None:
        del self.waiters[waiter]
        self.tally.wait(-1)
        lease = self._lease(connection, waiter.task)
        try:
            waiter.send.send_nowait(lease)
        except trio.WouldBlock:
            # It was cancelled in this very tick and will find itself gone from the queue; nothing was booked yet.
            return
        self._book(lease)
        waited = trio.current_time() - waiter.since
        self.counts.acquires_waited += 1
        self.counts.acquire_wait_seconds += waited
        step.events.append(self._told(events.LeaseStarted, connection, waited=waited, queued=True))

    def _tell(self, step: Step, waiter: Waiter, error: PoolError) -> None:
        """Send a waiter away with an error."""
        del self.waiters[waiter]
        self.tally.wait(-1)
        try:
            waiter.send.send_nowait(error._fresh())
        except trio.WouldBlock:
            return
        waited = trio.current_time() - waiter.since
        self.counts.acquires_rejected += 1
        self.counts.acquire_wait_seconds += waited
        step.events.append(self._failed("rejected", waited, queued=True))

    def _tell_waiters(self, step: Step, error: PoolError) -> None:
        for waiter in list(self.waiters):
            self._tell(step, waiter, error)

    def _dial(self, step: Step) -> None:
        dialling = ready = 0
        for connection in self.connections:
            dialling += connection.state is State.DIALING
            ready += connection.state is _READY
        wanted = max(
            -(-len(self.waiters) // self.policy.max_in_flight) - dialling,
            self.policy.min_sessions - dialling - ready,
        )
        wanted = min(wanted, self.policy.max_sessions - len(self.connections))
        if wanted <= 0:
            return
        if self.health.failures:
            if self.health.left_alone:
                step.wake_at = self.health.retry_at
                return
            if self.health.trial is not None:
                return
            wanted = 1
        for _ in range(wanted):
            connection = Connection(self.host.number(), self.name, self.server, self.policy, self)
            self.connections[connection] = None
            self.counts.connects += 1
            if self.health.failures:
                self.health.trial = connection
            step.dial.append(connection)
            step.events.append(self._told(events.DialStarted, connection))

    def _trial_over(self, step: Step, connection: Connection) -> None:
        if self.health.trial is connection:
            self.health.trial = None
            step.siblings = True

    def _hope(self) -> bool:
        """Whether a waiter may still be served by what the lane has."""
        return any(c.state is _READY or c.state is State.DIALING for c in self.connections)

    def _surplus(self) -> bool:
        """Whether a ready session may be closed without falling below `min_sessions`."""
        least = self.policy.min_sessions
        return least == 0 or sum(c.state is _READY for c in self.connections) > least

    @staticmethod
    def _last_sign(connection: Connection) -> float:
        return max(connection.ready_at, connection.link.heard_at, connection.probed_at)

    def _retire(self, step: Step, connection: Connection, reason: CloseReason, by: float) -> None:
        if not connection.leases:
            self._close(step, connection, reason)
            return
        connection.move(State.DRAINING)
        connection.drain_reason = reason
        connection.drain_by = by
        connection.wake(by)

    def _begin_closing(self, connection: Connection, reason: CloseReason | Literal["failed"]) -> None:
        connection.move(State.CLOSING)
        connection.end_reason = reason
        connection.closing_since = trio.current_time()

    def _close(self, step: Step, connection: Connection, reason: CloseReason, by: float | None = None) -> None:
        was_session = connection.state is not State.DIALING
        self._begin_closing(connection, reason)
        now = trio.current_time()
        if connection.leases:
            self.tally.use(-1)
            for lease in connection.leases:
                assert isinstance(lease, Lease)
                self.counts.usage_seconds += now - lease.since
                step.events.append(self._told(events.LeaseEnded, connection, used=now - lease.since))
            connection.leases.clear()
        if self.stateful and was_session and reason != "shutdown" and self.refusal is None:
            self.notice = SessionLostError(
                f"the session that this scope had with server {self.name!r} is gone, and what it remembered with it; "
                "the next call gets a new one",
                server=self.name,
            )
        if not was_session:
            step.dial_over = True
            self._trial_over(step, connection)
        if connection.started:
            step.close.append((connection, now + self.policy.close_timeout if by is None else by))
        else:
            self._bury(step, connection)

    def _bury(self, step: Step, connection: Connection) -> None:
        """The connection is really gone: it stops counting."""
        failed = connection.end_reason == "failed"
        connection.move(State.FAILED if failed else State.CLOSED)
        del self.connections[connection]
        self.limit = max(self.policy.max_sessions, min(self.limit, len(self.connections)))
        if failed:
            self.counts.connects_failed += 1
        else:
            name = f"closed_{connection.end_reason}"
            setattr(self.counts, name, getattr(self.counts, name) + 1)
        step.gone = True
        link = connection.link
        step.events.append(
            self._told(
                events.SessionClosed,
                connection,
                reason=connection.end_reason,
                age=max(0.0, connection.closing_since - connection.ready_at),
                seconds=trio.current_time() - connection.closing_since,
                exit_status=link.exit_status,
                killed=tuple(link.killed),
                left_behind=tuple(link.left_behind),
            )
        )

    def _told(self, kind: Callable[..., events.Event], connection: Connection, **fields: Any) -> events.Event:
        return kind(at=trio.current_time(), server=self.name, scope=self.scope, connection=connection.number, **fields)

    def _failed(
        self, reason: Literal["cancelled", "timed out", "rejected"], waited: float, *, queued: bool
    ) -> events.Event:
        return events.AcquireFailed(
            at=trio.current_time(), server=self.name, scope=self.scope, reason=reason, waited=waited, queued=queued
        )
