"""`PoolPlugin`: the pool opens with a worker and closes with it.

One plugin has one pool for each event loop in which workers with it run, however many they are: the first opens it, the last
closes it, when its activities have ended. Beside each worker run two small ones: one takes openings of scopes, its slots being
the capacity; one serves a queue of its own with the calls inside the scopes that this process holds.

Arguments are checked when the plugin is made. An exception while a worker starts makes `async with Worker` wait for ever for an
end that is never told, so one that comes all the same lets the worker start and shut down first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from inspect import signature
from typing import Any, final

from temporalio.plugin import SimplePlugin
from temporalio.worker import Interceptor, Worker, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from trio_mcp_pool import Server, open_pool
from trio_mcp_pool.bridge import AsyncioPool

from ._activities import build
from ._names import PREFIX, own_queue, scopes_queue
from ._scopes import Scopes

PASSED_THROUGH = ("trio_mcp_pool", "mcp_types", "pydantic", "pydantic_core", "annotated_types", "typing_inspection")
"""What workflows import without the sandbox making it anew for each of them."""


@final
class PoolPlugin(SimplePlugin):
    """Gives a Temporal worker a pool of MCP sessions, and its workflows the activities that use it.

        Worker(client, task_queue="q", workflows=[...], plugins=[PoolPlugin({"files": StdioServer(...)})])

    `servers` and `options` (`policy`, `observers`, `max_connecting`, ...) are the arguments of `open_pool`. `max_scopes` is
    how many scopes this worker holds open at a time (default 100; 0: none). `prefix` is the first part of the activities'
    names, and must be that of `mcp_server` in the workflows. Without servers it is for workers that run workflows only, and
    for Replayers: it passes what workflows import through the sandbox, and opens no pool.

    May be given to several workers, or to the client. Raises `TypeError` or `ValueError` for bad arguments, here and not later.
    """

    def __init__(
        self,
        servers: Mapping[str, Server] | None = None,
        *,
        max_scopes: int = 100,
        prefix: str = PREFIX,
        **options: Any,
    ) -> None:
        self._servers = _checked(servers or {})
        signature(open_pool).bind(self._servers, **options)
        if max_scopes < 0:
            raise ValueError(f"max_scopes must be at least 0, not {max_scopes}")
        if not prefix:
            raise ValueError("prefix must not be empty")
        self._options = options
        self._max_scopes = max_scopes
        self._prefix = prefix
        self._scopes = Scopes()
        self._pools: dict[asyncio.AbstractEventLoop, _Shared] = {}
        self._inner: set[str] = set()
        activities = build(self._servers, prefix, self._find_pool, self._scopes)
        super().__init__("trio_mcp_pool.PoolPlugin", activities=activities, workflow_runner=_pass_through)

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Called by Temporal: adds the activities, and lets the imports through the sandbox."""
        if config.get("task_queue") in self._inner:
            return config
        return super().configure_worker(config)

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Called by Temporal: the pool is open while the worker runs."""
        if not self._servers or worker.task_queue in self._inner:
            await next(worker)
            return
        async with _surviving(worker, next) as start:
            async with self._open_pool(), self._inner_workers(worker):
                start()
                try:
                    await next(worker)
                finally:
                    self._scopes.close_all()

    def _find_pool(self) -> AsyncioPool:
        return self._pools[asyncio.get_running_loop()].pool

    @asynccontextmanager
    async def _open_pool(self) -> AsyncIterator[None]:
        """This event loop's pool, opened by the first worker and closed by the last."""
        loop = asyncio.get_running_loop()
        shared = self._pools.get(loop)
        if shared is None:
            shared = self._pools[loop] = _Shared(AsyncioPool(self._servers, **self._options))
        shared.users += 1
        try:
            await shared.wait_open()
            yield
        finally:
            shared.users -= 1
            if not shared.users:
                if self._pools.get(loop) is shared:
                    del self._pools[loop]
                await shared.close()

    @asynccontextmanager
    async def _inner_workers(self, worker: Worker) -> AsyncIterator[None]:
        if not self._max_scopes:
            yield
            return
        mine = own_queue(worker.task_queue, uuid.uuid4().hex)
        # What is in use, and not what was given: other plugins of the worker, such as OpenTelemetry's, add interceptors.
        config = worker.config(active_config=True)
        common: dict[str, Any] = {
            "plugins": [_SameInterceptors(config.get("interceptors") or [])],
            "max_heartbeat_throttle_interval": config.get("max_heartbeat_throttle_interval"),
        }
        common = {name: value for name, value in common.items() if value is not None}
        queues = (scopes_queue(worker.task_queue), mine)
        self._inner.update(queues)
        try:
            opening = Worker(
                worker.client,
                task_queue=queues[0],
                activities=[self._scopes.opening(self._prefix, self._find_pool, worker.client, mine)],
                max_concurrent_activities=self._max_scopes,
                **common,
            )
            calls = build(self._servers, self._prefix, self._find_pool, self._scopes)
            calling = Worker(
                worker.client, task_queue=mine, activities=[*calls, self._scopes.closing(self._prefix)], **common
            )
            async with calling, opening:
                yield
        finally:
            self._inner.discard(mine)


@final
class _SameInterceptors(SimplePlugin):
    """Gives an inner worker the interceptors of the worker beside which it runs.

    The last of its plugins, for those of the client add theirs to every worker: given as `interceptors` they would be twice.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        super().__init__("trio_mcp_pool.inner")
        self._interceptors = interceptors

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Called by Temporal."""
        config["interceptors"] = self._interceptors
        return config


@final
class _Shared:
    """A pool that several workers use: a task of its own opens and closes it."""

    def __init__(self, pool: AsyncioPool) -> None:
        self.pool = pool
        self.users = 0
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._close = asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        try:
            async with self.pool:
                self._opened.set_result(None)
                await self._close.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    async def wait_open(self) -> None:
        """Return when it is open; raise why it is not."""
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Close it, also in a worker that is being cancelled: closing is bounded by the policy."""
        self._close.set()
        await asyncio.shield(self._task)


@asynccontextmanager
async def _surviving(worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> AsyncIterator[Callable[[], None]]:
    """Where what is inside fails before `start` is called, let the worker start and shut down, then raise."""
    started = False

    def start() -> None:
        nonlocal started
        started = True

    try:
        yield start
    except BaseException:
        if not started:
            shutdown = asyncio.create_task(worker.shutdown())
            await asyncio.shield(asyncio.ensure_future(next(worker)))
            await shutdown
        raise


def _checked(servers: Mapping[str, Server]) -> dict[str, Server]:
    for name, server in servers.items():
        if not isinstance(name, str) or not isinstance(server, Server):
            raise TypeError(f"servers maps names to servers, not {name!r} to {type(server).__name__}")
    return dict(servers)


def _pass_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    if isinstance(runner, SandboxedWorkflowRunner):
        restrictions = runner.restrictions.with_passthrough_modules(*PASSED_THROUGH)
        return dataclasses.replace(runner, restrictions=restrictions)
    assert runner is not None, "a worker always has a workflow runner"
    return runner
