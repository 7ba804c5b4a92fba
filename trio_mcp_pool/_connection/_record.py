"""The record of one connection: everything that is known of it, and nothing that awaits.

The lane decides what becomes of a connection and writes it here; the owner task (`_owner.py`) reads it and acts. The two
meet in two small protocols: `Listener`, what an owner reports to its lane, and `OwnerControl`, what a lane may call
of an owner. A record exists before its owner does, because a dial may have to wait for its turn (R5b).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, final

import mcp
import trio

from .._errors import ConnectError, OutcomeUnknownError, PoolClosedError, PoolError, SessionLostError
from .._events import CallerObserver, CloseReason, SessionOpened
from .._policy import PoolPolicy
from .._servers import Server
from .._wire._causes import shown_cause
from .._wire._link import Call, Link
from ._states import TRANSITIONS, State

if TYPE_CHECKING:
    import mcp_types as types

# `live` is read several times per call, and to look up a member of an enumeration takes longer than to compare it.
_READY, _DRAINING = State.READY, State.DRAINING

EndReason: TypeAlias = CloseReason | Literal["failed"]
Phase: TypeAlias = Literal["idle", "in_use", "connecting", "closing"]
"""How a connection is counted: each in exactly one of these."""
DialPurpose: TypeAlias = Literal["demand", "min_sessions", "replacement"]
"""Why a dial was started: for callers that wait, to keep `min_sessions`, or to replace an outdated session."""


class Listener(Protocol):
    """What an owner reports to the lane that the connection belongs to. All synchronous."""

    def dialled(self, connection: Connection, /) -> None:
        """The session is ready."""

    def dial_failed(self, connection: Connection, error: ConnectError, cause: BaseException | None, /) -> None:
        """The dial has failed; cleaning up may still take a while."""

    def dial_overdue(self, connection: Connection, /) -> None:
        """The dial was not done when the time of a drain was over: it is to be aborted."""

    def died(self, connection: Connection, /) -> None:
        """The session was found dead."""

    def undecided(self, connection: Connection, /) -> None:
        """The wire does not know whether the server still has the session (R11)."""

    def next_check_at(self, connection: Connection, /) -> float:
        """When the owner is to call `check` next, on Trio's clock."""

    def check(self, connection: Connection, /) -> bool:
        """The time of `next_check_at` has come: the lane acts on it. Returns whether to probe the session now."""

    def probed(self, connection: Connection, alive: bool, /) -> None:
        """A probe was answered, or was not."""

    def closed(self, connection: Connection, /) -> None:
        """Nothing of the connection is left."""


class OwnerControl(Protocol):
    """What a lane may call of a running owner. All synchronous."""

    next_check_at: float
    """When it will call `check` next, on Trio's clock."""

    def wake_at(self, at: float, /) -> None:
        """Call `check` at that time at the latest, on Trio's clock."""

    def close(self, by: float, /) -> None:
        """Leave session and transport; the connection is in state `CLOSING` already. Cancelled at the given time."""

    def bound_cleanup(self, by: float, /) -> None:
        """Cleaning up has until then, if it had longer."""

    def bound_dial(self, by: float, /) -> None:
        """The dial has until then, if it had longer; after it `Listener.dial_overdue` is called."""

    def dial_failing(self, why: BaseException, /) -> None:
        """The wire says that the dial has failed with `why` and that only cleaning up remains."""


class FreeSet(Protocol):
    """A set of connections that can be lent (`_lanes/_free.py`)."""

    def put(self, connection: Connection, leases: int, /) -> None:
        """Put it in, or move it."""

    def remove(self, connection: Connection, /) -> None:
        """Take it out, if it is in."""


