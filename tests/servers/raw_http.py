"""An HTTP server on bare sockets that misbehaves on demand.

It speaks just enough of the handshake era for a session to come up. What it does with a request is looked up in `plans`:
by the HTTP method for GET and DELETE, by the name of the tool for a call, else by the JSON-RPC method. A plan is an async
function of the `Exchange`; the ones below cover what servers and networks do to their clients.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
import trio.testing


@dataclass
class Exchange:
    """One HTTP request, and the means to answer it."""

    server: RawServer
    stream: trio.SocketStream
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    sending: trio.Lock = field(default_factory=trio.Lock)

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message in the body."""
        return json.loads(self.body) if self.body else {}

    @property
    def name(self) -> str:
        """What the plans know this request by."""
        if self.method != "POST":
            return self.method
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self.target.rpartition("/")[2]
        if self.message.get("method") == "tools/call":
            return str(self.message["params"]["name"])
        return str(self.message.get("method", "response"))

    async def reply(self, status: int, body: bytes = b"", *headers: str) -> None:
        """A whole response."""
        head = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}", *headers]
        if not self.server.keep_alive:
            head.append("connection: close")
        await self.stream.send_all("\r\n".join([*head, "", ""]).encode() + body)
        if not self.server.keep_alive:
            await self.stream.aclose()

    async def reply_json(self, message: dict[str, Any], status: int = 200, *headers: str) -> None:
        await self.reply(status, json.dumps(message).encode(), "content-type: application/json", *headers)

    async def result(self, result: dict[str, Any], *headers: str) -> None:
        """The JSON-RPC result as a JSON body."""
        await self.reply_json({"jsonrpc": "2.0", "id": self.message["id"], "result": result}, 200, *headers)

    def result_event(self, text: str, request_id: Any = None) -> bytes:
        """The result of a tool as a server-sent event."""
        answer = {"jsonrpc": "2.0", "id": request_id or self.message["id"], "result": tool_result(text)}
        return f"data: {json.dumps(answer)}\n\n".encode()

    async def start_events(self, *headers: str) -> None:
        """The head of a stream of server-sent events."""
        head = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked", *headers]
        await self.stream.send_all("\r\n".join([*head, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        async with self.sending:
            await self.stream.send_all(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def reset(self) -> None:
        """Drop the connection so that the client sees a reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.stream.aclose()

    async def wait_gone(self) -> None:
        """Until the client has closed the connection."""
        try:
            while await self.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        self.server.gone.append(self.name)


Plan = Callable[[Exchange], Awaitable[None]]


def tool_result(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": False, "resultType": "complete"}


async def _initialize(exchange: Exchange) -> None:
    await exchange.result(
        {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "raw", "version": "1"},
        },
        "mcp-session-id: the-session",
    )


async def _accept(exchange: Exchange) -> None:
    await exchange.reply(202)


async def ok(exchange: Exchange) -> None:
    """The result `ok`, as JSON."""
    await exchange.result(tool_result("ok"))


def status(code: int, *headers: str, body: bytes = b"") -> Plan:
    """Nothing but an HTTP status."""
    return lambda exchange: exchange.reply(code, body, *headers)


def rpc_error(code: int, error_code: int, message: str = "no") -> Plan:
    """A JSON-RPC error at an HTTP status."""

    async def plan(exchange: Exchange) -> None:
        error = {"code": error_code, "message": message}
        await exchange.reply_json({"jsonrpc": "2.0", "id": exchange.message.get("id"), "error": error}, code)

    return plan


def anonymous_error(code: int, error_code: int, message: str) -> Plan:
    """A JSON-RPC error that does not say what it answers."""

    async def plan(exchange: Exchange) -> None:
        error = {"code": error_code, "message": message}
        await exchange.reply_json({"jsonrpc": "2.0", "id": None, "error": error}, code)

    return plan


async def empty_result(exchange: Exchange) -> None:
    """The answer to a ping."""
    await exchange.result({})


async def discover(exchange: Exchange) -> None:
    """The modern era's first answer."""
    await exchange.result(
        {
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
        }
    )


async def reset(exchange: Exchange) -> None:
    """A reset in place of an answer."""
    await exchange.reset()


async def hang(exchange: Exchange) -> None:
    """No answer, until the client gives up."""
    exchange.server.hanging.set()
    await exchange.wait_gone()


async def truncated_json(exchange: Exchange) -> None:
    """Half an answer, then the end of the connection."""
    await exchange.stream.send_all(
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"jsonrpc":'
    )
    await exchange.stream.aclose()


async def truncated_events(exchange: Exchange) -> None:
    """Half an event, then a reset."""
    await exchange.start_events()
    await exchange.chunk(b'data: {"jsonrpc":')
    await exchange.reset()


async def ended_events(exchange: Exchange) -> None:
    """An orderly end of the stream, before the answer."""
    await exchange.start_events()
    await exchange.stream.send_all(b"0\r\n\r\n")


async def hanging_events(exchange: Exchange) -> None:
    """The head of a stream, and nothing in it."""
    await exchange.start_events()
    exchange.server.hanging.set()
    await exchange.wait_gone()


@dataclass
class RawServer:
    """The server, and what it saw."""

    port: int = 0
    plans: dict[str, Plan] = field(default_factory=dict)
    routes: dict[str, Plan] = field(default_factory=dict)
    """Plans by path, for what is no MCP endpoint. They come first, and are not noted in `seen`."""
    guard: Callable[[Exchange], Awaitable[bool]] | None = None
    """Run before a plan of the MCP endpoint; it says whether it has answered."""
    seen: list[str] = field(default_factory=list)
    """The names of all requests, in the order of their coming."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Their headers."""
    targets: list[str] = field(default_factory=list)
    """Their paths, with the queries."""
    gone: list[str] = field(default_factory=list)
    """The requests whose client hung up."""
    keep_alive: bool = True
    """Whether connections are used for more than one request."""
    ssl_context: ssl.SSLContext | None = None
    early: Callable[[Any], Awaitable[None]] | None = None
    """What new connections are given to instead."""
    connections: int = 0
    """How many were accepted."""
    open: int = 0
    """How many of them are open."""
    most_open: int = 0
    longest_body: int = 1 << 30
    """Connections that send more are reset in the middle of it."""
    hanging: trio.Event = field(default_factory=trio.Event)
    """Set when a request is left hanging."""
    nursery: trio.Nursery | None = None
    _listening: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def url(self) -> str:
        if self.ssl_context is not None:
            return f"https://localhost:{self.port}/mcp"
        return f"http://127.0.0.1:{self.port}/mcp"

    async def stop_listening(self) -> None:
        """Refuse new connections; what is connected stays."""
        self._listening.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def listen(self) -> None:
        assert self.nursery is not None
        self.port = await self.nursery.start(self._serve)

    async def _serve(self, task_status: trio.TaskStatus[int]) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        with trio.CancelScope() as self._listening:
            task_status.started(listeners[0].socket.getsockname()[1])
            serving: Any = listeners
            if self.ssl_context is not None:
                serving = [trio.SSLListener(one, self.ssl_context, https_compatible=True) for one in listeners]
            await trio.serve_listeners(self._count, serving, handler_nursery=self.nursery)

    async def _count(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._talk(stream)
        finally:
            self.open -= 1

    async def _talk(self, stream: trio.SocketStream) -> None:
        buffer = b""
        if self.early is not None:
            async with stream:
                await self.early(stream)
            return
        async with stream:
            while True:
                try:
                    while b"\r\n\r\n" not in buffer:
                        data = await stream.receive_some(65536)
                        if not data:
                            return
                        buffer += data
                        if buffer[:1] == b"\x16":  # TLS, on a port for plain HTTP
                            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                            return
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    first, *lines = head.decode().split("\r\n")
                    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                    length = int(headers.get("content-length", "0"))
                    if length > self.longest_body:
                        await Exchange(self, stream, "", "", headers, b"").reset()
                        return
                    while len(buffer) < length:
                        data = await stream.receive_some(65536)
                        if not data:
                            return
                        buffer += data
                    body, buffer = buffer[:length], buffer[length:]
                    method, target, _ = first.split(" ")
                    await self._answer(Exchange(self, stream, method, target, headers, body))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

    async def _answer(self, exchange: Exchange) -> None:
        route = self.routes.get(exchange.target.partition("?")[0])
        if route is not None:
            await route(exchange)
            return
        self.seen.append(exchange.name)
        self.headers.append(exchange.headers)
        self.targets.append(exchange.target)
        if self.guard is None or not await self.guard(exchange):
            await self.plans.get(exchange.name, DEFAULTS.get(exchange.name, ok))(exchange)


async def _tools(exchange: Exchange) -> None:
    """All that there are plans for, so that a client asks for them once and not after every call."""
    names = {"good", *exchange.server.plans} - DEFAULTS.keys()
    await exchange.result(
        LISTED | {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in sorted(names)]}
    )


LISTED = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
DEFAULTS: dict[str, Plan] = {
    "initialize": _initialize,
    "notifications/initialized": _accept,
    "notifications/cancelled": _accept,
    "server/discover": status(404),
    "tools/list": _tools,
    "GET": status(405),
    "DELETE": status(200),
}


@asynccontextmanager
async def raw_server(
    plans: dict[str, Plan] | None = None, *, keep_alive: bool = True, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """A server in this very run."""
    server = RawServer(plans=dict(plans or {}), keep_alive=keep_alive, ssl_context=ssl_context)
    async with trio.open_nursery() as nursery:
        server.nursery = nursery
        await server.listen()
        yield server
        nursery.cancel_scope.cancel()


def sse_plans(post: dict[str, Plan]) -> dict[str, Plan]:
    """Plans for the SSE transport: answers come over the GET stream, POSTs are accepted; `post` overrides by name."""
    return {"GET": _sse_stream, **{name: partial(_sse_post, name=name) for name in _SSE_RESULTS}, **post}


async def _sse_stream(exchange: Exchange) -> None:
    await exchange.start_events()
    await exchange.chunk(b"event: endpoint\ndata: /messages\n\n")
    _SSE_STREAMS[exchange.server.port] = exchange
    await exchange.wait_gone()


async def sse_result(exchange: Exchange) -> None:
    """Accept a call, and answer `ok` over the stream."""
    await exchange.reply(202)
    await sse_answer(exchange)


async def sse_answer(exchange: Exchange, text: str = "ok") -> None:
    """Answer a call over the stream."""
    answer = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": tool_result(text)}
    await _SSE_STREAMS[exchange.server.port].chunk(f"event: message\ndata: {json.dumps(answer)}\n\n".encode())


async def _sse_post(exchange: Exchange, name: str) -> None:
    await exchange.reply(202)
    result = _SSE_RESULTS[name]
    if result is not None:
        answer = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": result}
        await _SSE_STREAMS[exchange.server.port].chunk(f"event: message\ndata: {json.dumps(answer)}\n\n".encode())


async def end_sse_stream(server: RawServer) -> None:
    """Cut the stream over which the answers come."""
    await _SSE_STREAMS[server.port].reset()


_SSE_STREAMS: dict[int, Exchange] = {}
_SSE_RESULTS: dict[str, dict[str, Any] | None] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "raw", "version": "1"},
    },
    "notifications/initialized": None,
    "tools/list": {"tools": []},
    "fine": tool_result("ok"),
}
