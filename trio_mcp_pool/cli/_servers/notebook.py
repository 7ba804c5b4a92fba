"""A notebook that speaks MCP over stdin and stdout, written with the standard library alone so that it starts at once.

It stands for the servers that hold state: what is written to it is remembered for as long as its process lives, and nobody
else sees it. It speaks the handshake era of the protocol; a newer client finds that out by itself. The program is run by its
path and imports nothing of the package.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_SLOW = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "seconds": {"type": "number"}},
    "required": ["text", "seconds"],
}
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}

_TOOLS = [
    {"name": "write", "description": "Add a line to the notebook; returns how many there are.", "inputSchema": _TEXT},
    {"name": "read", "description": "All lines of the notebook, in order.", "inputSchema": _NOTHING},
    {"name": "echo", "description": "Give the text back.", "inputSchema": _TEXT},
    {
        "name": "look_up",
        "description": "Give the text back after some seconds, as a tool does that calls another service.",
        "inputSchema": _SLOW,
    },
    {"name": "pid", "description": "The process id of this server.", "inputSchema": _NOTHING},
]

_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")

_lines: list[str] = []
_stdout = threading.Lock()


def _send(message: dict[str, Any]) -> None:
    with _stdout:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def _answer(request: Any, text: str, **more: Any) -> None:
    structured = {"text": text, "pid": os.getpid(), **more}
    _send({"id": request, "result": {"content": [{"type": "text", "text": text}], "structuredContent": structured}})


def _call(request: Any, name: str, arguments: dict[str, Any]) -> None:
    if name == "write":
        _lines.append(arguments["text"])
        _answer(request, f"line {len(_lines)} written", lines=len(_lines))
    elif name == "read":
        _answer(request, "\n".join(_lines), lines=list(_lines))
    elif name == "echo":
        _answer(request, arguments["text"])
    elif name == "look_up":
        timer = threading.Timer(arguments["seconds"], _answer, (request, arguments["text"]))
        timer.daemon = True  # nobody waits for an answer once stdin has ended
        timer.start()
    elif name == "pid":
        _answer(request, str(os.getpid()))
    else:
        text = f"no tool is called {name}"
        _send({"id": request, "result": {"content": [{"type": "text", "text": text}], "isError": True}})


def _handle(message: dict[str, Any]) -> None:
    method, request, params = message.get("method"), message.get("id"), message.get("params") or {}
    if request is None or method is None:
        return  # a notification, or an answer to a request that was never sent
    if method == "initialize":
        wanted = params.get("protocolVersion")
        version = wanted if wanted in _VERSIONS else _VERSIONS[0]
        info = {"name": "notebook", "version": "1"}
        _send(
            {"id": request, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
        )
    elif method == "ping":
        _send({"id": request, "result": {}})
    elif method == "tools/list":
        _send({"id": request, "result": {"tools": _TOOLS}})
    elif method == "tools/call":
        try:
            _call(request, params["name"], params.get("arguments") or {})
        except (KeyError, TypeError) as error:
            _send({"id": request, "error": {"code": -32602, "message": f"wrong arguments: {error!r}"}})
    else:
        _send({"id": request, "error": {"code": -32601, "message": f"no method is called {method}"}})


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        try:
            _handle(json.loads(line))
        except ValueError:
            print(f"not a message: {line!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
