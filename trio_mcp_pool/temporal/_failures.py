"""Errors as they cross from a worker to a workflow, and what a workflow may conclude from them.

Every failure is an `ApplicationError` whose type is the name of the pool's error, and whose one detail is a mapping:
`server`, `outcome`, and what else is known (`phase`, `exit_status`, the masked `stderr_tail`, `retry_after`, `status`,
`code`, `data`). None is retried by Temporal itself, whose retries know nothing of `outcome` and would run a tool twice. Our
side of the workflow decides instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mcp
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType

from trio_mcp_pool import PoolError

_FIELDS = ("phase", "exit_status", "stderr_tail", "attempt", "retry_after", "status", "limit")
_LARGEST_DATA = 64 * 1024


def failure(
    kind: str, message: str, *, server: str | None, outcome: str, cause: BaseException | None = None, **details: Any
) -> ApplicationError:
    """A failure of our own making."""
    error = ApplicationError(message, {"server": server, "outcome": outcome, **details}, type=kind, non_retryable=True)
    error.__cause__ = cause
    return error


def from_error(error: BaseException, server: str) -> ApplicationError:
    """What an activity raises for what a verb of the pool raised."""
    if isinstance(error, mcp.MCPError):
        data = error.data if len(repr(error.data)) < _LARGEST_DATA else None
        outcome = getattr(error, "outcome", "answered")
        return failure("MCPError", error.message, server=server, outcome=outcome, code=error.code, data=data)
    known = {name: value for name in _FIELDS if (value := getattr(error, name, None)) is not None}
    if isinstance(error, PoolError):
        return failure(type(error).__name__, str(error), server=error.server or server, outcome=error.outcome, **known)
    # Arguments that the verb does not take, or a defect: what it did before is not known.
    return failure(type(error).__name__, str(error), server=server, outcome="unknown")


@dataclass
class Verdict:
    """What a workflow knows after an attempt that failed."""

    error: ApplicationError
    """What to raise if it is not tried again."""
    outcome: str
    """`not run`, `unknown` or `answered`."""
    retry_after: float = 0.0
    """Seconds to wait at least."""


def judge(error: ActivityError, server: str) -> Verdict:
    """Conclude what is known from an activity that failed. Not for one that was cancelled."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        details = cause.details[0] if cause.details else None
        if isinstance(details, dict) and "outcome" in details:
            return Verdict(cause, details["outcome"], float(details.get("retry_after") or 0))
        if cause.type == "NotFoundError":
            # Temporal's own word for an activity that the worker has not registered.
            message = f"no worker on this task queue serves server {server!r}: {cause.message}"
            return Verdict(
                failure("UnknownServerError", message, server=server, outcome="not run", cause=cause), "not run"
            )
        message = f"the call of server {server!r} failed in the worker, and may have run: {cause.message}"
        return Verdict(
            failure("OutcomeUnknownError", message, server=server, outcome="unknown", cause=cause), "unknown"
        )
    if isinstance(cause, TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START:
        message = f"no worker began the call of server {server!r} within schedule_to_start_timeout"
        return Verdict(
            failure("AcquireTimeoutError", message, server=server, outcome="not run", cause=cause), "not run"
        )
    if isinstance(cause, TimeoutError):
        what = "its worker was lost" if cause.type == TimeoutType.HEARTBEAT else "it timed out"
        message = f"the call of server {server!r} may have run: {what} before the answer was recorded"
        return Verdict(
            failure("OutcomeUnknownError", message, server=server, outcome="unknown", cause=cause), "unknown"
        )
    message = f"the call of server {server!r} ended in a way that says nothing of its outcome"
    return Verdict(failure("OutcomeUnknownError", message, server=server, outcome="unknown", cause=error), "unknown")
