"""The OpenTelemetry span of a request, as the SDK's own dispatcher makes it, and at no cost where nobody traces.

The span has the SDK's name and attributes and comes from a tracer of the SDK's name, so that a trace looks the same
whichever wire carried the call. The context travels to the server in `_meta`, as the protocol says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import mcp
from mcp_types import RequestId
from opentelemetry.propagate import inject
from opentelemetry.trace import (
    NoOpTracerProvider,
    ProxyTracer,
    ProxyTracerProvider,
    SpanKind,
    StatusCode,
    Tracer,
    get_tracer_provider,
)

_NAME: Final = "mcp-python-sdk"
_PROXY: Final = ProxyTracerProvider()
get_tracer_provider()  # which loads the one that the environment names, if it names one


def tracer_if_configured() -> Tracer | None:
    """A tracer, or `None` while the program has set up no tracer provider."""
    if type(_PROXY.get_tracer(_NAME)) is ProxyTracer:
        # The usual case, at a third of what the question costs below, which looks into the environment every time.
        return None
    provider = get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    return provider.get_tracer(_NAME)


@final
class TracedRequest:
    """A request inside its span: its parameters with the trace context in them."""

    __slots__ = ("params",)

    def __init__(self, params: Mapping[str, Any] | None) -> None:
        self.params: dict[str, Any] = {**(params or {})}
        meta: dict[str, Any] = {**(self.params.get("_meta") or {})}
        inject(meta)
        if meta:
            self.params["_meta"] = meta


@contextmanager
def client_span(
    tracer: Tracer, method: str, params: Mapping[str, Any] | None, request_id: RequestId
) -> Iterator[TracedRequest]:
    """A client span around one request; the server's error sets its status and passes through."""
    target = params.get("name") if params else None
    name = f"MCP send {method} {target}" if isinstance(target, str) else f"MCP send {method}"
    refused: mcp.MCPError | None = None
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes={"mcp.method.name": method, "jsonrpc.request.id": str(request_id)},
    ) as span:
        try:
            yield TracedRequest(params)
        except mcp.MCPError as exc:
            # Kept from the span's own handling, which would record the whole text as an unexpected exception.
            code = str(exc.code)
            span.set_attributes({"error.type": code, "rpc.response.status_code": code})
            span.set_status(StatusCode.ERROR, exc.message)
            refused = exc
    if refused is not None:
        raise refused
