"""A child process on POSIX, from its spawn to the last of its descendants.

The child gets a session and process group of its own, two pipes that we own, and a third for its stderr. Its exit is
waited for, not polled, and told to the wire at once; then what is left of its group is asked to end, waited for and killed
(`_group.py`), while the child's own pid still holds the group's number, and the child is reaped.

Leaving is a sequence with an end: close its stdin, wait, SIGTERM to the group, wait, SIGKILL to the group. It never
takes longer than the link allows, and when the owner is cancelled it goes straight to the signals. Whoever moved to a
session of its own is beyond the group's reach and not ours to kill; on Linux such processes are found by a variable
in their environment and reported.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, final

import trio
from mcp.client.stdio import get_default_environment

from .._link import Link
from ._descendants import MARKER, report_escaped, status_unreaped
from ._group import GRACE, Group
from ._pipe import FdPipe
from ._stderr import Stderr, StderrMode

_POLITE: Final = 2.0
"""The longest wait, in seconds, for a child to exit after its stdin was closed."""
_HURRIED: Final = 0.2
"""The grace between SIGTERM and SIGKILL when the owner is cancelled; there is no wait before it then."""
_BACKSTOP: Final = 0.5
"""How long the client may take to be left before the process is stopped regardless."""
_LOOK: Final = 0.02
_REAP: Final = 1.0
"""Seconds granted beyond the bound for the kernel to end what was killed."""


@final
class Child:
    """A running child process."""

    def __init__(self, link: Link, process: trio.Process, pipe: FdPipe, stderr: Stderr, mark: str) -> None:
        self.pipe: Final = pipe
        self.exited: Final = trio.Event()
        """Set when the child has exited: its status and its stderr are known."""
        self.on_exit: Callable[[], None] = lambda: None
        """Called once, synchronously, at the exit."""
        self.leave: Callable[[], None] = lambda: None
        """Say that the process is to be stopped soon; synchronous. `stop` still has to be called."""
        self._link = link
        self._process = process
        self._stderr = stderr
        self._mark = mark
        self._group = Group(link, process.pid, mark)
        self._watching = trio.CancelScope(shield=True)
        self._backstop = trio.CancelScope(shield=True)
        self._stopping = False
        self._stopped = trio.Event()
        self._gone = trio.Event()

    async def watch(self) -> None:
        """Wait for the exit; then see to the group and reap. Shielded: `stop` ends it."""
        with self._watching:
            handle = _pidfd(self._process.pid)
            if handle is not None:
                try:
                    await trio.lowlevel.wait_readable(handle)
                finally:
                    trio.lowlevel.notify_closing(handle)
                    os.close(handle)
                self._tell(status_unreaped(self._process.pid))
                # Until it is reaped, its pid is taken, so the group's number cannot mean anybody else.
                await self._group.end(min(GRACE, self._bound() / 2))
                await self._process.wait()
            else:
                status = await self._wait_unwatched()
                # Where SIGCHLD is ignored, the kernel keeps no status, and `subprocess` makes it 0.
                ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
                self._tell(None if ignored else status)
                await self._group.end(min(GRACE, self._bound() / 2))
            self._gone.set()

    async def _wait_unwatched(self) -> int:
        """Wait for the exit where Trio needs a thread for that, which is not always to be had."""
        try:
            return await self._process.wait()
        except RuntimeError:
            while (status := self._process.poll()) is None:
                await trio.sleep(_LOOK)
            return status

    def _tell(self, status: int | None) -> None:
        self._link.exit_status = status
        self._stderr.read_now()
        self.exited.set()
        self.on_exit()

    async def settle(self, seconds: float) -> None:
        """Wait a moment for the exit of a child whose stdout has ended, so that its status and stderr are known."""
        with trio.move_on_after(seconds):
            await self.exited.wait()
        self._stderr.read_now()

    async def stop(self) -> None:
        """End the process and its group within the link's bounds. Idempotent; a second caller waits for the first."""
        if self._stopping:
            with trio.CancelScope(shield=True):
                await self._stopped.wait()
            return
        self._stopping = True
        self._backstop.cancel()
        try:
            await self._stop()
        finally:
            if not self._gone.is_set():  # killed, and still not gone: it hangs in the kernel
                self._link.left_behind.append(self._process.pid)
                # Whenever it ends, it is not to stay as a zombie.
                trio.lowlevel.spawn_system_task(self._process.wait)
            self._watching.cancel()
            self._stopped.set()

    async def stop_anyway(self) -> None:
        """Stop soon, even when what must be left before holds on: a user's callback may shield itself for as long as it
        likes, and the process is not to outlive its bound for that."""
        with self._backstop:
            await trio.sleep(min(_BACKSTOP, self._bound() / 4))
            # `stop` cancels the scope that it would run in here, so it is run outside.
        if not self._stopping:
            with trio.CancelScope(shield=True):
                await self.stop()

    def _bound(self) -> float:
        return max(0.0, min(self._link.close_timeout, self._link.close_by - trio.current_time()))

    async def _stop(self) -> None:
        now = trio.current_time()
        bound = self._bound()
        self.pipe.close_stdin()
        grace = _HURRIED
        try:
            # Not shielded: an owner that is cancelled is in a hurry, and then so is this.
            with trio.move_on_at(now + min(_POLITE, bound / 2)):
                await self._gone.wait()
            grace = GRACE
        finally:
            with trio.CancelScope(shield=True, deadline=now + bound + _REAP):
                await self._force(now + bound, grace)
                await report_escaped(self._link, self._mark)

    async def _force(self, end: float, grace: float) -> None:
        if not self._gone.is_set():
            now = trio.current_time()
            grace = min(grace, max(0.0, end - now) / 2)
            self._group.ask(grace)
            with trio.move_on_at(now + grace):
                await self._gone.wait()
        if not self.exited.is_set():
            await self._group.kill(exited=False)
        # Where the child has exited, `watch` kills the rest of the group when its grace is over.
        await self._gone.wait()


