"""How a thread waits for the Trio thread.

Each job gets a queue on which its thread waits: for the result, and before it for callbacks that the thread must run itself.
An interrupt (control-C) during the wait cancels the job, waits until it has ended, and only then comes out, so that nothing
goes on behind the program's back; a second one comes out at once. A plain lock would do for the result, but a progress
callback would then have to run in the Trio thread, where it holds up everybody.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, final

import outcome
import trio

from ._job import Block, Job, Result
from ._relays import Relay
from ._thread import TrioThread

# On Windows a wait without a deadline is not ended by a signal.
_WAIT = 0.1 if sys.platform == "win32" else None


Box = SimpleQueue["Result | Callable[[], None]"]


def take(box: Box, *, callbacks: bool = True) -> Result:
    """Wait for the result, running callbacks meanwhile, or dropping them."""
    while True:
        try:
            item = box.get(timeout=_WAIT)
        except Empty:
            continue
        if not callable(item):
            return item
        if callbacks:
            item()


@final
class BlockingLink:
    """What all handles of one `BlockingPool` share: its thread, and whose the open leases are."""

    def __init__(self, thread: TrioThread) -> None:
        self.thread = thread
        self.held: dict[Any, int] = {}
        """Handles that only their taker has used, and its thread (R2: they end with the body, if that took them)."""

    def check_usable(self) -> None:
        """Raise `RuntimeError` in a thread that would wait for ever, or stop a Trio run."""
        self.thread.check_usable()
        check_no_trio()

    def run(
        self,
        function: Callable[[], Any],
        *,
        server: str | None = None,
        calls_server: Callable[[], bool] = bool,
        keeps_task: bool = False,
        at_once: bool = False,
        undo: Callable[[Any], object] | None = None,
        box: Box | None = None,
    ) -> Any:
        """Have it done in the Trio thread, and wait. `undo` is given the result that comes too late for an interrupt."""
        self.check_usable()
        box = box or SimpleQueue()
        job = Job(
            function,
            copy_context(),
            box.put,
            server=server,
            calls_server=calls_server,
            keeps_task=keeps_task,
            at_once=at_once,
        )
        return self._wait(box, job, partial(self.thread.submit, job), undo)

    def enter(self, open_it: Callable[[], AbstractAsyncContextManager[Any]], server: str | None) -> Block:
        """Enter a context manager in a task of its own."""
        self.check_usable()
        box: Box = SimpleQueue()
        block = Block(open_it, copy_context(), box.put, self.thread.settle)
        block.entering.server = server

        def undo(entered: Block) -> None:
            self.leave(entered, KeyboardInterrupt())

        entered: Block = self._wait(box, block.entering, partial(self.thread.submit, block), undo)
        return entered

    def leave(self, block: Block, error: BaseException | None) -> bool:
        """Have it left. Says whether it wants the body's error swallowed."""
        self.check_usable()
        box: Box = SimpleQueue()
        job = Job(bool, copy_context(), box.put)
        swallow: bool = self._wait(box, job, partial(self.thread.leave_block, block, job, error), None)
        return swallow

    def _wait(self, box: Box, job: Job, begin: Callable[[], None], undo: Callable[[Any], object] | None) -> Any:
        try:
            begin()
            result = take(box)
        except BaseException:
            self.thread.cancel(job)
            late = take(box, callbacks=False)
            if undo is not None and isinstance(late, outcome.Value):
                undo(late.value)
            raise
        assert result is not None, "only its own thread cancels a job"
        try:
            return result.unwrap()
        finally:
            del result  # its traceback holds this frame

    def relay(self, callback: Callable[..., Any], box: Box) -> Relay:
        """A progress callback for the Trio thread: it has the plain function called by the thread that waits."""

        def send(function: Callable[[], Any], done: Callable[[outcome.Outcome[Any]], None]) -> None:
            box.put(lambda: done(outcome.capture(function)))

        return Relay(callback, send, self.thread.soon)

    def release_own(self) -> None:
        """Release the handles that this thread took and nobody else has used."""
        me = threading.get_ident()
        for handle in [handle for handle, taker in self.held.items() if taker == me]:
            handle.release()


def check_no_trio() -> None:
    """Raise `RuntimeError` inside a Trio run."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "BlockingPool blocks its thread, and this one runs Trio, which would stop: use trio_mcp_pool.open_pool in "
            "Trio programs, or call the BlockingPool by trio.to_thread.run_sync"
        )
