"""The scopes that a worker holds open for workflows.

Each is a long activity. It ends when the workflow closes it, when it is cancelled (so learns the heartbeat of an activity whose
workflow was terminated), when nothing was called in it for its idle timeout, and when the worker shuts down. Whatever ends it,
its sessions close before the activity ends, so that a worker's free slot is a free slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from trio_mcp_pool import PoolError
from trio_mcp_pool.bridge import AsyncioPool, AsyncioScopedPool

from ._failures import failure, from_error
from ._names import HEARTBEAT_TIMEOUT, ScopeOpened, ScopeRequest, close_scope_name, open_scope_name, scope_signal


@final
class _Held:
    """One scope."""

    def __init__(self, pool: AsyncioScopedPool) -> None:
        self.pool = pool
        self.running = 0
        self.used_at = asyncio.get_running_loop().time()
        self.close = asyncio.Event()
        self.closed = asyncio.Event()


@final
class Scopes:
    """All scopes of one plugin in one process."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    @contextmanager
    def use(self, scope: str, server: str) -> Iterator[AsyncioScopedPool]:
        """The scope's pool, for one call. Raises the failure `SessionLostError` if it is not held here (any more)."""
        held = self._held.get(scope)
        if held is None or held.close.is_set():
            raise failure(
                "SessionLostError",
                f"the scope with server {server!r} is not open on this worker any more",
                server=server,
                outcome="not run",
            )
        held.running += 1
        try:
            yield held.pool
        finally:
            held.running -= 1
            held.used_at = asyncio.get_running_loop().time()

    def opening(
        self, prefix: str, find_pool: Callable[[], AsyncioPool], client: Client, own_queue: str
    ) -> Callable[..., Any]:
        """The activity that holds a scope open, for a worker whose own queue is `own_queue`."""

        @activity.defn(name=open_scope_name(prefix))
        async def open_scope(request: ScopeRequest) -> None:
            info = activity.info()
            key = f"{info.workflow_id}/{request.scope}"
            server = request.servers[0]
            beats = asyncio.create_task(_beat())
            try:
                async with find_pool().open_scope(key) as scope:
                    held = _Held(scope)
                    await asyncio.gather(*(scope.wait_ready(name) for name in request.servers))
                    self._held[request.scope] = held
                    assert info.workflow_id is not None
                    workflow = client.get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
                    await workflow.signal(scope_signal(request.scope), ScopeOpened(own_queue))
                    await self._hold(held, request.idle_seconds, server)
            except asyncio.CancelledError:
                if activity.is_worker_shutdown():
                    raise _ended("its worker shut down", server) from None
                raise
            except PoolError as error:
                raise from_error(error, server) from None
            except RPCError as error:
                raise _ended(f"its workflow could not be told: {error.message}", server) from None
            finally:
                beats.cancel()
                ended = self._held.pop(request.scope, None)
                if ended is not None:
                    ended.closed.set()

        return open_scope

    def closing(self, prefix: str) -> Callable[..., Any]:
        """The activity that ends a scope, and returns when its sessions are closed."""

        @activity.defn(name=close_scope_name(prefix))
        async def close_scope(scope: str) -> None:
            held = self._held.get(scope)
            if held is not None:
                held.close.set()
                await held.closed.wait()

        return close_scope

    def close_all(self) -> None:
        """End all of them: the worker shuts down."""
        for held in self._held.values():
            held.close.set()

    async def _hold(self, held: _Held, idle_seconds: float, server: str) -> None:
        shutdown = asyncio.create_task(activity.wait_for_worker_shutdown())
        close = asyncio.create_task(held.close.wait())
        loop = asyncio.get_running_loop()
        try:
            while not close.done():
                left = held.used_at + idle_seconds - loop.time() if not held.running else idle_seconds
                if left <= 0:
                    raise _ended(f"nothing was called in it for {idle_seconds:g} s", server)
                await asyncio.wait([shutdown, close], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if shutdown.done():
                    raise _ended("its worker shut down", server)
        finally:
            held.close.set()
            shutdown.cancel()
            close.cancel()


async def _beat() -> None:
    every = (activity.info().heartbeat_timeout or HEARTBEAT_TIMEOUT) / 3
    while True:
        activity.heartbeat()
        await asyncio.sleep(every.total_seconds())


def _ended(why: str, server: str) -> Exception:
    return failure("SessionLostError", why, server=server, outcome="not run")
