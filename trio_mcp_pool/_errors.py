"""What the pool raises.

Every error says three things: which server it is about, whose doing it was, and whether sending again is safe. The last
is the reason that `SessionLostError` and `OutcomeUnknownError` are strangers to each other: the first means that nothing
ran, the second that something may have.

What the server itself answers is no error of the pool: a tool result with `is_error` is a result, and a JSON-RPC error
is `mcp.MCPError`. Both pass through untouched.

All errors take one positional message and keyword fields with defaults; they pickle and copy with their fields. No field
ever holds a secret: not a header, not an environment variable, not a tool's arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, final

import anyio
import trio

if TYPE_CHECKING:
    from ._statistics import PoolStatistics

Phase: TypeAlias = Literal["configure", "spawn", "connect", "handshake", ""]
"""How far a dial had come: resolving `env` or `headers`, starting the process, reaching the address, shaking hands."""


def _rebuild(cls: type[PoolError], args: tuple[Any, ...], fields: dict[str, Any]) -> PoolError:
    error = cls(*args)
    error.__dict__.update(fields)
    return error


class PoolError(Exception):
    """Base of everything that the pool raises on its own account.

    `server` is the name of the server concerned, or `None` where no single one is.
    """

    def __init__(self, message: str = "", *, server: str | None = None) -> None:
        super().__init__(message)
        self.server = server

    def __str__(self) -> str:
        # `KeyError` would quote its only argument; an error message is not a key.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))

    def _fresh(self) -> Self:
        """The same error again, for another caller: one exception object must not be raised in two tasks."""
        again: Self = _rebuild(type(self), self.args, dict(self.__dict__))  # type: ignore[assignment]
        again.__cause__ = self.__cause__
        return again


@final
class PoolClosedError(PoolError, trio.ClosedResourceError, anyio.ClosedResourceError):
    """The pool, or the scope, is closed: it takes no new leases, and what still ran was cut off unsent."""


@final
class UnknownServerError(PoolError, KeyError):
    """No server of that name. `suggestion` is the nearest name that exists, or `None`."""

    def __init__(self, message: str = "", *, server: str | None = None, suggestion: str | None = None) -> None:
        super().__init__(message, server=server)
        self.suggestion = suggestion


class ConnectError(PoolError):
    """A dial failed, so there is no session. The failure itself is the `__cause__`.

    `phase` says how far it came. For a process, `exit_status` is its return code (negative: the signal that ended it)
    and `stderr_tail` the end of what it wrote to stderr, with known secrets masked. `attempt` counts the failures in a
    row, this one included; `retry_after` is the number of seconds until the pool will dial again.
    """

    def __init__(
        self,
        message: str = "",
        *,
        server: str | None = None,
        phase: Phase = "",
        exit_status: int | None = None,
        stderr_tail: str = "",
        attempt: int = 0,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message, server=server)
        self.phase: Phase = phase
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail
        self.attempt = attempt
        self.retry_after = retry_after


@final
class AuthenticationError(ConnectError):
    """The server refused a dial or a call for want of valid credentials (HTTP 401 or 403).

    `status` is the HTTP status, `None` where it is not known.
    """

    def __init__(self, message: str = "", *, status: int | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.status = status


@final
class ServerUnavailableError(ConnectError):
    """Failing fast: the last dial failed, its backoff has not run out, and no dial was made for this caller.

    The fields and the `__cause__` are those of the dial that failed; `retry_after` is counted from now.
    """


@final
class TooManyWaitersError(PoolError):
    """`max_waiting` callers wait already. `statistics` is the pool's state at that moment."""

    def __init__(
        self, message: str = "", *, server: str | None = None, statistics: PoolStatistics | None = None
    ) -> None:
        super().__init__(message, server=server)
        self.statistics = statistics


@final
class AcquireTimeoutError(PoolError, TimeoutError):
    """`acquire_timeout` ran out before a session was free. The last dial's failure, if any, is the `__cause__`."""


@final
class SessionLostError(PoolError, trio.BrokenResourceError, anyio.BrokenResourceError):
    """The session is gone and the request was not written. Nothing ran: sending it again is safe."""


@final
class OutcomeUnknownError(PoolError, trio.BrokenResourceError, anyio.BrokenResourceError):
    """The request was written and no answer can come any more. The tool may have run, wholly, partly, or not at all.

    Deliberately not a `SessionLostError`: code that catches 'safe to send again' must not catch this.
    """


@final
class HttpStatusError(PoolError):
    """The server answered a request with an HTTP status and no JSON-RPC message in it.

    `status` is the HTTP status; `retry_after` the seconds that its `Retry-After` header asks for, or `None`.
    """

    def __init__(
        self, message: str = "", *, server: str | None = None, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(message, server=server)
        self.status = status
        self.retry_after = retry_after


@final
class MessageTooLargeError(PoolError):
    """A message exceeded the server's limit. `limit` is that limit in bytes, `None` where it is not known."""

    def __init__(self, message: str = "", *, server: str | None = None, limit: int | None = None) -> None:
        super().__init__(message, server=server)
        self.limit = limit


@final
class LeaseEndedError(PoolError, trio.ClosedResourceError, anyio.ClosedResourceError):
    """The session handle was used after its release: the session may belong to somebody else by now."""
