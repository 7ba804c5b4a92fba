"""A server that floods its client, on stdio or over HTTP, for `benchmarks/floods.py`. The standard library only.

`python -m benchmarks.flood_server stdio`, or `http`, which prints its port and serves until it is killed. The tool `echo`
answers at once. The tool `flood` does what its argument `kind` says, for `SECONDS` or until that much is sent.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

SECONDS = 3.0
PROGRESS = 200_000
BOMB = 200_000_000
OBJECTS = 2_000_000
LONG = 60_000_000

_INFO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}, "logging": {}},
    "serverInfo": {"name": "flood", "version": "1"},
}
_TOOLS = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "flood")]}
_NOTE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 80}}


def encoded(message: dict[str, Any]) -> bytes:
    """One message."""
    return json.dumps(message, separators=(",", ":")).encode()


def answer(message: dict[str, Any], text: str = "ok") -> bytes:
    """The result of a request."""
    results: dict[str, Any] = {"initialize": _INFO, "tools/list": _TOOLS, "ping": {}}
    result = results.get(message["method"], {"content": [{"type": "text", "text": text}], "isError": False})
    return encoded({"jsonrpc": "2.0", "id": message["id"], "result": result})


def many_objects(message: dict[str, Any]) -> bytes:
    """A result that is cheap to send and dear to hold."""
    head = f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},"result":{{"content":[],"structuredContent":{{"a":['
    return head.encode() + b"{}," * (OBJECTS - 1) + b"{}]}}}"


def kind_of(message: dict[str, Any]) -> str | None:
    """The flood that a request asks for."""
    params = message.get("params") or {}
    return params["arguments"]["kind"] if params.get("name") == "flood" else None


# On stdio.

_writing = threading.Lock()


def put(data: bytes, fd: int = 1) -> None:
    """Write all of it, and nothing of another thread's in between."""
    view = memoryview(data)
    with _writing if fd == 1 else threading.Lock():
        while view:
            view = view[os.write(fd, view) :]


def flood(message: dict[str, Any]) -> None:
    """In a thread, so that calls are answered meanwhile."""
    kind, token = kind_of(message), (message["params"].get("_meta") or {}).get("progressToken")
    stop = time.monotonic() + SECONDS
    if kind == "notifications":
        block = (encoded(_NOTE) + b"\n") * 100
        while time.monotonic() < stop:
            put(block)
    elif kind == "requests":
        number = 0
        while time.monotonic() < stop:
            block = b""
            for _ in range(100):
                number += 1
                block += encoded({"jsonrpc": "2.0", "id": f"r{number}", "method": "ping"}) + b"\n"
            put(block)
    elif kind == "progress":
        for start in range(0, PROGRESS, 100):
            notes = (
                {"method": "notifications/progress", "params": {"progressToken": token, "progress": start + step}}
                for step in range(100)
            )
            put(b"".join(encoded({"jsonrpc": "2.0", **note}) + b"\n" for note in notes))
    elif kind == "stderr":
        for _ in range(200):
            put(b"x\n" * 10_000, 2)
    elif kind == "long line":
        put(answer(message, "x" * LONG) + b"\n")
        return
    elif kind == "many values":
        put(many_objects(message) + b"\n")
        return
    put(answer(message) + b"\n")


def serve_stdio() -> None:
    """Answer until stdin ends."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "method" not in message or "id" not in message:
            continue
        if kind_of(message) is not None:
            threading.Thread(target=flood, args=(message,), daemon=True).start()
        else:
            put(answer(message) + b"\n")


# Over HTTP.


@cache
def bomb() -> bytes:
    """Small on the way, and large when it is unpacked."""
    return gzip.compress(b'{"x":"' + b"x" * BOMB + b'"}', 6)


def head(status: str, *headers: str) -> bytes:
    """A response's head."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_JSON, _CHUNKED = "content-type: application/json", "transfer-encoding: chunked"


async def flood_http(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """The same over HTTP, each on the connection of its own request."""
    kind, stop = kind_of(message), time.monotonic() + SECONDS
    if kind == "notifications":
        writer.write(head("200 OK", "content-type: text/event-stream", _CHUNKED))
        block = chunk((b"data: " + encoded(_NOTE) + b"\n\n") * 100)
        while time.monotonic() < stop:
            writer.write(block)
            await writer.drain()
        writer.write(chunk(b"data: " + answer(message) + b"\n\n") + chunk(b""))
    elif kind == "endless body":
        writer.write(head("200 OK", _JSON, _CHUNKED) + chunk(b'{"x":"'))
        while time.monotonic() < stop:
            writer.write(chunk(b"x" * 65_536))
            await writer.drain()
        writer.close()
    elif kind == "one-byte chunks":
        body = answer(message, "x" * 300_000)
        writer.write(head("200 OK", _JSON, _CHUNKED) + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + chunk(b""))
    elif kind == "gzip bomb":
        headers = (_JSON, "content-encoding: gzip", f"content-length: {len(bomb())}")
        writer.write(head("200 OK", *headers) + bomb())
    elif kind == "long body":
        body = answer(message, "x" * LONG)
        writer.write(head("200 OK", _JSON, f"content-length: {len(body)}") + body)
    elif kind == "long event":
        body = b"data: " + answer(message, "x" * LONG) + b"\n\n"
        writer.write(head("200 OK", "content-type: text/event-stream", f"content-length: {len(body)}") + body)
    elif kind == "many values":
        body = many_objects(message)
        writer.write(head("200 OK", _JSON, f"content-length: {len(body)}") + body)
    await writer.drain()


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
            body = await reader.readexactly(lengths[0] if lengths else 0)
            message = json.loads(body) if lines[0].startswith(b"post") and body else {}
            if "id" not in message or "method" not in message:
                status = "202 Accepted" if message else "200 OK" if lines[0].startswith(b"delete") else "405 No"
                writer.write(head(status, "content-length: 0"))
            elif kind_of(message) is not None:
                await flood_http(message, writer)
            else:
                data = answer(message)
                writer.write(head("200 OK", _JSON, "mcp-session-id: one", f"content-length: {len(data)}") + data)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def serve_http() -> None:
    """Serve until killed."""
    bomb()
    server = await asyncio.start_server(serve_connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run: dict[str, Callable[[], Any]] = {"stdio": serve_stdio, "http": lambda: asyncio.run(serve_http())}
    run[sys.argv[1]]()