@final
class Connection:
    """What is known of one connection."""

    __slots__ = (
        "_ending",
        "annotations",
        "caller_observer",
        "calls",
        "client",
        "closing_since",
        "configuring",
        "counted",
        "dial_mark",
        "dial_started_at",
        "drain_by",
        "drain_reason",
        "end_reason",
        "free_in",
        "free_leases",
        "has_answered",
        "idle_since",
        "leases",
        "lent",
        "link",
        "listener",
        "name",
        "number",
        "opened",
        "outdated",
        "overlaps",
        "owner",
        "policy",
        "probe_wanted",
        "probed_at",
        "protected",
        "purpose",
        "ready_at",
        "replace_when_ready",
        "retire_at",
        "scope",
        "server",
        "state",
        "suspect_since",
        "unfit",
        "used_at",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        name: str,
        scope: Hashable,
        server: Server,
        policy: PoolPolicy,
        listener: Listener,
        purpose: DialPurpose,
    ) -> None:
        self.number: int = number
        self.name: str = name
        self.scope: Hashable = scope
        self.server: Server = server
        self.policy: PoolPolicy = policy
        self.listener: Listener = listener
        self.purpose: DialPurpose = purpose
        self.owner: OwnerControl | None = None
        """The owner's control; `None` while the dial waits for its turn."""
        self.state: State = State.DIALING
        self.end_reason: EndReason | None = None
        self.link: Link = Link(
            name,
            on_lost=self._on_lost,
            on_failing=self._on_failing,
            on_undecided=self._on_undecided,
            connect_timeout=policy.connect_timeout,
            close_timeout=policy.close_timeout,
            write_timeout=policy.write_timeout,
            probe_timeout=policy.probe_timeout,
        )
        self.caller_observer: CallerObserver | None = None
        """Told of every call, in its task. Set by the lane."""
        self.opened: SessionOpened | None = None
        """The event of its opening, where there are observers."""
        self.client: mcp.Client | None = None
        self.configuring: bool = False
        """Whether `configure=` runs: calls go through although the session is not ready."""
        self.annotations: dict[str, types.ToolAnnotations] | None = None
        """What the server says of its tools, once they were listed; looked at only when the server is trusted (R13)."""
        self.leases: set[object] = set()
        self.calls: set[Call] = set()

        # The dial.
        self.dial_mark: int = 0
        """The dial's place in the order of dials, failures and proofs of its server (R5)."""
        self.dial_started_at: float = trio.current_time()
        self.has_answered: bool = False
        """Whether the server has answered a caller on this session."""

        # Times on Trio's clock.
        self.ready_at: float = math.inf
        self.used_at: float = -math.inf
        """When a lease ended last."""
        self.idle_since: float = math.inf
        self.retire_at: float = math.inf
        """When `max_lifetime` ends."""
        self.closing_since: float = math.inf
        self.probed_at: float = -math.inf

        # Replacement (R9).
        self.outdated: bool = False
        """Whether a successor is wanted. While it is ready, it is lent where no other session has a place."""
        self.overlaps: bool = False
        """Whether it counts as being replaced, until it has gone: so much may be dialled beyond `max_sessions`."""
        self.replace_when_ready: bool = False
        """Whether a drain came while it was being dialled."""
        self.drain_by: float = math.inf
        self.drain_reason: CloseReason = "drained"

        # Suspicion (R11).
        self.suspect_since: float = math.inf
        """Since when it is suspect; `inf` while it is not."""
        self.protected: frozenset[Call] = frozenset()
        """The calls that ran when it became suspect: a server with one thread cannot answer a probe while it works."""
        self.probe_wanted: bool = False
        """Whether a caller has been given the suspect session, so that the probe must not wait any longer."""
        self.unfit: bool = False
        """Whether a probe failed while protected calls ran: no new leases until the server is heard from."""

        self.counted: Phase | None = None
        """How it is counted in the numbers of its server; kept by the lane."""
        self.free_in: FreeSet | None = None
        """The set of free sessions that it belongs to, if any; kept by the matcher."""
        self.free_leases: int = -1
        """Under how many leases it stands in that set; -1: it is full. Kept by the set."""
        self.lent: int = 0
        """When it was lent last, in the order of its lane's leases."""
        self._ending: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} of {self.name!r}: {self.state.value}, {len(self.leases)} leases>"

    def __lt__(self, other: Connection) -> bool:
        # Among sessions that were never lent, the one dialled first.
        return self.number < other.number

    def move(self, state: State) -> None:
        """Go to another state, along the table."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")  # pragma: no cover - a bug in the lane
        if self.state is _READY and self._ending is not None:
            self._ending.set()
        self.state = state

    @property
    def live(self) -> bool:
        """Whether calls can go through."""
        state = self.state
        return state is _READY or state is _DRAINING or self.configuring

    async def wait_ending(self) -> None:
        """Wait until the session is lost or is being closed. Checkpoints."""
        if self.state is not _READY:
            await trio.lowlevel.checkpoint()
            return
        if self._ending is None:
            self._ending = trio.Event()
        await self._ending.wait()

    def _on_lost(self) -> None:
        if self.state is _READY or self.state is _DRAINING:
            self.listener.died(self)

    def _on_failing(self, why: BaseException) -> None:
        if self.owner is not None:
            self.owner.dial_failing(why)

    def _on_undecided(self) -> None:
        if self.state is _READY:
            self.listener.undecided(self)

    # The error for a caller that comes too late.

    def lost_error(self, written: bool) -> PoolError:
        """The error for a call that this connection will not answer any more (R18). Its cause is that of the death."""
        error = self._lost_error(written)
        error.__cause__ = shown_cause(self.link.lost_cause, self.link)
        return error

    def _lost_error(self, written: bool) -> PoolError:
        link = self.link
        closing = self.end_reason is not None and self.end_reason != "broken"
        how = "was closed" if closing else "died"
        if link.exit_status is not None and not closing:
            how += f" (exit status {link.exit_status})"
        exit_status, stderr_tail = link.exit_status, link.stderr_tail
        if written:
            return OutcomeUnknownError(
                f"the session of server {self.name!r} {how} after the request was sent: it may have run",
                server=self.name,
                exit_status=exit_status,
                stderr_tail=stderr_tail,
            )
        if self.end_reason == "shutdown":
            return PoolClosedError(
                f"the pool closed before the request to server {self.name!r} was sent",
                server=self.name,
                exit_status=exit_status,
                stderr_tail=stderr_tail,
            )
        return SessionLostError(
            f"the session of server {self.name!r} {how} before the request was sent: sending it again is safe",
            server=self.name,
            exit_status=exit_status,
            stderr_tail=stderr_tail,
        )
