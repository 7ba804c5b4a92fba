"""What the pool raises.

Every error says which server it is about, what happened, and, as `outcome`, what is known of the request: it did not run, the
server answered it, or that is not known (R18). `outcome` is true for every single error: a class whose cases differ says
`"unknown"` unless it is raised where more is known. The class alone is not enough, because the same HTTP status can refuse a
request or lose its answer.

`SessionLostError` and `OutcomeUnknownError` have no common base but `PoolError`: the first means that nothing ran, the second
that something may have.

What the server itself answers is no error of the pool: a tool result with `is_error` is a result, and a JSON-RPC error
is `mcp.MCPError`. Both pass through untouched.

All errors take one positional message and keyword fields with defaults; they pickle and copy with their fields. No field
ever holds a secret: not a header, not an environment variable, not a tool's arguments.
"""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeAlias, TypedDict, Unpack, final

import anyio
import trio

if TYPE_CHECKING:
    from ._statistics import PoolStatistics

Phase: TypeAlias = Literal["configure", "spawn", "connect", "handshake", "setup", ""]
"""How far a dial had come: resolving `env` or `headers`, starting the process, reaching the address, shaking hands, running
the server's `configure` function."""

CallOutcome: TypeAlias = Literal["not run", "unknown", "answered"]
"""What is known of a request: `"not run"`, nothing of it was written or the server refused it; `"unknown"`, it was written and
nothing came that settles it; `"answered"`, the server's own answer came."""

_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 406, 413, 415, 429})
"""The HTTP statuses by which a server says that it has not run a request (R18)."""

_PLAIN: Final = (str, int, float, bool, type(None))


class _Known(TypedDict, total=False):
    """The keyword fields that every error takes."""

    server: str | None
    outcome: CallOutcome | None
    exit_status: int | None
    stderr_tail: str


def _rebuild(cls: type[PoolError], args: tuple[Any, ...], fields: dict[str, Any]) -> PoolError:
    error = cls(*args)
    error.__dict__.update(fields)
    return error


def _picklable(value: Any) -> Any:
    """`value`, or its `repr` where it does not survive a pickle: a field must not keep its error from being pickled."""
    if isinstance(value, _PLAIN):
        return value
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        try:
            return repr(value)
        except Exception:
            return f"<{type(value).__name__}>"
    return value


class PoolError(Exception):
    """Base of all errors that the pool itself raises.

    `server` is the name of the server concerned, or `None` where no single one is. `outcome` says what is known of the request
    that failed: `"not run"`, `"unknown"` (it may have run) or `"answered"`. Of a server that is a process and has ended,
    `exit_status` is the return code (negative: the signal that ended it; `None`: not known) and `stderr_tail` the end of
    what it wrote to stderr, with known secrets masked.
    """

    _outcome: ClassVar[CallOutcome] = "unknown"
    """What holds for every error of the class."""

    def __init__(
        self,
        message: str = "",
        *,
        server: str | None = None,
        outcome: CallOutcome | None = None,
        exit_status: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.server = server
        self.outcome: CallOutcome = self._outcome if outcome is None else outcome
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail

    def __str__(self) -> str:
        # `KeyError` would quote its only argument; an error message is not a key.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, {name: _picklable(value) for name, value in self.__dict__.items()})

    def __copy__(self) -> Self:
        return self._fresh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        again = memo[id(self)] = self._fresh()
        for name, value in self.__dict__.items():
            try:
                again.__dict__[name] = copy.deepcopy(value, memo)
            except Exception:
                continue  # such as a result that holds a lock: the copy shares it
        return again

    def _fresh(self) -> Self:
        """The same error again, for another caller: one exception object must not be raised in two tasks.

        It keeps the fields and the cause. The traceback is not copied: it belongs to the task that raised the first one.
        """
        fields = dict(self.__dict__)
        if "__notes__" in fields:
            fields["__notes__"] = list(fields["__notes__"])  # `add_note` appends in place
        again: Self = _rebuild(type(self), self.args, fields)  # type: ignore[assignment]
        again.__cause__ = self.__cause__
        again.__suppress_context__ = self.__suppress_context__  # which setting the cause has changed
        return again


@final
class PoolClosedError(PoolError, trio.ClosedResourceError, anyio.ClosedResourceError):
    """The pool, or the scope, is closed: it takes no new leases, and a request that was not written yet was not sent."""

    _outcome = "not run"


@final
class UnknownServerError(PoolError, KeyError):
    """No server of that name. `suggestion` is the nearest name that exists, or `None`."""

    _outcome = "not run"

    def __init__(self, message: str = "", *, suggestion: str | None = None, **known: Unpack[_Known]) -> None:
        super().__init__(message, **known)
        self.suggestion = suggestion


class ConnectError(PoolError):
    """A dial failed, so there is no session. The failure itself is the `__cause__`.

    `phase` says how far it came. `attempt` counts the consecutive failures, this one included; `retry_after` is the number of
    seconds until the pool will dial again. For a process, `exit_status` and `stderr_tail` say how it ended.
    """

    _outcome = "not run"

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase = "",
        attempt: int = 0,
        retry_after: float = 0.0,
        **known: Unpack[_Known],
    ) -> None:
        super().__init__(message, **known)
        self.phase: Phase = phase
        self.attempt = attempt
        self.retry_after = retry_after


