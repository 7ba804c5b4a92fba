"""Errors as text for a model: what happened, whether the tool may have run, and what to do next.

The rule: nothing that could hold a secret goes to a model. So only errors of the pool and of the server's own answer are
quoted; of anything else, which may be a hook's, the type is named. The obvious way, `str(error)`, would show a model the end of
a process's stderr, or what a database driver says of its password.
"""

from __future__ import annotations

import math

import trio
from mcp import MCPError

from .._errors import (
    AuthenticationError,
    CallOutcome,
    ConnectError,
    HttpStatusError,
    InvalidArgumentsError,
    InvalidResultError,
    PoolClosedError,
    PoolError,
    ServerUnavailableError,
    ToolDeniedError,
    TooManyWaitersError,
    UnknownServerError,
    UnknownToolError,
)

MAY_HAVE_RUN = "It may have run: check before you call it again."


def outcome_of(error: BaseException, sent: bool) -> CallOutcome:
    """What is known of the call that ended with `error`; `sent` says whether the call had been begun at all."""
    if isinstance(error, PoolError):
        return error.outcome
    if isinstance(error, MCPError):
        return "answered"
    return "unknown" if sent else "not run"


def explain(error: BaseException, outcome: CallOutcome) -> str:
    """The error in words for a model."""
    text = _say(error)
    if outcome == "unknown":
        return f"{text} {MAY_HAVE_RUN}"
    if isinstance(error, MCPError | PoolError):
        return text
    # A hook's, mostly. Without this a model takes it for a call that failed, and makes it again.
    return f"The tool has run, but its result was lost. {text}" if outcome == "answered" else f"{text} Nothing ran."


def _say(error: BaseException) -> str:
    server = f"the server {error.server!r}" if isinstance(error, PoolError) and error.server else "the server"
    if isinstance(error, MCPError):
        return f"{error.error.message} (error {error.error.code})"
    if isinstance(error, InvalidArgumentsError | UnknownToolError | ToolDeniedError | UnknownServerError):
        return str(error)
    if isinstance(error, ServerUnavailableError):
        return f"{server} cannot be reached and is in backoff for {_seconds(error.retry_after)}. Nothing ran."
    if isinstance(error, AuthenticationError):
        return f"{server} refused the credentials. Nothing ran."
    if isinstance(error, ConnectError):
        after = f" It is in backoff for {_seconds(error.retry_after)}." if error.retry_after > 0 else ""
        return f"{server} cannot be reached.{after} Nothing ran."
    if isinstance(error, HttpStatusError):
        after = f" It asks to wait {_seconds(error.retry_after)}." if error.retry_after else ""
        return f"{server} answered with HTTP status {error.status}.{after}"
    if isinstance(error, InvalidResultError):
        return f"{server} ran the tool and answered with something that cannot be read."
    if isinstance(error, PoolClosedError):
        return "The program is closing its connections."
    if isinstance(error, TooManyWaitersError):
        return f"{server} has too many calls waiting. Nothing ran; try again later."
    if isinstance(error, PoolError):
        # Of what is left, none quotes a server.
        return str(error).rstrip(".") + "."
    if isinstance(error, TimeoutError | trio.TooSlowError):
        return "The call took too long."
    return f"The call failed in the program itself ({type(error).__name__})."


def _seconds(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds))} s"
