"""What an observer is told.

An observer is any object with one synchronous method, `event(e)`. Events are frozen values; they are handed out after the
step that caused them, in order, in whichever task made the step, so an observer must be quick and must not block. One that
raises is logged and skipped. No event holds a secret (R16).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, final

from ._errors import ConnectError

CloseReason: TypeAlias = Literal["idle", "lifetime", "drained", "broken", "shutdown"]
"""Why a session was closed."""


class Observer(Protocol):
    """Something that wants to know what a pool does."""

    def event(self, e: Event, /) -> None:
        """Called synchronously after every step that caused `e`."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    at: float
    """When it happened, on Trio's clock, in seconds."""
    server: str = ""
    """The server's name; empty where the whole pool is meant."""
    scope: Hashable = None
    """The scope's key; `None` for sessions outside of scopes."""


@dataclass(frozen=True, kw_only=True)
class ConnectionEvent(Event):
    """Base of the events that concern one connection."""

    connection: int
    """The connection's number, unique within its pool."""


@final
@dataclass(frozen=True, kw_only=True)
class DialStarted(ConnectionEvent):
    """A dial was started, or has taken its place in the queue of `max_connecting`."""


@final
@dataclass(frozen=True, kw_only=True)
class DialFailed(ConnectionEvent):
    """A dial failed. What it left may still be being cleaned up."""

    error: ConnectError
    seconds: float
    """How long it took to fail."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionOpened(ConnectionEvent):
    """A session is ready."""

    seconds: float
    """How long the dial took."""
    pid: int | None
    """The process id of a child."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionDied(ConnectionEvent):
    """A session was found dead."""

    reason: str
    """What was seen, such as `end of stream`."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionClosed(ConnectionEvent):
    """A connection is really gone: its tasks, its descriptors, its process."""

    reason: CloseReason | Literal["failed"]
    """Why; `failed` where the dial had failed."""
    age: float
    """Seconds for which the session was open; 0 where it never was."""
    seconds: float
    """How long closing took."""
    exit_status: int | None
    """The return code of a child; negative: the signal that ended it."""
    killed: tuple[int, ...] = ()
    """Process ids that had to be killed."""
    left_behind: tuple[int, ...] = ()
    """Process ids that escaped and still run."""


@final
@dataclass(frozen=True, kw_only=True)
class WaitStarted(Event):
    """A caller found no session free and began to wait. `LeaseStarted` or `AcquireFailed` with `queued` ends it."""


@final
@dataclass(frozen=True, kw_only=True)
class LeaseStarted(ConnectionEvent):
    """A caller received a session."""

    waited: float
    """Seconds that it waited."""
    queued: bool
    """Whether it had to wait at all."""


@final
@dataclass(frozen=True, kw_only=True)
class LeaseEnded(ConnectionEvent):
    """A caller gave a session back, or lost it."""

    used: float
    """Seconds that it held it."""


@final
@dataclass(frozen=True, kw_only=True)
class AcquireFailed(Event):
    """A caller left without a session."""

    reason: Literal["cancelled", "timed out", "rejected"]
    waited: float
    """Seconds that it waited."""
    queued: bool
    """Whether it had begun to wait."""


@final
@dataclass(frozen=True, kw_only=True)
class CallResent(Event):
    """The pool sent a request again (R13)."""

    method: str
    """The verb, such as `call_tool`."""


@final
@dataclass(frozen=True, kw_only=True)
class PoolClosed(Event):
    """The last event of a pool: everything is closed."""

    seconds: float
    """How long closing took."""
    killed: tuple[int, ...] = ()
    """Process ids that had to be killed."""
    left_behind: tuple[int, ...] = ()
    """Process ids that escaped and still run."""
