"""The workflows of the measurement: each makes its calls one after the other, through one contender."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from trio_mcp_pool.temporal.workflow import mcp_server

with workflow.unsafe.imports_passed_through():
    try:
        from temporalio.mcp import TemporalMCPClient as TemporalMCPClient
    except ImportError:
        TemporalMCPClient: Any = None  # type: ignore[no-redef]

ARGUMENTS = {"text": "hello"}


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
    """Calls through the pool's plugin, on a queue whose workers are killed: the error's type, or `answered`, for each."""

    @workflow.run
    async def run(self, queue: str, calls: list[list[str]]) -> list[str]:
        said = []
        for server, text in calls:
            handle = mcp_server(server, task_queue=queue, heartbeat_timeout=timedelta(seconds=2))
            try:
                await handle.call_tool("echo", {"text": text})
                said.append("answered")
            except ApplicationError as error:
                said.append(error.type or "")
        return said


@workflow.defn
class KilledTemporalioMcp:
    """The same through `temporalio-mcp`, with a timeout that notices a lost worker as soon."""

    @workflow.run
    async def run(self, queue: str, calls: list[list[str]]) -> list[str]:
        said = []
        for server, text in calls:
            config = workflow.ActivityConfig(task_queue=queue, start_to_close_timeout=timedelta(seconds=2))
            try:
                await TemporalMCPClient(server, activity_config=config).call_tool("echo", {"text": text})
                said.append("answered")
            except ActivityError as error:
                said.append(type(error.cause).__name__)
        return said
