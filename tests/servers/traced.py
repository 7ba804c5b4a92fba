"""A program that traces its calls: `python -m tests.servers.traced WIRE MODE` prints what was recorded, as JSON.

A program of its own, because a process can set its tracer provider only once.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import mcp_types as types
import trio
from mcp import MCPError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trio_mcp_pool import StdioServer, open_pool


def described(span: ReadableSpan, outer: trace.SpanContext) -> dict[str, Any]:
    parent = span.parent
    return {
        "name": span.name,
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "child of the caller's": parent is not None and parent.span_id == outer.span_id,
        "attributes": {k: v for k, v in (span.attributes or {}).items() if k != "jsonrpc.request.id"},
    }


async def main(*arguments: Any) -> None:
    wire, mode = arguments
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    server = StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], wire=wire, mode=mode)
    arrived: list[str] = []
    with trio.fail_after(20):
        async with open_pool({"features": server}) as pool, pool.session("features") as session:
            await session.list_tools()  # or the SDK would, after the first call
            exporter.clear()  # what dialling has left
            with trace.get_tracer("the program").start_as_current_span("outer") as span:
                outer = span.get_span_context()

                async def call(name: str) -> None:
                    try:
                        result = await session.call_tool(name)
                    except MCPError:
                        return
                    assert isinstance(result.content[0], types.TextContent)
                    arrived.append(json.loads(result.content[0].text)["traceparent"])

                for _ in range(2):
                    await call("meta")
                await call("no such tool")
    spans = [span for span in exporter.get_finished_spans() if span.name != "outer"]
    sent = []
    for one in spans[:2]:
        context = one.get_span_context()
        assert context is not None
        sent.append(f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}")
    print(json.dumps({"spans": [described(one, outer) for one in spans], "arrived": arrived == sent}))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
