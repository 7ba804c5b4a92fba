"""`AsyncioPool`: the pool for asyncio programs.

What ends the Trio thread cancels the task of the body (R14), and comes out of its block instead of that cancellation, as
`asyncio.timeout` does it. Without that the body would go on without a pool, call by failed call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import signature
from types import TracebackType
from typing import Any, Self, final

from .. import Callbacks, Pool, Server, open_pool
from ._asyncio_handles import AsyncioScopedPool, AsyncioSession, Leases, awaited, build, synchronous
from ._loop import AsyncioLink, running_loop
from ._mirror import mirrors
from ._thread import TrioThread


@final
@mirrors(Pool, build)
class AsyncioPool(Leases):
    """A pool for asyncio programs: an `async with` block, inside of which any number of tasks may call at once.

    `servers` and `options` are the arguments of `open_pool`. The pool runs on a Trio thread of its own. Its verbs have the
    names, arguments, results and errors of `Pool`'s. All of them are awaited, `statistics` too; `Session.release` alone is
    not. Cancelling a task cancels its call, of which the server is told; `asyncio.timeout` works; context variables reach
    the call. Callbacks in the servers' descriptions run under Trio, those that a call brings along under asyncio.

    Leaving the block takes up to `drain_timeout` plus `close_timeout`, and after an exception `close_timeout`. Raises
    `RuntimeError` outside of asyncio, and in a process forked after it was opened. If the Trio thread ends, every call gets
    `OutcomeUnknownError`, if it had begun to call a server, or else `PoolClosedError`.
    """

    def __init__(self, servers: Mapping[str, Server], **options: Any) -> None:
        signature(open_pool).bind(servers, **options)
        self._open = partial(open_pool, servers, **options)
        self._link = AsyncioLink(TrioThread(self._open, self._on_change, "AsyncioPool"))
        self._entered = False
        self._changed = asyncio.Event()
        self._left = False
        self._cancelled_body = False

    @property
    def _target(self) -> Any:
        pool = self._link.thread.pool
        if pool is None:
            raise RuntimeError("this AsyncioPool is not open: use it inside its 'async with' block")
        return pool

    def __repr__(self) -> str:
        return f"<AsyncioPool: {self._link.thread.pool or 'not open'}>"

    def _on_change(self) -> None:
        """In the Trio thread."""
        try:
            self._loop.call_soon_threadsafe(self._note_change)
        except RuntimeError:
            pass  # the event loop is closed: nobody waits any more

    def _note_change(self) -> None:
        self._changed.set()
        if self._link.thread.ended and not self._left and self._body is not None and not self._body.done():
            # R14: an interrupt in the pool cancels the body.
            self._cancelled_body = True
            self._body.cancel()

    async def __aenter__(self) -> Self:
        self._loop = running_loop()
        if self._entered:
            raise RuntimeError("this AsyncioPool was entered already; make another one")
        self._entered = True
        self._body: asyncio.Task[Any] | None = None
        thread = self._link.thread
        thread.start()
        try:
            await self._wait_for_change()
        except asyncio.CancelledError:
            self._left = True
            await self._close_now()
            raise
        if thread.ended:
            # It did not open, or an interrupt has ended it since, before there was a body to cancel.
            self._left = True
            raise thread.error or RuntimeError("the Trio thread of this AsyncioPool has ended")
        self._body = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        thread = self._link.thread
        if not thread.owns_process():
            return  # a forked child: the pool is the parent's
        self._left = True
        if exc is None:
            await self._link.release_own()
        thread.leave(clean=exc is None)
        try:
            while not thread.ended:
                await self._wait_for_change()
        except asyncio.CancelledError:
            await self._close_now()
            raise
        thread.join()
        error = thread.error
        if error is None:
            return
        if self._cancelled_body and isinstance(exc, asyncio.CancelledError):
            if self._body is not None:
                self._body.uncancel()
            raise error
        if exc is None or isinstance(error, KeyboardInterrupt | SystemExit):
            raise error

    async def _close_now(self) -> None:
        """Give the leases no more time. Closing is bounded, and a further cancellation does not shorten it."""
        self._link.thread.hurry()
        while not self._link.thread.ended:
            try:
                await self._wait_for_change()
            except asyncio.CancelledError:
                continue

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def session(self, server: str, *, scope: Hashable = None) -> AbstractAsyncContextManager[AsyncioSession]:
        """Lease a session for the length of an `async with` block, as `Pool.session`."""
        return self._block("session", (server,), {"scope": scope})

    async def acquire(self, server: str, *, scope: Hashable = None) -> AsyncioSession:
        """Lease a session, as `Pool.acquire`; `AsyncioSession.release` ends it. A cancelled task ends the wait."""
        session: AsyncioSession = await self._call("acquire", (server,), {"scope": scope})
        return session

    async def acquire_nowait(self, server: str, *, scope: Hashable = None) -> AsyncioSession:
        """Lease a session that is free now, as `Pool.acquire_nowait`; raises `trio.WouldBlock` otherwise. Awaited."""
        session: AsyncioSession = await self._call("acquire_nowait", (server,), {"scope": scope})
        return session

    def open_scope(
        self,
        key: Hashable = None,
        *,
        servers: Mapping[str, Server] | None = None,
        callbacks: Callbacks | None = None,
    ) -> AbstractAsyncContextManager[AsyncioScopedPool]:
        """A corner of the pool whose sessions close with the `async with` block, as `Pool.open_scope`.

        The functions of `callbacks` run on the Trio thread.
        """
        return self._block("open_scope", (key,), {"servers": servers, "callbacks": callbacks})

    close_scope = awaited(Pool.close_scope)
    drain = awaited(Pool.drain)
    add_server = synchronous(Pool.add_server)
    remove_server = awaited(Pool.remove_server)
    reconfigure = awaited(Pool.reconfigure)
    statistics = synchronous(Pool.statistics)

    async def aclose(self) -> None:
        """Close the pool before its block ends, as `Pool.aclose`. Takes up to `drain_timeout` plus `close_timeout`."""
        await self._link.release_own()
        await self._call("aclose", (), {})


async def call_when_ready(
    pool: AsyncioPool, server: str, verb: str, arguments: Mapping[str, Any], on_ready: Callable[[], object]
) -> Any:
    """Wait until a server is ready, then call a verb of it, in one crossing instead of two: `trio_mcp_pool.temporal` does.

    `on_ready` is called in between, in the Trio thread: what ends before that has run nothing.
    """
    target, ready = pool._target, False

    async def call() -> Any:
        nonlocal ready
        await target.wait_ready(server)
        ready = True
        on_ready()
        return await getattr(target, verb)(server, **arguments)

    return await pool._link.run(call, server=server, calls_server=lambda: ready)
