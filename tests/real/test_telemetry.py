"""What the metrics say of sessions over pipes and over HTTP."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.servers.raw_http import raw_server
from trio_mcp_pool import HttpServer, OpenTelemetryObserver, Server, StdioServer, open_pool


async def measured(server: Server, tool: str) -> dict[str, list[dict[str, Any]]]:
    """The attributes under which one call through the server was recorded, by metric."""
    reader = InMemoryMetricReader()
    observer = OpenTelemetryObserver(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    with trio.fail_after(20):
        async with open_pool({"s": server}, observers=[observer]) as pool:
            await pool.call_tool("s", tool)
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: [dict(point.attributes or {}) for point in metric.data.data_points]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_sessions_over_pipes_and_over_http_are_told_apart(wire: Any) -> None:
    stdio = await measured(StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], wire=wire), "meta")
    version = stdio["mcp.client.session.duration"][0]["mcp.protocol.version"]
    pipe = {"mcp.client.pool.server": "s", "mcp.protocol.version": version, "network.transport": "pipe"}
    called = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
    assert stdio["mcp.client.session.duration"] == [pipe]
    assert stdio["mcp.client.operation.duration"] == [{**pipe, **called, "gen_ai.tool.name": "meta"}]

    async with raw_server() as server:
        http = await measured(HttpServer(server.url, wire=wire), "good")
        tcp = {
            "mcp.client.pool.server": "s",
            "mcp.protocol.version": "2025-11-25",
            "network.transport": "tcp",
            "network.protocol.name": "http",
            "server.address": "127.0.0.1",
            "server.port": server.port,
        }
    assert http["mcp.client.session.duration"] == [tcp]
    assert http["mcp.client.operation.duration"] == [{**tcp, **called, "gen_ai.tool.name": "good"}]
