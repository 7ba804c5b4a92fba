"""The workflows of the measurement: each makes its calls one after the other, through one contender."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from trio_mcp_pool.temporal.workflow import McpScope, McpServer, mcp_scope, mcp_server

with workflow.unsafe.imports_passed_through():
    try:
        from temporalio.mcp import TemporalMCPClient as TemporalMCPClient
    except ImportError:
        TemporalMCPClient: Any = None  # type: ignore[no-redef]

ARGUMENTS = {"text": "hello"}
SCOPED = "scoped"
"""The server whose calls are in scopes, where workers are killed."""


@workflow.defn
class ThroughPool:
    """Through `trio_mcp_pool.temporal`."""

    @workflow.run
    async def run(self, calls: int) -> None:
        server = mcp_server("echo")
        for _ in range(calls):
            await server.call_tool("echo", ARGUMENTS)


@workflow.defn
class ThroughActivity:
    """Through an activity of the program's own."""

    @workflow.run
    async def run(self, calls: int, name: str) -> None:
        for _ in range(calls):
            await workflow.execute_activity(
                name, ARGUMENTS, start_to_close_timeout=timedelta(minutes=1), result_type=dict[str, Any]
            )


@workflow.defn
class ThroughTemporalioMcp:
    """Through `temporalio-mcp`."""

    @workflow.run
    async def run(self, calls: int) -> None:
        client = TemporalMCPClient("echo")
        for _ in range(calls):
            await client.call_tool("echo", ARGUMENTS)


@workflow.defn
class KilledPool:
    """Calls through the pool's plugin, on a queue whose workers are killed. Returns `answered` or an error's type of each.

    With `scoped`, the calls are in a scope, and where that is lost the workflow opens another and goes on in it.
    """

    @workflow.run
    async def run(self, queue: str, calls: list[list[str]], scoped: bool) -> list[str]:
        said: list[str] = []
        noticed = timedelta(seconds=2)
        if not scoped:
            for server, text in calls:
                said.append(await learn(mcp_server(server, task_queue=queue, heartbeat_timeout=noticed), text))
            return said
        while len(told := [one for one in said if one != "SessionLostError"]) < len(calls):
            async with mcp_scope(SCOPED, task_queue=queue, heartbeat_timeout=noticed) as mine:
                for _, text in calls[len(told) :]:
                    said.append(await learn(mine, text))
                    if said[-1] == "SessionLostError":
                        break
        return said


async def learn(handle: McpServer | McpScope, text: str) -> str:
    """Make one call."""
    try:
        await handle.call_tool("echo", {"text": text})
    except ApplicationError as error:
        return error.type or ""
    return "answered"


@workflow.defn
class KilledTemporalioMcp:
    """The same through `temporalio-mcp`. It has no scopes, and no heartbeats: the timeout notices a lost worker."""

    @workflow.run
    async def run(self, queue: str, calls: list[list[str]], scoped: bool) -> list[str]:
        said = []
        for server, text in calls:
            config = workflow.ActivityConfig(task_queue=queue, start_to_close_timeout=timedelta(seconds=5))
            try:
                await TemporalMCPClient(server, activity_config=config).call_tool("echo", {"text": text})
                said.append("answered")
            except ActivityError as error:
                said.append(type(error.cause).__name__)
        return said
