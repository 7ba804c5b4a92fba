"""The state of one lane: its connections, by what they do, and what has been counted of them.

The modules beside this one carry out what happens to a lane: `_waiting.py` for its callers, `_matching.py` for the sessions
they get, `_ending.py` for the sessions that go. All of them work on this record, and so do the lane's own steps
(`_lane.py`). What is here keeps the record consistent: no connection changes its state without being counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Any

import trio

from .. import _events as events
from .._connection._record import Connection, Listener, Phase
from .._connection._states import State
from .._errors import PoolError, SessionLostError
from .._policy import PoolPolicy
from .._servers import Server
from . import _suspicion as suspicion
from ._host import Host, Matchable, Shared
from ._lease import LeaseHolder, Waiter
from ._matcher import Matcher
from ._replacement import Replacement


class LaneState(Listener, Matchable, LeaseHolder):
    """All connections and all waiters of one server and scope. `Lane` adds the steps that its bases name."""

    def __init__(
        self,
        host: Host,
        shared: Shared,
        key: Hashable,
        scope: Hashable,
        server: Server,
        policy: PoolPolicy,
        stateful: bool,
    ) -> None:
        self.host = host
        self.shared = shared
        self.name: str = shared.name
        self.scope = scope
        self.server: Server = server
        self.policy: PoolPolicy = policy
        self.stateful = stateful
        """Whether the next caller gets an error after the end of a session, because the session may have held state."""
        self.key: Hashable = key
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

    @property
    def empty(self) -> bool:
        """Whether the lane may be forgotten."""
        return not self.connections and not self.matcher.waiters and not self.watchers

    def register(self) -> None:
        """Count as one of the server's lanes. A lane that was only looked at does not. Idempotent."""
        if self.key not in self.shared.lanes:
            self.shared.lanes[self.key] = self
            self.shared.counts.min_sessions += self.policy.min_sessions
            self.count_limit()

    def unregister(self) -> None:
        """The lane is empty and is forgotten: it does not come back."""
        del self.shared.lanes[self.key]
        self.shared.counts.min_sessions -= self.policy.min_sessions
        self.shared.counts.max_sessions -= self.limit

    def adopt(self, server: Server, policy: PoolPolicy) -> None:
        """Dial another server by another policy, and count by it."""
        self.shared.counts.min_sessions += policy.min_sessions - self.policy.min_sessions
        self.server, self.policy = server, policy
        self.matcher.change(policy, self.connections)
        self.count_limit()

    # What can be had.

    def can_still_serve(self) -> bool:
        """Whether a waiter may still be served by what the lane has."""
        return self.ready > 0 or self.dialing > 0

    def will_be_served_by_dials(self) -> bool:
        """Whether a caller who has just queued changes nothing: others wait already, no session is ready, and in the sessions
        that are being dialled there is a place for everybody. So a crowd of first callers costs one step of matching."""
        waiting = len(self.matcher.waiters)
        return 1 < waiting <= self.dialing * self.policy.max_in_flight and not self.ready and self.notice is None

    def room(self) -> int:
        """How many more connections may exist now (R9)."""
        allowed = self.policy.max_sessions + self.replacement.room(self.policy)
        return allowed - len(self.connections) - self.shared.occupied(self.key)

    def is_surplus(self) -> bool:
        """Whether a ready session may be closed without falling below `min_sessions`."""
        return self.ready > self.policy.min_sessions

    def is_beyond_limit(self) -> bool:
        """Whether there are more sessions than the policy allows, because it allowed more before."""
        standing = len(self.connections) - self.leaving - self.replacement.overlapping
        return standing > self.policy.max_sessions

    def rematch_unserved(self) -> None:
        """Whatever waits for this server may be served now, in any of its lanes."""
        for lane in list(self.shared.unserved):
            self.host.rematch(lane)

    def clear_suspicion(self, connection: Connection) -> None:
        """Something was heard of its server: lend it like any other."""
        suspicion.clear(connection)
        self.matcher.place(connection)
        self.host.rematch(self)

    def note_loss(self, connection: Connection) -> None:
        """The next caller is told that what this session remembered is gone (R8)."""
        if self.notice is None:
            self._notice_of = connection
            self.notice = SessionLostError(
                f"the session that this scope had with server {self.name!r} is gone, and what it remembered with it; "
                "the next call gets a new one",
                server=self.name,
                exit_status=connection.link.exit_status,
                stderr_tail=connection.link.stderr_tail,
            )

    def take_notice(self) -> SessionLostError | None:
        """The error that the next caller gets, if there is one; nobody else gets it."""
        error, self.notice, self._notice_of = self.notice, None, None
        return error

    def clear_notice(self, connection: Connection) -> None:
        """The loss of this connection has been reported to a caller; that of another one has not (R8)."""
        if self._notice_of is connection:
            self.notice = self._notice_of = None

    def next_check_at(self, connection: Connection) -> float:
        """When there will be something to check."""
        if connection.state is not State.READY:
            return connection.drain_by
        at = min(connection.retire_at, suspicion.probe_due_at(connection))
        if connection.outdated:
            at = min(at, connection.drain_by)
            if self.replacement.retry_at > trio.current_time():
                at = min(at, self.replacement.retry_at)
        if not connection.leases:
            if self.is_surplus():
                at = min(at, connection.idle_since + self.policy.idle_timeout)
            if self.policy.probe_interval is not None:
                at = min(at, self.last_sign(connection) + self.policy.probe_interval)
        if not connection.has_answered:
            at = min(at, connection.ready_at + self.policy.backoff.cap)
        return at

    @staticmethod
    def last_sign(connection: Connection) -> float:
        """When its server last showed that it lives, on Trio's clock."""
        return max(connection.ready_at, connection.link.heard_at, connection.probed_at)

    def age(self, connection: Connection) -> float:
        """How long it was ready, in seconds."""
        return max(0.0, min(connection.closing_since, trio.current_time()) - connection.ready_at)

    # Changes that are counted.

    def move(self, connection: Connection, state: State) -> None:
        """Change its state."""
        if connection.state is State.READY:
            self.ready -= 1
            self.replacement.outdated.pop(connection, None)
        elif connection.state is State.DIALING:
            self.dialing -= 1
            self.queued.pop(connection, None)
        connection.move(state)
        if state is State.READY:
            self.ready += 1
        elif state is State.CLOSING:
            self.leaving += 1

    def recount(self, connection: Connection, phase: Phase | None) -> None:
        """Count it under another phase; `None` when it has gone."""
        self.shared.counts.recount(connection.counted, phase)
        connection.counted = phase
        self.host.idle_changed(connection)

    def count_limit(self) -> None:
        """Keep the gauge `max_sessions`: after a change to fewer, what was allowed before counts until it has gone."""
        standing = len(self.connections) - self.replacement.room(self.policy)
        limit = max(self.policy.max_sessions, standing) if self.refusal is None else standing
        self.shared.counts.max_sessions += limit - self.limit
        self.limit = limit

    def emit(
        self,
        kind: Callable[..., events.Event],
        connection: Connection,
        caller: Context | None = None,
        **fields: Any,
    ) -> None:
        """Tell the observers of an event of this connection, and of the caller with these context variables."""
        if self.host.observed:
            event = kind(
                at=trio.current_time(), server=self.name, scope=self.scope, connection=connection.number, **fields
            )
            self.host.emit(events.of_caller(event, caller))

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
