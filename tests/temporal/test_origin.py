"""What a call says of where it comes from: the trace and the workflow, to the server and to the pool's observers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Worker

from tests.bridge.servers import Scene
from trio_mcp_pool import LeaseStarted, SessionOpened, StdioServer
from trio_mcp_pool.temporal import PoolPlugin, activity_of

from .flows import Calls, Scoped

ROOT = Path(__file__).parents[2]


def test_the_trace_and_the_workflow_reach_the_server_and_the_observers(address: str) -> None:
    """Of shared sessions and of scopes, however OpenTelemetry was added to the client or the worker."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.temporal.traced", address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout, done.stderr
    for how, seen in json.loads(done.stdout).items():
        assert seen["arrived"] == [[True, ["-calls", "36"]], [True, ["-scoped", "36"]]], how
        assert seen["told"] == [
            ["LeaseStarted", True, "-calls"],
            ["LeaseEnded", True, "-calls"],
            ["LeaseStarted", True, "-scoped"],
            ["LeaseEnded", True, "-scoped"],
        ], how


def test_without_opentelemetry_the_workflow_alone_is_told(address: str, run: Any) -> None:
    watched: list[tuple[str, activity.Info | None]] = []

    class Watch:
        def event(self, e: object) -> None:
            if isinstance(e, LeaseStarted | SessionOpened):
                watched.append((type(e).__name__, activity_of(e)))

    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        server = StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"])
        plugin = PoolPlugin({"s": server}, observers=[Watch()])
        async with Worker(client, task_queue=queue, workflows=[Calls], plugins=[plugin]):
            flow = await client.start_workflow(Calls.run, args=[[["s", "meta", {}]]], id=queue, task_queue=queue)
            meta = json.loads((await flow.result())[0])
        assert {name for name in meta if not name.startswith("io.modelcontextprotocol/")} == {
            "io.temporal/workflowId",
            "io.temporal/runId",
            "io.temporal/activityId",
        }
        (opened, nobody), (leased, caller) = watched
        assert (opened, nobody, leased) == ("SessionOpened", None, "LeaseStarted")
        assert caller is not None
        assert (caller.workflow_id, caller.workflow_run_id) == (queue, flow.result_run_id)
        assert meta["io.temporal/runId"] == flow.result_run_id
        assert meta["io.temporal/activityId"] == caller.activity_id

    run(main)


def test_of_an_event_outside_of_activities_no_activity_is_told(run: Any) -> None:
    from trio_mcp_pool.bridge import AsyncioPool

    told: list[activity.Info | None] = []

    class Watch:
        def event(self, e: object) -> None:
            if isinstance(e, LeaseStarted):
                told.append(activity_of(e))

    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}, observers=[Watch()]) as pool:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert told == [None]

    run(main)


class Counting(Interceptor):
    """Counts how often each activity passes."""

    def __init__(self) -> None:
        self.passed: Counter[tuple[str, str]] = Counter()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        counted = self.passed

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                info = activity.info()
                counted[info.activity_type, info.activity_id] += 1
                return await super().execute_activity(input)

        return Inbound(next)


@pytest.mark.parametrize("where", ["client", "worker"])
def test_an_interceptor_of_a_plugin_meets_the_calls_of_a_scope_once(address: str, run: Any, where: str) -> None:
    counting = Counting()
    adding = SimplePlugin("adds an interceptor", interceptors=[counting])

    async def main() -> None:
        client = await Client.connect(address, plugins=[adding] if where == "client" else [])
        queue = uuid.uuid4().hex
        plugins = [PoolPlugin({"s": Scene().server}), *([adding] if where == "worker" else [])]
        async with Worker(client, task_queue=queue, workflows=[Scoped], plugins=plugins):
            args = ["s", [["echo", {"text": "x"}, 0]]]
            async with asyncio.timeout(20):
                await client.execute_workflow(Scoped.run, args=args, id=queue, task_queue=queue)
        assert {name for name, _ in counting.passed} == {
            "trio_mcp_pool/open-scope",
            "trio_mcp_pool.s.call-tool",
            "trio_mcp_pool/close-scope",
        }
        assert set(counting.passed.values()) == {1}

    run(main)
