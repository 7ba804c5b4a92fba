"""`mcp_scope`: sessions of a workflow's own, on one worker.

A scope is a long activity on a queue of its own: the worker that takes it holds the sessions, tells the workflow by a signal
where to send the calls (a queue that this worker alone serves), and heartbeats. So the workflow learns of the worker's death
as it does of any activity's, and the worker of the workflow's. A session kept by an ordinary activity's worker would be lost
whenever the next call went to another worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, final

import mcp_types as types
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.workflow import ActivityConfig, ActivityHandle

from ._attempts import ONCE, attempt, pause_after
from ._failures import failure, judge
from ._names import (
    HEARTBEAT_TIMEOUT,
    PREFIX,
    Request,
    ScopeOpened,
    ScopeRequest,
    close_scope_name,
    open_scope_name,
    scope_signal,
    scopes_queue,
)
from ._server_handle import McpServer

_LONGEST = timedelta(days=365)


@final
class McpScope:
    """An open scope: the verbs of its servers. Made by `mcp_scope`.

    Where it has several servers, each verb needs `server=`, or `mine.server("browser")` gives the verbs of one.
    """

    def __init__(self, servers: dict[str, McpServer]) -> None:
        self._servers = servers

    def __repr__(self) -> str:
        return f"<McpScope {list(self._servers)}>"

    def server(self, name: str | None = None) -> McpServer:
        """The verbs of one of the scope's servers; of the only one, if no name is given. Raises `KeyError`, `ValueError`."""
        if name is not None:
            return self._servers[name]
        if len(self._servers) != 1:
            raise ValueError(f"this scope has several servers, so name one of them by server=: {list(self._servers)}")
        return next(iter(self._servers.values()))

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *, server: str | None = None, **options: Any
    ) -> types.CallToolResult:
        """Call a tool in the scope's session, as `McpServer.call_tool`.

        Raises an `ApplicationError` of type `SessionLostError`, with the outcome `not run`, if the scope has ended: its worker
        died or shut down, or nothing was called for `idle_timeout`. Open a new one then, and begin again.
        """
        return await self.server(server).call_tool(name, arguments, **options)

    async def list_tools(self, *, server: str | None = None, cursor: str | None = None) -> types.ListToolsResult:
        """One page of the tools of a server of the scope."""
        return await self.server(server).list_tools(cursor=cursor)

    async def read_resource(self, uri: str, *, server: str | None = None) -> types.ReadResourceResult:
        """A resource of a server of the scope."""
        return await self.server(server).read_resource(uri)

    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, *, server: str | None = None
    ) -> types.GetPromptResult:
        """A prompt of a server of the scope."""
        return await self.server(server).get_prompt(name, arguments)


@asynccontextmanager
async def mcp_scope(
    *servers: str,
    idle_timeout: timedelta = timedelta(minutes=10),
    open_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    task_queue: str | None = None,
    heartbeat_timeout: timedelta = HEARTBEAT_TIMEOUT,
    cache_tools_list: bool = True,
    activity_config: ActivityConfig | None = None,
    prefix: str = PREFIX,
    **options: Any,
) -> AsyncIterator[McpScope]:
    """Sessions of this block's own with these servers, dialled on entry, on one worker of the queue. For workflow code only.

    `idle_timeout`: the worker ends the scope when nothing was called for so long (default 10 min). `open_timeout`: how long to
    wait for a worker that has room, and for the dials (default: without end). `retry_policy` holds for opening. `task_queue`
    is that of the workers (default: the workflow's own). `heartbeat_timeout` (default 5 s) is how soon a lost worker is
    noticed. `options` or `activity_config` are those of the calls inside, as for `mcp_server`.

    Raises an `ApplicationError` whose type is the name of the pool's error if a server cannot be reached.
    """
    if not servers:
        raise ValueError("mcp_scope needs the name of at least one server")
    queue = task_queue or workflow.info().task_queue
    holder = _Holder(servers, queue, idle_timeout, heartbeat_timeout, prefix)
    await holder.open(retry_policy or RetryPolicy(), open_timeout)
    evicted = False
    try:
        calls = {**(activity_config or {}), **options, "task_queue": holder.own_queue}
        calls.setdefault("heartbeat_timeout", heartbeat_timeout)
        yield McpScope(
            {
                name: McpServer(
                    name,
                    calls,
                    cache_tools_list=cache_tools_list,
                    prefix=prefix,
                    scope=holder.scope,
                    still_possible=holder.check_open,
                    run=holder.run,
                )
                for name in servers
            }
        )
    except GeneratorExit:
        # The SDK has dropped the workflow from its cache, to replay it later: its scope is still open.
        evicted = True
        raise
    finally:
        if not evicted:
            await holder.close()


