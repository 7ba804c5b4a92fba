from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mcp
import pytest
import trio.testing
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from trio_mcp_pool._wire.jsonrpc import _tracing

from ..pipes import line, rig

CONTEXT = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))


class RecordingSpan(NonRecordingSpan):
    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        super().__init__(CONTEXT)
        self.status: tuple[Any, Any]
        self.name, self.attributes, self.status = name, attributes, (None, None)

    def set_attributes(self, attributes: Any) -> None:
        self.attributes |= attributes

    def set_status(self, status: Any, description: Any = None) -> None:
        self.status = (status, description)


class Tracer(trace.NoOpTracer):
    def __init__(self) -> None:
        self.spans: list[RecordingSpan] = []

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, *args: Any, **fields: Any
    ) -> Iterator[Any]:
        span = RecordingSpan(name, fields["attributes"])
        self.spans.append(span)
        with trace.use_span(span):
            yield span


class Provider(trace.TracerProvider):
    def __init__(self) -> None:
        self.tracer = Tracer()

    def get_tracer(self, name: str, *args: Any, **fields: Any) -> trace.Tracer:  # type: ignore[override]
        assert name == "mcp-python-sdk"
        return self.tracer


async def test_a_request_has_a_span_and_carries_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    monkeypatch.setattr(_tracing, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(_tracing, "_PROXY", provider)
    async with rig() as r:
        params = {"name": "echo", "_meta": {"k": 1}}
        call = r.start_call("tools/call", params=params)
        await trio.testing.wait_all_tasks_blocked()
        meta = r.pipe.messages()[0]["params"]["_meta"]
        assert meta["k"] == 1
        assert meta["traceparent"].startswith("00-00000000000000000000000000000abc-")
        assert params["_meta"] == {"k": 1}  # the caller's own is not changed
        r.pipe.give(line({"jsonrpc": "2.0", "id": 1, "error": {"code": -7, "message": "no"}}))
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(call.error, mcp.MCPError)
    (span,) = provider.tracer.spans
    assert span.name == "MCP send tools/call echo"
    assert span.attributes == {
        "mcp.method.name": "tools/call",
        "jsonrpc.request.id": "1",
        "error.type": "-7",
        "rpc.response.status_code": "-7",
    }
    assert span.status == (trace.StatusCode.ERROR, "no")


async def test_without_a_provider_there_is_no_span_and_no_meta() -> None:
    assert _tracing.tracer_if_configured() is None
    async with rig() as r:
        r.start_call(params={"a": 1})
        await trio.testing.wait_all_tasks_blocked()
        assert r.pipe.messages()[0]["params"] == {"a": 1}
