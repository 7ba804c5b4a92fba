"""A child process on POSIX, from its spawn to the last of its descendants.

The child gets a session and process group of its own, two pipes that we own, and a third for its stderr. Its exit is
waited for, not polled, and told to the wire at once; then what is left of its group is killed, while the child's own
pid still holds the group's number, and the child is reaped.

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
from contextlib import asynccontextmanager, suppress
from typing import Final, final

import trio
from mcp.client.stdio import get_default_environment

from ._descendants import MARKER, group_members, report_escaped, status_unreaped, wait_gone
from ._link import Link
from ._stderr import Stderr

_CHUNK: Final = 65536
_READS_IN_A_ROW: Final = 16
_POLITE: Final = 2.0
"""The longest wait, in seconds, for a child to exit after its stdin was closed, and again after SIGTERM."""
_HURRIED: Final = 0.2
"""The same when the owner is cancelled."""
_BACKSTOP: Final = 0.5
"""How long the client may take to be left before the process is stopped regardless."""
_REAP: Final = 0.5
"""Seconds granted beyond the bound for the kernel to end what was killed."""


@final
class FdPipe:
    """The byte pipe of a child: its stdin and stdout, non-blocking."""

    __slots__ = ("_reads", "_stdin", "_stdout")

    def __init__(self, stdin: int, stdout: int) -> None:
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self._stdin = stdin
        self._stdout = stdout
        self._reads = 0

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self._stdin < 0:
            raise trio.ClosedResourceError
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        if self._stdin < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._stdin)

    def receive_nowait(self) -> bytes | None:
        if self._stdout < 0:
            raise trio.ClosedResourceError
        try:
            return os.read(self._stdout, _CHUNK)
        except BlockingIOError:
            return None

    async def receive(self) -> bytes:
        # A full chunk means that more is probably there. Anything shorter emptied the pipe: asking again would be in vain.
        chunk = self.receive_nowait() if 0 < self._reads < _READS_IN_A_ROW else None
        while chunk is None:
            self._reads = 0
            if self._stdout < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._stdout)
            chunk = self.receive_nowait()
        self._reads = self._reads + 1 if len(chunk) == _CHUNK else 0
        return chunk

    def close_stdin(self) -> None:
        if self._stdin >= 0:
            fd, self._stdin = self._stdin, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def close(self) -> None:
        self.close_stdin()
        if self._stdout >= 0:
            fd, self._stdout = self._stdout, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)


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
        self._watching = trio.CancelScope(shield=True)
        self._backstop = trio.CancelScope(shield=True)
        self._stopping = False
        self._stopped = trio.Event()
        self._gone = trio.Event()

    async def watch(self) -> None:
        """Wait for the exit; then see to the group and reap. Shielded: `stop` ends it."""
        pid = self._process.pid
        with self._watching:
            handle = _pidfd(pid)
            if handle is not None:
                try:
                    await trio.lowlevel.wait_readable(handle)
                finally:
                    os.close(handle)
                self._tell(status_unreaped(pid) or 0)
                # Until it is reaped, its pid is taken, so the group's number cannot mean anybody else.
                members = await trio.to_thread.run_sync(group_members, pid)
                _kill_group(pid, signal.SIGKILL)
                self._link.killed += [one for one in members if one != pid and one not in self._link.killed]
                await self._process.wait()
            else:
                self._tell(await self._process.wait())
                _kill_group(pid, signal.SIGKILL)
            self._gone.set()

    def _tell(self, status: int) -> None:
        self._link.exit_status = status
        self._stderr.read_now()
        self.exited.set()
        self.on_exit()

    async def settle(self, seconds: float) -> None:
        """Wait a moment for the exit of a child whose stdout has ended, so that its status and stderr are known."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
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
        patience = _HURRIED
        try:
            # Not shielded: an owner that is cancelled is in a hurry, and then so is this.
            with trio.move_on_at(now + min(_POLITE, bound / 2)):
                await self._gone.wait()
            patience = _POLITE
        finally:
            with trio.CancelScope(shield=True, deadline=now + bound + _REAP):
                await self._force(now + bound, patience)
                await report_escaped(self._link, self._mark)

    async def _force(self, end: float, patience: float) -> None:
        pid = self._process.pid
        if not self.exited.is_set():
            now = trio.current_time()
            patience = min(patience, max(0.0, end - now) / 2)
            _kill_group(pid, signal.SIGTERM)
            with trio.move_on_at(now + patience):
                await self.exited.wait()
        if not self.exited.is_set():
            self._link.killed += await trio.to_thread.run_sync(group_members, pid) or [pid]
            _kill_group(pid, signal.SIGKILL)
        await self._gone.wait()
        await wait_gone(self._link.killed)


def _pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that forbids it
        return None


def _kill_group(pgid: int, sig: signal.Signals) -> None:
    # ESRCH: nobody left. EPERM: macOS says so for a group of zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, sig)


async def _spawn(
    command: Sequence[str], env: dict[str, str], cwd: str | None, ours: list[int]
) -> tuple[trio.Process, int, int, int]:
    """Start the process; our ends of its pipes are in `ours` from the moment they exist."""
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
        process = await trio.lowlevel.open_process(
            command, stdin=stdin_r, stdout=stdout_w, stderr=stderr_w, env=env, cwd=cwd, start_new_session=True
        )
    finally:
        for fd in theirs:
            os.close(fd)
    return process, stdin_w, stdout_r, stderr_r


@asynccontextmanager
async def open_child(
    link: Link, command: str, args: Sequence[str], env: dict[str, str], cwd: str | None
) -> AsyncIterator[Child]:
    """A child process for the block; gone, with its group, when the block is left.

    What the block raises comes out bare. `OSError` of a command that cannot be started comes out as it is.
    """
    mark = secrets.token_hex(16)
    environment = {**get_default_environment(), **env, MARKER: mark}
    ours: list[int] = []
    try:
        process, stdin, stdout, stderr_fd = await _spawn([command, *args], environment, cwd, ours)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    link.pid = process.pid
    pipe = FdPipe(stdin, stdout)
    stderr = Stderr(link, stderr_fd)
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
                stderr.close()
                nursery.cancel_scope.cancel(reason="the child is gone")
    except trio.Cancelled as exc:
        raised = raised or exc  # the nursery knows nothing of what the block raised
    finally:
        pipe.close()
    if raised is not None:
        raise raised