class _DialFields(_Known, total=False):
    """The keyword fields of every `ConnectError`."""

    phase: Phase
    attempt: int
    retry_after: float


@final
class AuthenticationError(ConnectError):
    """The server refused a dial or a call because credentials are missing or not valid (HTTP 401 or 403), or none could be had.

    `status` is the HTTP status, `None` where it is not known.
    """

    def __init__(self, message: str = "", *, status: int | None = None, **fields: Unpack[_DialFields]) -> None:
        super().__init__(message, **fields)
        self.status = status


@final
class ServerUnavailableError(ConnectError):
    """Failing fast: the last dial failed, its backoff has not run out, and no dial was made for this caller.

    The fields and the `__cause__` are those of the dial that failed; `retry_after` is counted from now.
    """


@final
class TooManyWaitersError(PoolError):
    """`max_waiting` callers wait already, or sessions of `open_scope` hold all of `max_sessions_total`.

    `statistics` is the pool's state at that moment.
    """

    _outcome = "not run"

    def __init__(self, message: str = "", *, statistics: PoolStatistics | None = None, **known: Unpack[_Known]) -> None:
        super().__init__(message, **known)
        self.statistics = statistics


@final
class AcquireTimeoutError(PoolError, TimeoutError):
    """`acquire_timeout` ran out before a session was free. The last dial's failure, if any, is the `__cause__`."""

    _outcome = "not run"


@final
class SessionLostError(PoolError, trio.BrokenResourceError, anyio.BrokenResourceError):
    """The session is gone and the request was not written. Nothing ran: sending it again is safe."""

    _outcome = "not run"


@final
class OutcomeUnknownError(PoolError, trio.BrokenResourceError, anyio.BrokenResourceError):
    """The request was written and no answer can come any more. The tool may have run, wholly, partly, or not at all.

    Deliberately not a `SessionLostError`: code that catches 'safe to send again' must not catch this.
    """


@final
class HttpStatusError(PoolError):
    """The server answered a request with an HTTP status and no JSON-RPC message in it.

    `status` is the HTTP status; `retry_after` the seconds of its `Retry-After` header, or `None`. `outcome` follows
    from the status: 400, 401, 403, 404, 405, 406, 413, 415 and 429 are refusals, so the request did not run; after any other
    status it may have.
    """

    def __init__(
        self, message: str = "", *, status: int = 0, retry_after: float | None = None, **known: Unpack[_Known]
    ) -> None:
        if known.get("outcome") is None and status in _REFUSED:
            known["outcome"] = "not run"
        super().__init__(message, **known)
        self.status = status
        self.retry_after = retry_after


@final
class MessageTooLargeError(PoolError):
    """A message exceeded the server's limit.

    `limit` is that limit, `None` where it is not known: bytes (`max_message`), or JSON values (`max_values`).
    """

    def __init__(self, message: str = "", *, limit: int | None = None, **known: Unpack[_Known]) -> None:
        super().__init__(message, **known)
        self.limit = limit


@final
class LeaseEndedError(PoolError, trio.ClosedResourceError, anyio.ClosedResourceError):
    """The session handle was used after its release: the session may belong to another caller by now."""

    _outcome = "not run"


@final
class InvalidArgumentsError(PoolError, ValueError):
    """A verb was given arguments that are no mapping, or that JSON cannot express. Nothing was sent."""

    _outcome = "not run"


@final
class InvalidResultError(PoolError):
    """The server answered, but against the protocol or against the tool's own schema.

    `result` holds what came, as far as it could be read; `None` where nothing could.
    """

    _outcome = "answered"

    def __init__(self, message: str = "", *, result: Any = None, **known: Unpack[_Known]) -> None:
        super().__init__(message, **known)
        self.result = result


@final
class UnknownToolError(PoolError, KeyError):
    """A tool set has no such tool. `tool` is the name that was given, `suggestion` the nearest that exists, or `None`."""

    _outcome = "not run"

    def __init__(
        self, message: str = "", *, tool: str = "", suggestion: str | None = None, **known: Unpack[_Known]
    ) -> None:
        super().__init__(message, **known)
        self.tool = tool
        self.suggestion = suggestion


@final
class ToolDeniedError(PoolError, PermissionError):
    """A tool set's patterns, or a person, did not allow the call. `tool` is the tool's name, `reason` says why, in words."""

    _outcome = "not run"

    def __init__(self, message: str = "", *, tool: str = "", reason: str = "", **known: Unpack[_Known]) -> None:
        super().__init__(message, **known)
        self.tool = tool
        self.reason = reason
