"""The events that observers receive.

An observer is any object with one synchronous method, `event(e)`. Events are frozen values. They are delivered after the step
that caused them, when no step is under way, from one queue of the pool and so in the same order to every observer (R17).
Delivering them inside the step would let an observer that calls the pool see, and change, an inconsistent state.

Up to 100 events at a time are delivered inline, in the task whose step caused them; the rest by a task of the pool. So an
observer must be quick and must not block. One that raises an `Exception` is logged and skipped. No field of an event holds a
secret (R16).

The step that gives a caller its session may be another caller's, so the context variables of the moment tell nobody whose call
an event is about. The event carries those of its caller.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import Context
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from ._errors import ConnectError

CloseReason: TypeAlias = Literal["idle", "lifetime", "drained", "broken", "shutdown"]
"""Why a session was closed."""


class Observer(Protocol):
    """An object whose `event` method is called after each thing that a pool has done."""

    def event(self, e: Event, /) -> None:
        """Called synchronously, after the step that caused `e`. May call the pool's synchronous methods."""


@runtime_checkable
class CallerObserver(Protocol):
    """An observer that is also called in the tasks of callers, where their context variables are those of the call.

    It costs every call a little, which events do not: so a pool whose observers are all of the other kind does none of it.
    """

    def waited(self, server: str, seconds: float, error: BaseException | None, /) -> None:
        """A caller was queued for a session for so long, and got none if there is an `error`."""

    def called(
        self,
        server: str,
        session: SessionOpened | None,
        verb: str,
        subject: object,
        seconds: float,
        result: object,
        error: BaseException | None,
        /,
    ) -> None:
        """A request that was sent has ended.

        `subject` is the first argument of the verb; `session` is `None` while `configure=` runs.
        """


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    at: float
    """When it happened, on Trio's clock, in seconds."""
    server: str = ""
    """The server's name; empty where the whole pool is meant."""
    scope: Hashable = None
    """The scope's key; `None` for sessions outside of scopes."""

    # Not a field: `dataclasses.asdict` copies fields deeply, which contexts refuse, and `==` and `repr` are not about it.
    _context: ClassVar[Context | None] = None

    @property
    def context(self) -> Context | None:
        """The caller's context variables when it asked for its session; `None` where the event is not about a caller.

        A copy: `e.context.run(trace.get_current_span)` is the span in which the caller was, and `e.context.get(variable)`
        the value of a variable of the program's own. It may hold secrets of the program's, so do not print it as a whole.
        """
        return self._context


E = TypeVar("E", bound=Event)


def of_caller(event: E, context: Context | None) -> E:
    """The event, with its caller's context variables."""
    object.__setattr__(event, "_context", context)
    return event


@dataclass(frozen=True, kw_only=True)
class ConnectionEvent(Event):
    """Base of the events that concern one connection."""

    connection: int
    """The connection's number, unique within its pool."""


@final
@dataclass(frozen=True, kw_only=True)
class DialStarted(ConnectionEvent):
    """A dial was started, or is queued behind `max_connecting` others."""


@final
@dataclass(frozen=True, kw_only=True)
class DialFailed(ConnectionEvent):
    """A dial failed, or was withdrawn before it started. Its clean-up may still be running."""

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
    protocol_version: str | None = None
    """The negotiated version of the protocol."""
    transport: Literal["pipe", "tcp"] | None = None
    """What carries it: the pipes of a child, or HTTP; `None` where the pool does not know."""
    address: str | None = None
    """The host of an HTTP server."""
    port: int | None = None
    """The port of an HTTP server."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionDied(ConnectionEvent):
    """A session was found dead."""

    reason: str
    """What was seen, such as `end of stream`."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionClosed(ConnectionEvent):
    """A connection has gone: its tasks, its file descriptors and its process have ended."""

    reason: CloseReason | Literal["failed"]
    """Why; `"failed"` where the dial failed."""
    age: float
    """Seconds for which the session was open; 0 where it never was."""
    seconds: float
    """How long closing took."""
    exit_status: int | None
    """The return code of a child; negative: the signal that ended it."""
    killed: tuple[int, ...] = ()
    """Process ids that had to be killed."""
    left_behind: tuple[int, ...] = ()
    """Process ids that escaped the process group and still run."""


@final
@dataclass(frozen=True, kw_only=True)
class WaitStarted(Event):
    """No session was free and a caller started to wait. `LeaseStarted` or `AcquireFailed` with `queued` ends the wait."""


@final
@dataclass(frozen=True, kw_only=True)
class LeaseStarted(ConnectionEvent):
    """A caller was given a session."""

    waited: float
    """Seconds that it waited."""
    queued: bool
    """Whether it had to wait."""


@final
@dataclass(frozen=True, kw_only=True)
class LeaseEnded(ConnectionEvent):
    """A caller gave a session back, or lost it."""

    used: float
    """Seconds that the caller held it."""


@final
@dataclass(frozen=True, kw_only=True)
class AcquireFailed(Event):
    """A caller left without a session."""

    reason: Literal["cancelled", "timed out", "rejected"]
    waited: float
    """Seconds that it waited."""
    queued: bool
    """Whether it had started to wait."""


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
    """Process ids that escaped the process group and still run."""
