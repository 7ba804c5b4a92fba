"""One piece of work that another thread wants done under Trio, and the tasks that do it.

A worker is a task that does one job and waits for the next: waking a task costs less than starting one. A context manager
gets a task of its own, which enters it, waits, and leaves it, because its scopes belong to one task while the callers that
enter and leave it may be two (a web framework's dependency, a fixture). Both run in their caller's context variables, so
that a trace continues. The obvious way, anyio's portal, answers each call with a `concurrent.futures.Future`: that takes
about twice as long, and nobody hears anything when the event loop ends.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Any, TypeAlias, final

import outcome
import trio

Result: TypeAlias = "outcome.Value[Any] | outcome.Error | None"
"""How a job ended; `None` where it was cancelled by its caller."""

_CANCELLED = "the caller, outside of Trio, was cancelled or interrupted"
_MOST_IDLE = 64


@final
class Job:
    """A function to call under Trio, whose awaitable, if it returns one, is awaited there too."""

    __slots__ = (
        "at_once",
        "calls_server",
        "cancelled",
        "context",
        "function",
        "keeps_task",
        "reply",
        "scope",
        "server",
        "started",
    )

    def __init__(
        self,
        function: Callable[[], Any],
        context: Context,
        reply: Callable[[Result], object],
        *,
        server: str | None = None,
        calls_server: Callable[[], bool] = bool,
        keeps_task: bool = False,
        at_once: bool = False,
    ) -> None:
        self.function: Callable[[], Any] = function
        self.context: Context = context
        self.reply: Callable[[Result], object] = reply
        """Told the result, once, in the Trio thread or in the one that finds it ended. Must not block."""
        self.server: str | None = server
        self.calls_server: Callable[[], bool] = calls_server
        """Whether the server may have acted on it by now, once it has started."""
        self.keeps_task: bool = keeps_task
        """Whether the pool goes on knowing the task that did it, as the holder of a lease: it must do no other job."""
        self.at_once: bool = at_once
        """Whether it is a synchronous function, which needs no task and is done before any later job begins."""
        self.started: bool = False
        self.cancelled: bool = False
        self.scope: trio.CancelScope | None = None
        """What cancels it, while it runs."""

    def cancel(self) -> None:
        """Cancel it; called in the Trio thread. One that has ended is left alone."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel(reason=_CANCELLED)

    async def run_in(self, scope: trio.CancelScope) -> Result:
        """Do it in this scope, which was just entered. Lets cancellations through."""
        self.started = True
        self.scope = scope
        if self.cancelled:
            scope.cancel(reason=_CANCELLED)
        try:
            value = self.function()
            if inspect.isawaitable(value):
                value = await value
            return outcome.Value(value)
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:  # noqa: ASYNC103 (as below)
            rest = group.split(trio.Cancelled)[1]
            if rest is None:
                raise  # a verb with a nursery was cancelled
            return outcome.Error(rest)
        except BaseException as error:  # noqa: ASYNC103 (raised in the caller's thread, an interrupt too)
            return outcome.Error(error)
        finally:
            self.scope = None


@final
class Worker:
    """A task that does one job after the other."""

    __slots__ = ("_idle", "_settle", "_task")

    def __init__(self, idle: list[Worker], settle: Callable[[Job, Result], None]) -> None:
        self._idle = idle
        self._settle = settle

    def give(self, job: Job) -> None:
        """Wake this worker, which is idle. It is parked, so that its next step will see the job's context."""
        self._task.context = job.context
        trio.lowlevel.reschedule(self._task, outcome.Value(job))

    async def run(self, job: Job) -> None:
        """Do this job, then those that come. Started in the context of the first."""
        self._task = trio.lowlevel.current_task()
        while True:
            result: Result = None
            with trio.CancelScope() as scope:
                result = await job.run_in(scope)
            self._settle(job, result)
            if job.keeps_task or len(self._idle) >= _MOST_IDLE:
                return
            del job, result
            # An idle worker must not keep a caller's context alive.
            self._task.context = Context()
            self._idle.append(self)
            job = await trio.lowlevel.wait_task_rescheduled(self._forget)

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


class _CallerGone(BaseException):
    """The body's error of a block whose caller was cancelled while it was entered."""


@final
class Block:
    """A context manager that one task enters, holds open, and leaves."""

    __slots__ = ("_leave", "_leaving", "_manager", "_settle", "entering", "value")

    def __init__(
        self,
        open_it: Callable[[], AbstractAsyncContextManager[Any]],
        context: Context,
        reply: Callable[[Result], object],
        settle: Callable[[Job, Result], None],
    ) -> None:
        self.value: Any = None
        """What entering gave."""

        async def enter() -> Block:
            self._manager = open_it()
            self.value = await self._manager.__aenter__()
            return self

        self.entering: Job = Job(enter, context, reply, keeps_task=True)
        self._settle = settle
        self._leave = trio.Event()
        self._leaving: Job | None = None

    def leave(self, job: Job, error: BaseException | None) -> None:
        """Have the context manager left, with this error as its body's. Called in the Trio thread, at most once."""

        async def leave() -> bool:
            kind = None if error is None else type(error)
            return bool(await self._manager.__aexit__(kind, error, None if error is None else error.__traceback__))

        job.function = leave
        self._leaving = job
        self._leave.set()

    async def run(self) -> None:
        """The life of its task. One cancel scope serves both ends, for a scope entered inside it may span the body."""
        current = self.entering
        result: Result = None
        with trio.CancelScope() as scope:
            result = await current.run_in(scope)
            if isinstance(result, outcome.Value) and scope.cancel_called:
                # It was entered without looking whether its caller was cancelled, who does not want it any more.
                result = None
                gone = _CallerGone()
                await self._manager.__aexit__(_CallerGone, gone, None)
            elif isinstance(result, outcome.Value):
                self._settle(current, result)
                try:
                    await self._leave.wait()
                except trio.Cancelled as cancelled:
                    # The pool has closed, or the thread is ending.
                    await self._manager.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
                    raise
                assert self._leaving is not None
                current, result = self._leaving, None
                result = await current.run_in(scope)
        self._settle(current, result)