def _pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that forbids it
        return None


async def _spawn(command: Sequence[str], env: dict[str, str], cwd: str | None, ours: list[int]) -> trio.Process:
    """Start the process; our ends of its pipes are in `ours` from the moment they exist: stdin, stdout, stderr."""
    theirs: list[int] = []
    try:
        stdin_r, stdin_w = os.pipe()
        theirs.append(stdin_r)
        ours.append(stdin_w)
        stdout_r, stdout_w = os.pipe()
        theirs.append(stdout_w)
        ours.append(stdout_r)
        stderr_r, stderr_w = os.pipe()
        theirs.append(stderr_w)
        ours.append(stderr_r)
        # Not cancellable once begun, and no checkpoint after it: a process that started is a process we know of.
        return await trio.lowlevel.open_process(
            command, stdin=stdin_r, stdout=stdout_w, stderr=stderr_w, env=env, cwd=cwd, start_new_session=True
        )
    finally:
        for fd in theirs:
            os.close(fd)


@asynccontextmanager
async def open_child(
    link: Link, command: str, args: Sequence[str], env: dict[str, str], cwd: str | None, stderr_mode: StderrMode = "log"
) -> AsyncIterator[Child]:
    """A child process for the block; gone, with its group, when the block is left.

    What the block raises comes out bare. `OSError` of a command that cannot be started comes out as it is.
    """
    mark = secrets.token_hex(16)
    environment = {**get_default_environment(), **env, MARKER: mark}
    ours: list[int] = []
    try:
        process = await _spawn([command, *args], environment, cwd, ours)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    link.pid = process.pid
    pipe = FdPipe(ours[0], ours[1])
    stderr = Stderr(link, ours[2], stderr_mode)
    child = Child(link, process, pipe, stderr, mark)
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            child.leave = lambda: nursery.start_soon(child.stop_anyway)
            nursery.start_soon(child.watch)
            nursery.start_soon(stderr.run)
            try:
                yield child
            except BaseException as exc:
                raised = exc
            try:
                await child.stop()
            except trio.Cancelled as exc:
                raised = raised or exc
            finally:
                await stderr.finish()
                nursery.cancel_scope.cancel(reason="the child is gone")
    except trio.Cancelled as exc:
        raised = raised or exc  # the nursery knows nothing of what the block raised
    finally:
        pipe.close()
    if raised is not None:
        raise raised