class _Holder:
    """The activity that holds the scope open, seen from the workflow."""

    def __init__(
        self, servers: tuple[str, ...], queue: str, idle: timedelta, heartbeat: timedelta, prefix: str
    ) -> None:
        self._servers = servers
        self._queue = queue
        self._idle = idle
        self._heartbeat = heartbeat
        self._prefix = prefix
        self.scope = ""
        self.own_queue = ""
        self._activity: ActivityHandle[None] | None = None

    async def open(self, policy: RetryPolicy, open_timeout: timedelta | None) -> None:
        """Have it opened; try again what did not open, for nothing has run in it."""
        deadline = None if open_timeout is None else workflow.now() + open_timeout
        number = 0
        while True:
            number += 1
            try:
                await self._open_once(None if deadline is None else deadline - workflow.now())
                return
            except ActivityError as error:
                verdict = judge(error, self._servers[0])
            pause = pause_after(policy, number, verdict)
            out_of_time = deadline is not None and workflow.now() + pause >= deadline
            if out_of_time or (policy.maximum_attempts and number >= policy.maximum_attempts):
                raise verdict.error
            if verdict.error.type in (policy.non_retryable_error_types or ()):
                raise verdict.error
            await workflow.sleep(pause)

    async def _open_once(self, timeout: timedelta | None) -> None:
        self.scope = str(workflow.uuid4())
        opened: list[ScopeOpened] = []
        signal = scope_signal(self.scope)

        def on_opened(said: ScopeOpened) -> None:
            opened.append(said)

        workflow.set_signal_handler(signal, on_opened)
        try:
            self._activity = workflow.start_activity(
                open_scope_name(self._prefix),
                ScopeRequest(self.scope, list(self._servers), self._idle.total_seconds()),
                result_type=type(None),
                task_queue=scopes_queue(self._queue),
                start_to_close_timeout=_LONGEST,
                schedule_to_start_timeout=timeout,
                heartbeat_timeout=self._heartbeat,
                retry_policy=ONCE,
            )
            activity = self._activity
            try:
                await workflow.wait_condition(lambda: bool(opened) or activity.done(), timeout=timeout)
            except TimeoutError:
                activity.cancel()
                raise failure(
                    "AcquireTimeoutError",
                    f"no worker opened a scope with {list(self._servers)} within open_timeout",
                    server=self._servers[0],
                    outcome="not run",
                ) from None
            except BaseException:
                activity.cancel()
                raise
            if not opened:
                await activity
            self.own_queue = opened[0].task_queue
        finally:
            workflow.set_signal_handler(signal, None)

    def check_open(self) -> None:
        """Raise if the scope has ended."""
        activity = self._activity
        assert activity is not None
        if not activity.done():
            return
        why = "it was closed"
        error = None if activity.cancelled() else activity.exception()
        if isinstance(error, ActivityError):
            cause = error.cause
            why = cause.message if isinstance(cause, ApplicationError) else "its worker was lost"
        raise failure(
            "SessionLostError",
            f"the scope with {list(self._servers)} has ended, and its sessions with it: {why}",
            server=self._servers[0],
            outcome="not run",
        )

    async def run(self, name: str, request: Request, **how: Any) -> Any:
        """A call in the scope. If the scope ends meanwhile, so does the wait: its worker's queue is served by nobody else."""
        self.check_open()
        activity = self._activity
        assert activity is not None
        call = asyncio.ensure_future(attempt(name, request, **how))
        call.add_done_callback(_look_at)
        try:
            await workflow.wait_condition(lambda: call.done() or activity.done())
            if not call.done():
                # The call's own end, if its worker lived to record it, comes together with that of the scope.
                await workflow.wait([call], timeout=self._heartbeat.total_seconds())
            if not call.done():
                call.cancel()
                raise failure(
                    "OutcomeUnknownError",
                    f"the scope with {list(self._servers)} ended during a call, which may have run",
                    server=how["server"],
                    outcome="unknown",
                )
            return await call
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def close(self) -> None:
        """End it, and wait until its sessions are closed. Also in a workflow that is being cancelled."""
        activity = self._activity
        assert activity is not None
        if activity.done():
            _look_at(activity)
            return
        # A handle rather than a coroutine in a task: where the SDK evicts the workflow, it refuses to start activities, and the
        # coroutine would be left unawaited.
        closing = workflow.start_activity(
            close_scope_name(self._prefix),
            self.scope,
            task_queue=self.own_queue,
            schedule_to_close_timeout=2 * self._heartbeat,
            retry_policy=ONCE,
        )
        try:
            await asyncio.shield(closing)
        except FailureError:
            activity.cancel()
        except asyncio.CancelledError:
            activity.cancel()
            raise


def _look_at(ended: asyncio.Future[Any]) -> None:
    """Look at the exception of what has ended, if it has one: asyncio complains of one that nobody has looked at."""
    if not ended.cancelled():
        ended.exception()
