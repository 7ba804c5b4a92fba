"""The MCP SDK's own stdio transport, with a watch on it: what Windows gets, and what `wire="sdk"` asks for.

The SDK's transport is wrapped as a transport of ours, which is public API, so that the link learns what the SDK tells nobody:
that the session is gone, that a request was handed over, what the child wrote to stderr, which processes it left. On
Linux the child is found by the variable in its environment, and what is left of it after the close is killed or reported.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, cast, final

import anyio
import mcp
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.message import SessionMessage

from ..._groups import sole_error
from .._link import Call, Link
from .._streams import WatchedReading, WatchedWriting
from ._descendants import (
    MARKER,
    group_members,
    in_thread,
    marked_processes,
    report_escaped,
    status_unreaped,
    wait_gone,
)
from ._stderr import Stderr, StderrMode

_LOOKS: Final = 20
_BETWEEN_LOOKS: Final = 0.005
_SWEEP: Final = 1.0
"""How long, in seconds, killing and finding what is left after the SDK's close may take."""


@final
class _Writing(WatchedWriting):
    notice_seconds = 0.05

    async def _send(self, item: SessionMessage, call: Call | None) -> None:
        # The SDK takes a message when the one before it is in the pipe. It would wait for ever for a child that reads nothing.
        with trio.move_on_after(self._link.write_timeout):
            try:
                await self._inner.send(item)
            except trio.Cancelled:
                # The stream may have handed the message over and been cancelled in the same instant.
                if call is not None:
                    call.written = True
                raise
            if call is not None:
                call.written = True
            return
        self._link.lost(TimeoutError(f"no message was accepted for {self._link.write_timeout:g} s"))
        raise anyio.ClosedResourceError


@final
class _Watched:
    """The SDK's transport with the link told of what happens on it."""

    def __init__(
        self,
        link: Link,
        inner: AbstractAsyncContextManager[tuple[Any, Any]],
        mark: str,
        stderr: Stderr,
        nursery: trio.Nursery,
    ) -> None:
        self.shaken = False
        """Whether the handshake has succeeded."""
        self._link = link
        self._inner = inner
        self._mark = mark
        self._stderr = stderr
        self._nursery = nursery
        self._hurry = trio.CancelScope(shield=True)

    async def __aenter__(self) -> tuple[WatchedReading, WatchedWriting]:
        reading, writing = await self._inner.__aenter__()
        try:
            await self._find_child()
        except BaseException:
            self._nursery.start_soon(self._kill_late)
            await self._inner.__aexit__(*sys.exc_info())
            raise
        self._link.phase = "handshake"
        # So that every error of the calls that are cut can tell how the process ended.
        return WatchedReading(self._link, reading, self._see_it_exit), _Writing(self._link, writing)

    async def _find_child(self) -> None:
        """The SDK does not tell whom it has started. A process shows its environment a moment after its start."""
        for _ in range(_LOOKS if sys.platform == "linux" else 0):
            for one in await in_thread(marked_processes, self._mark):
                if one.parent == os.getpid():
                    self._link.pid = one.pid
                    return
            await trio.sleep(_BETWEEN_LOOKS)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        link = self._link
        if link.is_lost:
            with trio.CancelScope(shield=True):
                await self._see_it_exit()
        self._stderr.read_now()
        bare = None if exc is None else sole_error(exc)
        if not self.shaken and isinstance(bare, Exception):
            link.failing(bare)
        self._nursery.start_soon(self._kill_late)
        return await self._inner.__aexit__(kind, exc, traceback)

    async def _see_it_exit(self) -> None:
        """Its stdout has ended, so it is about to exit, if it has not. Its status can be read until the SDK reaps it."""
        for _ in range(_LOOKS if self._link.pid is not None and self._link.exit_status is None else 0):
            assert self._link.pid is not None
            self._link.exit_status = status_unreaped(self._link.pid)
            if self._link.exit_status is not None:
                return
            await trio.sleep(_BETWEEN_LOOKS)

    async def _kill_late(self) -> None:
        """The SDK takes its own time to close; where the link allows less, hasten it."""
        link = self._link
        with self._hurry:
            allowed = max(0.0, min(link.close_timeout, link.close_by - trio.current_time()))
            await trio.sleep(allowed * 3 / 4)
            if link.pid is None:
                await self._find_child()
            if link.pid is not None and os.name == "posix":
                link.killed += await in_thread(group_members, link.pid) or [link.pid]
                with suppress(ProcessLookupError, PermissionError):
                    # Its leader is not reaped yet: the SDK's close is still waiting for it.
                    os.killpg(link.pid, signal.SIGKILL)

    def closed(self) -> None:
        """The SDK's close has ended: nothing is left to hasten."""
        self._hurry.cancel()


async def _sweep(link: Link, mark: str) -> None:
    """Kill what is left of the group, report what has left it. The marker, not the number, says whose a process is."""
    for one in await in_thread(marked_processes, mark):
        if one.group == link.pid and os.name == "posix":
            if one.pid not in link.killed:
                link.killed.append(one.pid)
            with suppress(ProcessLookupError, PermissionError):
                os.kill(one.pid, signal.SIGKILL)
    if link.pid is not None:
        await wait_gone(link.killed, link.pid)
    await report_escaped(link, mark)


@asynccontextmanager
async def connect_sdk_stdio(
    link: Link,
    command: str,
    args: Sequence[str],
    env: dict[str, str],
    cwd: str | None,
    *,
    stderr: StderrMode = "log",
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Start a server over the SDK's transport and shake hands with it; gives the client. Any platform.

    `env` comes on top of the SDK's short list of harmless variables. Raises `OSError` of a command that cannot be started
    as it is, and the handshake's error bare. Entered and left by one task.
    """
    link.phase = "spawn"
    mark = secrets.token_hex(16)
    parameters = StdioServerParameters(
        command=command,
        args=list(args),
        env={**env, MARKER: mark},
        cwd=cwd,
        # By default one wrong byte ends the SDK's reading without a word, and every call hangs.
        encoding_error_handler="replace",
    )
    theirs_read, theirs_write = os.pipe()
    errlog = os.fdopen(theirs_write, "w", encoding="utf-8")
    reader = Stderr(link, theirs_read, stderr)
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.run)
            watched = _Watched(link, stdio_client(parameters, errlog), mark, reader, nursery)
            try:
                # In here, for it calls the user's extensions, and what they raise must not leave the reader of stderr waiting.
                client = mcp.Client(cast("Any", watched), **client_options)
                await client.__aenter__()
                errlog.close()
                watched.shaken = True
                try:
                    yield client
                except BaseException as exc:
                    raised = exc
                await client.__aexit__(None, None, None)
            except BaseException as exc:
                raised = sole_error(exc)
            finally:
                errlog.close()
                watched.closed()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _SWEEP):
                    await _sweep(link, mark)
                await reader.finish()
                nursery.cancel_scope.cancel(reason="the child is gone")
    finally:
        reader.close()
        errlog.close()
    if raised is not None:
        raise raised
