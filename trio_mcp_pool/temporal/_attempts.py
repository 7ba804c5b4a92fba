"""Trying a call again from the workflow, by what is known of the attempt before.

Each attempt is one activity with `maximum_attempts=1`: Temporal retries an activity whose worker was lost, and runs the tool a
second time. So our side of the workflow interprets the retry policy and the schedule-to-close timeout, with durable timers
between the attempts. What did not run is tried again; what may have run, only if running it twice does no harm; an answer is
an answer, also where it is an error.

All of it is deterministic: it depends on recorded results and on `workflow.now()` alone.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, CancelledError

from ._failures import Verdict, failure, judge
from ._names import HEARTBEAT_TIMEOUT, LARGE, LARGEST_PAYLOAD, LARGEST_TASK, START_TO_CLOSE

T = TypeVar("T")

ONCE = RetryPolicy(maximum_attempts=1)


class _Budget:
    """What one workflow schedules."""

    def __init__(self) -> None:
        self.task = -1
        """The workflow task, by the length of the history at its beginning."""
        self.scheduled = 0
        """Bytes of arguments that this workflow task schedules."""
        self.running = 0
        """Bytes of arguments of the large calls that run."""


# By workflow instance, which is its event loop.
_budgets: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Budget] = weakref.WeakKeyDictionary()


def measure(value: Any) -> int:
    """Bytes of a value as this workflow's converter encodes it."""
    return sum(payload.ByteSize() for payload in workflow.payload_converter().to_payloads([value]))


def check_size(size: int, server: str, what: str) -> None:
    """Refuse arguments that Temporal cannot carry: it would fail the workflow task, and try it again for ever."""
    if size > LARGEST_PAYLOAD:
        raise failure(
            "ArgumentsTooLargeError",
            f"the arguments of {what!r} of server {server!r} take {size:,} bytes and Temporal carries {LARGEST_PAYLOAD:,}: "
            "pass a reference to where they are stored",
            server=server,
            outcome="not run",
            limit=LARGEST_PAYLOAD,
        )


@asynccontextmanager
async def room(size: int) -> AsyncIterator[None]:
    """Wait until the arguments fit beside the others: those of one workflow task, and those of large calls that run.

    Together they would be too large for one transaction of the server's, which then terminates the workflow.
    """
    budget = _budgets.setdefault(asyncio.get_running_loop(), _Budget())
    large = size if size >= LARGE else 0
    while True:
        if large and budget.running and budget.running + large > LARGEST_TASK:
            await workflow.wait_condition(lambda: not budget.running or budget.running + large <= LARGEST_TASK)
        task = workflow.info().get_current_history_length()
        if budget.task != task:
            budget.task, budget.scheduled = task, 0
        if not budget.scheduled or budget.scheduled + size <= LARGEST_TASK:
            break
        await workflow.sleep(timedelta(milliseconds=1))
    budget.scheduled += size
    budget.running += large
    try:
        yield
    finally:
        budget.running -= large


async def attempt(
    name: str,
    request: Any,
    *,
    server: str,
    options: dict[str, Any],
    result_type: type[T],
    may_repeat: Callable[[], Awaitable[bool]],
    still_possible: Callable[[], None] = lambda: None,
) -> T:
    """Run an activity, and again while that is safe and the options allow it.

    `may_repeat` is asked where the last attempt may have run; `still_possible` raises where no attempt makes sense.
    """
    options = {"heartbeat_timeout": HEARTBEAT_TIMEOUT, **options}
    policy: RetryPolicy = options.pop("retry_policy", None) or RetryPolicy()
    whole: timedelta | None = options.pop("schedule_to_close_timeout", None)
    if whole is None and options.get("start_to_close_timeout") is None:
        options["start_to_close_timeout"] = START_TO_CLOSE
    size = measure(request)
    check_size(size, server, name)
    deadline = None if whole is None else workflow.now() + whole
    number = 0
    while True:
        number += 1
        still_possible()
        try:
            async with room(size):
                remaining = None if deadline is None else deadline - workflow.now()
                result: T = await workflow.execute_activity(
                    name,
                    request,
                    result_type=result_type,
                    retry_policy=ONCE,
                    schedule_to_close_timeout=remaining,
                    **options,
                )
                return result
        except ActivityError as error:
            if isinstance(error.cause, CancelledError):
                raise
            verdict = judge(error, server)
        pause = pause_after(policy, number, verdict)
        if verdict.outcome == "answered" or verdict.error.type in (policy.non_retryable_error_types or ()):
            raise verdict.error
        if policy.maximum_attempts and number >= policy.maximum_attempts:
            raise verdict.error
        if deadline is not None and workflow.now() + pause >= deadline:
            raise verdict.error
        if verdict.outcome != "not run" and not await may_repeat():
            raise verdict.error
        await workflow.sleep(pause)


def pause_after(policy: RetryPolicy, number: int, verdict: Verdict) -> timedelta:
    """What the policy says, and what the error asks for: the longer of the two."""
    longest = policy.maximum_interval or 100 * policy.initial_interval
    factor = min(policy.backoff_coefficient ** (number - 1), longest / policy.initial_interval)
    return max(min(policy.initial_interval * factor, longest), timedelta(seconds=verdict.retry_after))
