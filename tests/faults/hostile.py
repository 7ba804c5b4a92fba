"""What the two hostile servers have in common. The standard library only: they are started hundreds of times.

Both take a folder. Into it they write `log`, one line `call-id pid` for every tool that is executed, appended in one write,
so that nobody can count wrong; and `starts`, one line `pid` per start. From it they read `mode`, a JSON object that says how
they misbehave, as often as they need to; and `go`, whose coming into being ends all calls that wait.

There is one tool that matters, `act`: its argument `id` is logged, its argument `do` says what comes of it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

LEGACY = "2025-06-18"
MODERN = "2026-07-28"

ACT = {"name": "act", "inputSchema": {"type": "object"}}
READ = {"name": "read", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
TYPED = {
    "name": "typed",
    "inputSchema": {"type": "object"},
    "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


class Ground:
    """The folder, as a server sees it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def append(self, name: str, line: str) -> None:
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)

    def mode(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "mode").read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def execute(self, call_id: str) -> None:
        self.append("log", f"{call_id} {os.getpid()}")

    def wait_for_go(self) -> None:
        while not (self.folder / "go").exists():
            time.sleep(0.02)


def text(value: str) -> dict[str, Any]:
    return {"resultType": "complete", "content": [{"type": "text", "text": value}], "isError": False}


def answer(request_id: Any, result: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()


def rpc_error(request_id: Any, code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}).encode()


def plain_result(request: dict[str, Any], era: str) -> bytes:
    """The answer to everything but a tool call."""
    method = request["method"]
    if method == "initialize" and era != "modern":
        info = {"name": "hostile", "version": "1"}
        return answer(request["id"], {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": info})
    if method == "server/discover" and era != "legacy":
        meta = {"io.modelcontextprotocol/serverInfo": {"name": "hostile", "version": "1"}}
        said = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "_meta": meta}
        return answer(request["id"], {"resultType": "complete", **said, "ttlMs": 0, "cacheScope": "private"})
    if method == "tools/list":
        tools = {"tools": [ACT, READ, TYPED], "ttlMs": 0, "cacheScope": "private"}
        return answer(request["id"], {"resultType": "complete", **tools})
    if method == "ping":
        return answer(request["id"], {})
    return rpc_error(request["id"], -32601, "Method not found")


def tool_answer(request: dict[str, Any], do: str, arguments: dict[str, Any]) -> bytes | None:
    """The answers that need no more than a body; `None` for what is done in another way."""
    request_id = request["id"]
    if do == "ok":
        return answer(request_id, text("ok"))
    if do == "tool_error":
        return answer(request_id, {**text("it went wrong"), "isError": True})
    if do == "rpc_error":
        return rpc_error(request_id, -32050, "no")
    if do == "malformed":
        return answer(request_id, {"resultType": "complete", "content": "not a list"})
    if do == "badly_structured":
        return answer(request_id, {**text("{}"), "structuredContent": {"n": "not a number"}})
    if do == "big":
        return answer(request_id, text("x" * int(arguments["bytes"])))
    if do == "bad_utf8":
        return answer(request_id, text("caf?")).replace(b"?", b"\xe9")
    return None
