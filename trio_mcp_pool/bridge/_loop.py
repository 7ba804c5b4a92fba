"""How an asyncio task waits for the Trio thread.

What many tasks ask within one turn of the event loop goes over together, and so do answers: waking a thread is a system call
and a change of who holds the interpreter's lock, which costs more than the call itself. `asyncio.wrap_future` on a portal's
futures wakes the other side twice for each call.

A task that is cancelled while it waits cancels its job, waits until that has ended, and then is cancelled: nothing goes on
behind its back, and `asyncio.timeout` sees the cancellation that it sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from typing import Any, final
from weakref import WeakKeyDictionary

import outcome
import trio

from ._job import Block, Job, Result
from ._relays import Relay
from ._thread import TrioThread

_NOT_YET: Any = object()


@final
class _Reply:
    """Where the result of one job arrives. All of it happens in the event loop's thread, but for the call itself."""

    __slots__ = ("_crossing", "future", "result")

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self.future: asyncio.Future[None] = crossing.loop.create_future()
        self.result: Result = _NOT_YET

    def __call__(self, result: Result) -> None:
        """In the Trio thread."""
        self._crossing.back(partial(self._arrive, result))

    def _arrive(self, result: Result) -> None:
        self.result = result
        if not self.future.done():
            self.future.set_result(None)

    async def wait_after_cancellation(self) -> Result:
        """Wait for the end of the cancelled job, through further cancellations: it comes soon, or with the thread's end."""
        while self.result is _NOT_YET:
            self.future = self._crossing.loop.create_future()
            try:
                await self.future
            except asyncio.CancelledError:
                continue
        return self.result


@final
class Crossing:
    """The way from one event loop to the Trio thread and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: TrioThread) -> None:
        self.loop = loop
        self._thread = thread
        self._over: list[Job | Block] = []
        self._returned: deque[Callable[[], None]] = deque()
        self._waking = False

    def over(self, job: Job | Block) -> None:
        """Submit a job at the end of this turn of the event loop, with all others of the turn."""
        if not self._over:
            self.loop.call_soon(self._submit)
        self._over.append(job)

    def _submit(self) -> None:
        jobs, self._over = self._over, []
        self._thread.submit(*jobs)

    def back(self, function: Callable[[], None]) -> None:
        """Call it in the event loop's thread. Called in the Trio thread, or in the one that finds it ended."""
        self._returned.append(function)
        if not self._waking:
            self._waking = True
            self._thread.at_end_of_turn(self._wake)

    def _wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._receive)
        except RuntimeError:
            pass  # the event loop is closed: nobody waits any more

    def _receive(self) -> None:
        self._waking = False
        while self._returned:
            self._returned.popleft()()


@final
class AsyncioLink:
    """What all handles of one `AsyncioPool` share: its thread, and whose the open leases are."""

    def __init__(self, thread: TrioThread) -> None:
        self.thread = thread
        self.held: dict[Any, asyncio.Task[Any] | None] = {}
        """Handles that only their taker has used, and its task (R2: they end with the body, if that took them)."""
        self._crossings: WeakKeyDictionary[asyncio.AbstractEventLoop, Crossing] = WeakKeyDictionary()

    def crossing(self) -> Crossing:
        """That of the running event loop. Raises `RuntimeError` where none runs, or no answer could come."""
        self.thread.check_usable()
        loop = running_loop()
        crossing = self._crossings.get(loop)
        if crossing is None:
            crossing = self._crossings[loop] = Crossing(loop, self.thread)
        return crossing

    async def run(
        self,
        function: Callable[[], Any],
        *,
        server: str | None = None,
        calls_server: Callable[[], bool] = bool,
        keeps_task: bool = False,
        at_once: bool = False,
        undo: Callable[[Any], Awaitable[object]] | None = None,
    ) -> Any:
        """Have it done in the Trio thread. `undo` is given the result that comes too late for a cancellation."""
        crossing = self.crossing()
        reply = _Reply(crossing)
        job = Job(
            function,
            copy_context(),
            reply,
            server=server,
            calls_server=calls_server,
            keeps_task=keeps_task,
            at_once=at_once,
        )
        crossing.over(job)
        return await self._wait(reply, job, undo)

    async def enter(self, open_it: Callable[[], AbstractAsyncContextManager[Any]], server: str | None) -> Block:
        """Enter a context manager in a task of its own."""
        crossing = self.crossing()
        reply = _Reply(crossing)
        block = Block(open_it, copy_context(), reply, self.thread.settle)
        block.entering.server = server

        async def undo(entered: Block) -> None:
            await self.leave(entered, asyncio.CancelledError())

        crossing.over(block)
        entered: Block = await self._wait(reply, block.entering, undo)
        return entered

    async def leave(self, block: Block, error: BaseException | None) -> bool:
        """Have it left. Says whether it wants the body's error swallowed."""
        reply = _Reply(self.crossing())
        job = Job(bool, copy_context(), reply)
        self.thread.leave_block(block, job, error)
        swallow: bool = await self._wait(reply, job, None)
        return swallow

    async def _wait(self, reply: _Reply, job: Job, undo: Callable[[Any], Awaitable[object]] | None) -> Any:
        try:
            await reply.future
        except asyncio.CancelledError:
            self.thread.cancel(job)
            late = await reply.wait_after_cancellation()
            if undo is not None and isinstance(late, outcome.Value):
                await undo(late.value)
            raise
        result = reply.result
        assert result is not None, "only its own task cancels a job"
        try:
            return result.unwrap()
        finally:
            del result, reply  # its traceback holds this frame

    def relay(self, callback: Callable[..., Any]) -> Relay:
        """A progress callback for the Trio thread: it has the function, plain or async, called in this event loop."""
        crossing = self.crossing()
        context = copy_context()
        tasks: set[asyncio.Task[None]] = set()

        def send(function: Callable[[], Any], done: Callable[[outcome.Outcome[Any]], None]) -> None:
            async def call() -> None:
                async def run() -> object:
                    value = function()
                    return await value if isawaitable(value) else value

                done(await outcome.acapture(run))

            def start() -> None:
                task = crossing.loop.create_task(call(), context=context)
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            crossing.back(start)

        return Relay(callback, send, self.thread.soon)

    async def release_own(self) -> None:
        """Release the handles that this task took and nobody else has used."""
        me = asyncio.current_task()
        for handle in [handle for handle, taker in self.held.items() if taker is me]:
            handle.release()


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs here. Raises `RuntimeError` and says what to do where it is not asyncio's, or none."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("AsyncioPool works only under asyncio: in a Trio program use trio_mcp_pool.open_pool")
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "AsyncioPool works only under asyncio: start the program with asyncio.run(main()); in threads use BlockingPool"
        ) from None
