"""The Trio thread of a bridge: it opens the pool, does the jobs of other threads, and closes the pool.

The rule kept is R2's order of leaving, across threads: the body, in its own thread, leaves first; then the pool refuses,
drains and closes, while the jobs of others still run; and only then the thread ends. Whatever ends it, no caller is left
waiting: one whose job had begun to run a tool gets `OutcomeUnknownError`, every other `PoolClosedError`. A portal alone
would leave them with a bare `CancelledError`, or for ever.

The thread is a daemon, so that a program which forgets to leave the block can end; an exit handler closes the pool then.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import final

import outcome
import trio

from .. import OutcomeUnknownError, Pool, PoolClosedError, PoolError
from ._job import Block, Job, Result, Worker


class _BodyFailed(BaseException):
    """Raised in the body of `open_pool` where the body in the other thread raised: such a body gives nobody time."""


@final
class TrioThread:
    """A thread with a Trio run that holds one pool. All methods are for other threads, and none of them waits."""

    def __init__(
        self, open_it: Callable[[], AbstractAsyncContextManager[Pool]], on_change: Callable[[], object], name: str
    ) -> None:
        self._open = open_it
        self._on_change = on_change
        """Called in the Trio thread when the pool is open, and when the thread has ended."""
        self._name = name
        self._pid = os.getpid()
        self._inbox: deque[Job | Block] = deque()
        self._pending: set[Job] = set()
        self._idle: list[Worker] = []
        self._awake = False
        """Whether `_deliver` is going to run: then nobody else need wake the thread."""
        self._at_end: deque[Callable[[], None]] = deque()
        self._flusher: trio.lowlevel.Task | None = None
        self._clean = True
        self._hurried = False
        self._token: trio.lowlevel.TrioToken | None = None
        self.pool: Pool | None = None
        self.ended: bool = False
        self.error: BaseException | None = None
        """What ended it, if that was not its body."""
        context = copy_context()  # R1: owners run in the variables of whoever opened the pool
        self._thread = threading.Thread(target=lambda: context.run(self._main), name="trio_mcp_pool", daemon=True)

    # For the other threads.

    def start(self) -> None:
        """Start the thread. `on_change` is called when `pool` is there, or `ended` is set."""
        atexit.register(self._at_exit)
        self._thread.start()

    def check_usable(self) -> None:
        """Raise `RuntimeError` where this thread or process can never get an answer, and say what to do instead."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this {self._name} belongs to process {self._pid}, and its Trio thread did not survive the fork into process "
                f"{os.getpid()}: open a pool in each process, after the fork, or start processes with the 'spawn' method"
            )
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(
                f"this {self._name} was called in its own Trio thread (by an observer, a callback, or the handler of a server "
                "in this process), which would wait for itself: call it from another thread, for instance by "
                "trio.to_thread.run_sync, or open a pool of that code's own with open_pool"
            )

    def submit(self, *jobs: Job | Block) -> None:
        """Have jobs done, and blocks entered. Their `reply` is told, whatever happens."""
        self._pending.update(job.entering if isinstance(job, Block) else job for job in jobs)
        self._inbox.extend(jobs)
        if not self._awake:
            self._awake = True
            self.soon(self._deliver)
        if self.ended:
            self._fail_pending()

    def cancel(self, job: Job) -> None:
        """Cancel a job, which may have ended meanwhile. Its `reply` is told as ever."""
        self.soon(job.cancel)
        # An interrupt may have come in the middle of `submit`, between the flag and the waking.
        self.soon(self._deliver)
        if self.ended:
            self._fail_pending()

    def leave_block(self, block: Block, job: Job, error: BaseException | None) -> None:
        """Have a block left. The job's `reply` is told."""
        self._pending.add(job)
        self.soon(block.leave, job, error)
        if self.ended:
            self._fail_pending()

    def leave(self, *, clean: bool) -> None:
        """Let the body of `open_pool` leave, as one that returned or as one that raised. `on_change` is called at the end."""
        self.soon(self._leave_body, clean)

    def hurry(self) -> None:
        """Close without draining, within `close_timeout`, whatever was being waited for. Also before it has opened."""
        self._hurried = True
        self.soon(self._cancel_all)

    def join(self) -> None:
        """Wait for the last microseconds of a thread whose `ended` is set, so that no thread outlives the block."""
        self._thread.join(1.0)

    def owns_process(self) -> bool:
        """Whether this is still the process that started the thread."""
        return os.getpid() == self._pid

    def soon(self, function: Callable[..., object], *args: object) -> None:
        if self._token is None:
            return  # it failed before it began
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            pass  # `ended` is set, or about to be

    def _at_exit(self) -> None:
        if self.owns_process() and self._thread.is_alive():
            self.hurry()
            self._thread.join()

    # In the Trio thread.

    def at_end_of_turn(self, function: Callable[[], None]) -> None:
        """Call it when all tasks that can run now have done so. In the Trio thread; when that has ended, calls it at once."""
        flusher, self._flusher = self._flusher, None
        self._at_end.append(function)
        if flusher is not None:
            trio.lowlevel.reschedule(flusher)
        elif self.ended:
            self._flush()

    async def _flushing(self) -> None:
        """A task that is woken with the first answer of a turn, and so runs when the turn's other tasks have."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._flush()
            self._flusher = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def _flush(self) -> None:
        """May run in two threads at once when the Trio thread has ended."""
        while True:
            try:
                function = self._at_end.popleft()
            except IndexError:
                return
            function()

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            atexit.unregister(self._at_exit)
            self._fail_pending()
            self._flush()
            self._on_change()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._left = trio.Event()
        self._closing = trio.CancelScope()
        if self._hurried:
            self._cancel_all()
        error: BaseException | None = None
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._flushing)
            try:
                with self._closing:
                    async with self._open() as self.pool:
                        self._on_change()
                        await self._left.wait()
                        if not self._clean:
                            raise _BodyFailed
            except _BodyFailed:
                pass
            except BaseException as exc:  # noqa: ASYNC103 (raised below, bare)
                error = exc
            # The pool is closed. What has still to be told so, or holds a block open, ends now.
            self._nursery.cancel_scope.cancel(reason="the pool is closed")
        if error is not None:
            raise error

    def _leave_body(self, clean: bool) -> None:
        self._clean = clean
        self._left.set()

    def _cancel_all(self) -> None:
        self._clean = False
        self._closing.cancel(reason="the caller does not wait for a clean end")

    def _deliver(self) -> None:
        self._awake = False
        while self._inbox:
            job = self._inbox.popleft()
            try:
                if isinstance(job, Block):
                    job.entering.context.run(self._nursery.start_soon, job.run)
                elif job.at_once:
                    job.started = True
                    self.settle(job, job.context.run(outcome.capture, job.function))
                elif self._idle and not job.keeps_task:
                    self._idle.pop().give(job)
                else:
                    job.context.run(self._nursery.start_soon, Worker(self._idle, self.settle).run, job)
            except RuntimeError:
                # The nursery has closed. An error raised here would crash the run; the job is answered when the thread ends.
                pass

    def settle(self, job: Job, result: Result) -> None:
        try:
            self._pending.remove(job)
        except KeyError:
            return  # answered already
        job.reply(result)

    def _fail_pending(self) -> None:
        """Answer all who wait although the thread has ended. May run in two threads at once: each job is removed once."""
        for job in list(self._pending):
            self.settle(job, outcome.Error(self._ended_error(job)))

    def _ended_error(self, job: Job) -> PoolError:
        error: PoolError
        if job.started and job.calls_server():
            error = OutcomeUnknownError(
                f"the Trio thread of this {self._name} ended during a call of server {job.server!r}, which may have run it",
                server=job.server,
            )
        else:
            error = PoolClosedError(f"this {self._name} is closed: its Trio thread has ended", server=job.server)
        error.__cause__ = self.error
        return error
