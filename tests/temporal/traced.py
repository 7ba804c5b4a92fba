"""A program whose workflows are traced: `python -m tests.temporal.traced ADDRESS` prints what arrived, as JSON.

A program of its own, because a process can set its tracer provider only once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

from opentelemetry import trace
from temporalio.client import Client
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, TracingInterceptor, create_tracer_provider
from temporalio.worker import Worker

from trio_mcp_pool import LeaseEnded, LeaseStarted, StdioServer
from trio_mcp_pool.temporal import PoolPlugin, activity_of

from .flows import Calls, Scoped


class Watch:
    """The trace and the workflow of each lease."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []

    def event(self, e: object) -> None:
        if isinstance(e, LeaseStarted | LeaseEnded):
            assert e.context is not None
            span = e.context.run(trace.get_current_span).get_span_context()
            info = activity_of(e)
            assert info is not None
            self.told.append([type(e).__name__, trace.format_trace_id(span.trace_id), info.workflow_id])


async def play(starter: Client, worker: Client, plugins: list[Any]) -> dict[str, Any]:
    """A call, and a call in a scope, from two workflows that are started in one span."""
    queue, watch = uuid.uuid4().hex, Watch()
    server = StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"])
    pool = PoolPlugin({"s": server}, observers=[watch])
    async with Worker(worker, task_queue=queue, workflows=[Calls, Scoped], plugins=[*plugins, pool]):
        with trace.get_tracer("the program").start_as_current_span("outer") as span:
            outer = trace.format_trace_id(span.get_span_context().trace_id)
            calls = await starter.execute_workflow(
                Calls.run, args=[[["s", "meta", {}]]], id=f"{queue}-calls", task_queue=queue
            )
            scoped = await starter.execute_workflow(
                Scoped.run, args=["s", [["meta", {}, 0]]], id=f"{queue}-scoped", task_queue=queue
            )
    arrived = [json.loads(said) for said in (*calls, *scoped)]
    return {
        "arrived": [[meta["traceparent"].split("-")[1] == outer, _ids(meta, queue)] for meta in arrived],
        "told": [[kind, told == outer, flow.removeprefix(queue)] for kind, told, flow in watch.told],
    }


def _ids(meta: dict[str, Any], queue: str) -> list[str]:
    return [meta["io.temporal/workflowId"].removeprefix(queue), str(len(meta["io.temporal/runId"]))]


async def main(address: str) -> None:
    trace.set_tracer_provider(create_tracer_provider())
    plain = await Client.connect(address)
    intercepted = await Client.connect(address, interceptors=[TracingInterceptor()])
    plugged = await Client.connect(address, plugins=[OpenTelemetryPlugin()])
    said = {
        "interceptor of the client": await play(intercepted, intercepted, []),
        "plugin of the client": await play(plugged, plugged, []),
        "plugin of the worker": await play(plugged, plain, [OpenTelemetryPlugin()]),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
