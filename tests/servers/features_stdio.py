"""A stdio server on the SDK's low-level `Server` that uses everything a server may ask of its client, in both eras.

In the handshake era it sends requests of its own; in the modern one it answers with input-required results instead. What
it saw (cancelled calls, listings, the `_meta` of a request) it tells through tools, so that a test can ask afterwards.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from typing import Any, Literal

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning

warnings.simplefilter("ignore", MCPDeprecationWarning)

EXTENSION = "org.example/tickets"
ANSWERING = ["echo", "progress", "log", "seen", "meta", "env", "pid"]
ASKING = ["sample", "elicit", "roots"]
TOOLS = [*ANSWERING, *ASKING, "hang", "changed", "ticket", "custom"]
MODERN = "2026-07-28"

Context = ServerRequestContext[dict[str, Any]]

seen: Counter[str] = Counter()
bus = InMemorySubscriptionBus()


class Ticket(types.Result):
    """A result shape of an extension's own."""

    result_type: Literal["ticket"] = "ticket"
    number: int


def text(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=said)])


_SAMPLING = types.CreateMessageRequestParams(
    messages=[types.SamplingMessage(role="user", content=types.TextContent(text="a word, please"))], max_tokens=5
)
_ELICITATION = types.ElicitRequestFormParams(
    message="your name?", requested_schema={"type": "object", "properties": {"name": {"type": "string"}}}
)


async def ask(
    context: Context, kind: str, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    """Ask the client, in the way of its era, and give back what it said or the error that it answered."""
    requests: dict[str, types.InputRequest] = {
        "sample": types.CreateMessageRequest(params=_SAMPLING),
        "elicit": types.ElicitRequest(params=_ELICITATION),
        "roots": types.ListRootsRequest(),
    }
    answer: Any
    if context.protocol_version == MODERN:
        if params.input_responses is None:
            return types.InputRequiredResult(input_requests={kind: requests[kind]}, request_state="round 1")
        if params.request_state == "round 1":
            # A second round, without requests, which the client has to come back from by itself.
            return types.InputRequiredResult(
                request_state="round 2:" + params.input_responses[kind].model_dump_json(exclude_none=True)
            )
        raise MCPError(-32602, f"unexpected state {params.request_state!r}")
    try:
        match kind:
            case "sample":
                answer = await context.session.create_message(
                    _SAMPLING.messages, max_tokens=5, related_request_id=context.request_id
                )
            case "elicit":
                answer = await context.session.elicit_form(
                    _ELICITATION.message, _ELICITATION.requested_schema, related_request_id=context.request_id
                )
            case _:
                answer = await context.session.list_roots()
    except MCPError as error:
        return text(f"refused: {error.code} {error.message}")
    return text(answer.model_dump_json(exclude_none=True))


async def call_tool(
    context: Context, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    given = params.arguments or {}
    session = context.session
    match params.name:
        case "echo":
            return text(given["text"])
        case "progress":
            for number in range(1, given["to"] + 1):
                await session.report_progress(number, given["to"], f"step {number}")
            return text("done")
        case "log":
            for number in range(given["lines"]):
                level: types.LoggingLevel = "error" if number % 2 else "info"
                await session.send_log_message(level, number, "features", related_request_id=context.request_id)
            return text("logged")
        case "sample" | "elicit" | "roots":
            if (state := params.request_state) is not None and state.startswith("round 2:"):
                return text(state.removeprefix("round 2:"))
            return await ask(context, params.name, params)
        case "hang":
            seen["hanging"] += 1
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                seen["cancelled"] += 1
                raise
        case "seen":
            return text(json.dumps(seen))
        case "env":
            return text(os.environ.get(given["name"], "unset"))
        case "pid":
            return text(str(os.getpid()))
        case "meta":
            return text(json.dumps(dict(context.meta or {})))
        case "changed":
            if context.protocol_version == MODERN:
                await bus.publish(ToolsListChanged())
            else:
                await session.send_tool_list_changed()
            return text("told")
        case "ticket":
            return Ticket(number=7)  # type: ignore[return-value]
        case "custom":
            await session._notify(_Custom(), request_scoped=True)  # type: ignore[arg-type]
            return text("told")
    raise MCPError(-32602, f"no tool {params.name!r}")


class _Custom:
    """A notification of an extension's own, which the SDK has no model for."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"method": f"notifications/{EXTENSION}/printed", "params": {"number": 7}}


async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    seen["listings"] += 1
    return types.ListToolsResult(
        tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in TOOLS],
    )


async def main() -> None:
    server = Server(
        "features",
        version="1",
        cache_hints={"tools/list": CacheHint(ttl_ms=60_000)},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_subscriptions_listen=ListenHandler(bus),
    )
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
