"""What a scripted server says, as plain JSON values, in both eras of the protocol.

Nothing here reads or writes, knows of Trio, or imports anything beyond the standard library: the in-process server and the
stdio child, which must start in milliseconds and so runs this file without the package around it, share it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MODERN = ["2026-07-28"]
LEGACY = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
UNSUPPORTED_VERSION = -32022

_PREFIX = "io.modelcontextprotocol/"
SUBSCRIPTION_ID = _PREFIX + "subscriptionId"

# Which notifications a modern client gets only through `subscriptions/listen`, and the filter that asks for each.
LISTENED = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
    "notifications/resources/updated": "resourceSubscriptions",
}


class RpcError(Exception):
    """A JSON-RPC error to be answered."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data


def answer(request: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The response to `request`."""
    if is_modern(request):
        result.setdefault("resultType", "complete")
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def refuse(request: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    """The error response to `request`."""
    return {"jsonrpc": "2.0", "id": request["id"], "error": error}


def is_modern(request: dict[str, Any]) -> bool:
    """Whether `request` was sent in the modern era: there, every request names its version."""
    meta = (request.get("params") or {}).get("_meta") or {}
    return meta.get(_PREFIX + "protocolVersion") in MODERN


def text_result(text: str, *, is_error: bool = False) -> dict[str, Any]:
    """A tool result of one text."""
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def tool_result(value: Any) -> dict[str, Any]:
    """What a tool returned, as the result of `tools/call`."""
    if value is None:
        return {"content": [], "isError": False}
    if isinstance(value, str):
        return text_result(value)
    result = text_result(json.dumps(value, default=str))
    if isinstance(value, dict):
        result["structuredContent"] = value
    return result


def handshake(name: str, request: dict[str, Any], eras: str) -> dict[str, Any]:
    """The answer to `initialize` or `server/discover`."""
    capabilities: dict[str, Any] = {
        "tools": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "prompts": {"listChanged": True},
        "logging": {},
    }
    who = {"name": name, "version": "1"}
    if request["method"] == "server/discover":
        if eras == "legacy":
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        return {
            "supportedVersions": MODERN,
            "capabilities": capabilities,
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {_PREFIX + "serverInfo": who},
        }
    asked = request.get("params", {}).get("protocolVersion")
    if eras == "modern":
        raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": MODERN, "requested": asked})
    version = asked if asked in LEGACY else LEGACY[-1]
    return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": who}


def listing(request: dict[str, Any], key: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer to one of the `*/list` requests, in one page, never cached."""
    result: dict[str, Any] = {key: items}
    if is_modern(request):
        result.update(ttlMs=0, cacheScope="private")
    return result


def lookup(request: dict[str, Any], resources: Mapping[str, Any], prompts: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to everything that is neither a handshake nor about tools."""
    method, params = request["method"], request.get("params") or {}
    if method == "resources/list":
        return listing(request, "resources", [{"uri": uri, "name": uri, "mimeType": "text/plain"} for uri in resources])
    if method == "resources/templates/list":
        return listing(request, "resourceTemplates", [])
    if method == "prompts/list":
        return listing(request, "prompts", [{"name": name} for name in prompts])
    if method == "resources/read":
        uri = params["uri"]
        if uri not in resources:
            raise RpcError(INVALID_PARAMS, f"Unknown resource: {uri}")
        text = _text(resources[uri])
        return listing(request, "contents", [{"uri": uri, "mimeType": "text/plain", "text": text}])
    if method == "prompts/get":
        if params["name"] not in prompts:
            raise RpcError(INVALID_PARAMS, f"Unknown prompt: {params['name']}")
        text = _text(prompts[params["name"]], **(params.get("arguments") or {}))
        return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
    if method == "completion/complete":
        return {"completion": {"values": []}}
    if method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe") and not is_modern(
        request
    ):
        return {}
    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")


def _text(given: Any, **arguments: Any) -> str:
    return str(given(**arguments) if callable(given) else given)
