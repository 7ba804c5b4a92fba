"""An MCP server on stdio that answers at once: the standard library only, one thread, no waiting.

Speaks both eras: `initialize` and `server/discover`. Tools: `echo` (text), `big` (megabytes: a result line of that size),
`nested` (an order of several items) and `pid`. An argument is a number of seconds that the server takes to start, as real
ones do.

What it costs is the same for every contender, so the less it costs the more a ratio says about the clients. So a plain `echo`
is answered without reading the JSON of the rest.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

TEXT = {"type": "string", "minLength": 1}
ITEM = {
    "type": "object",
    "properties": {"sku": TEXT, "count": {"type": "integer", "minimum": 1}, "price": {"type": "number"}},
    "required": ["sku", "count"],
}
ORDER = {
    "type": "object",
    "properties": {
        "customer": {
            "type": "object",
            "properties": {"name": TEXT, "tags": {"type": "array", "items": TEXT}},
            "required": ["name"],
        },
        "items": {"type": "array", "items": ITEM, "maxItems": 100},
    },
    "required": ["customer", "items"],
}
TOOLS: list[dict[str, Any]] = [
    {"name": name, "inputSchema": {"type": "object", "properties": properties}}
    for name, properties in (
        ("echo", {"text": {"type": "string"}}),
        ("big", {"megabytes": {"type": "integer"}}),
        ("pid", {}),
    )
] + [{"name": "nested", "inputSchema": {"type": "object", "properties": {"order": ORDER}, "required": ["order"]}}]
SERVER_INFO = {"name": "echo", "version": "1"}
CAPABILITIES: dict[str, Any] = {"tools": {}}
# Required in the modern era, ignored in the other.
FRESHNESS = {"ttlMs": 3_600_000, "cacheScope": "private"}


ID = re.compile(rb'"id": ?([0-9]+)')
ECHO = re.compile(rb'"name": ?"echo", ?"arguments": ?\{"text": ?("[ -!#-\[\]-~]*")\}')
ECHOED = b'{"jsonrpc":"2.0","id":%b,"result":{"resultType":"complete","content":[{"type":"text","text":%b}],"isError":false}}\n'


def send(data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def text(value: str) -> dict[str, Any]:
    """A tool's result."""
    return {"resultType": "complete", "content": [{"type": "text", "text": value}], "isError": False}


def call(params: dict[str, Any]) -> dict[str, Any]:
    """Run a tool."""
    name, arguments = params["name"], params.get("arguments") or {}
    if name == "echo":
        return text(arguments["text"])
    if name == "big":
        return text("x" * (arguments["megabytes"] * 1_000_000))
    if name == "nested":
        return text(str(len(arguments["order"]["items"])))
    if name == "pid":
        return text(str(os.getpid()))
    return {"resultType": "complete", "content": [{"type": "text", "text": f"no tool {name}"}], "isError": True}


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; `None` where there is no such method."""
    method = message["method"]
    if method == "tools/call":
        return call(message["params"])
    if method == "tools/list":
        return {"resultType": "complete", "tools": TOOLS, **FRESHNESS}
    if method == "ping":
        return {}
    if method == "server/discover":
        return {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": CAPABILITIES,
            "_meta": {"io.modelcontextprotocol/serverInfo": SERVER_INFO},
            **FRESHNESS,
        }
    if method == "initialize":
        return {"protocolVersion": "2025-06-18", "capabilities": CAPABILITIES, "serverInfo": SERVER_INFO}
    return None


def main() -> None:
    """Answer until stdin ends."""
    if sys.argv[1:]:
        time.sleep(float(sys.argv[1]))
    for line in sys.stdin.buffer:
        if (echo := ECHO.search(line)) and (number := ID.search(line)):
            send(ECHOED % (number[1], echo[1]))
            continue
        message = json.loads(line)
        if "method" not in message or "id" not in message:
            continue
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        result = answer(message)
        if result is None:
            reply["error"] = {"code": -32601, "message": "Method not found"}
        else:
            reply["result"] = result
        send(json.dumps(reply, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    main()
