"""A raw HTTP server for the benchmark of the HTTP wire: asyncio, no framework, TCP_NODELAY, in a process of its own.

A slow server hides what a client costs, so this one does as little as a server can. It answers both eras. As `sdk-json` and
`sdk-events` it is the SDK's own server instead.
Run: `python -m benchmarks.http_server json|events|split|slow|sdk-json|sdk-events` prints its port and serves until it is
killed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

KIND = sys.argv[1] if len(sys.argv) > 1 else "json"
_INFO = {"name": "bench", "version": "1"}
_TOOL = {"name": "echo", "inputSchema": {"type": "object"}}


def _result(message: dict) -> dict | None:  # type: ignore[type-arg]
    method = message.get("method")
    modern = (
        "_meta" in message.get("params", {}) and "io.modelcontextprotocol/protocolVersion" in message["params"]["_meta"]
    )
    if method == "tools/call":
        result: dict = {"content": [{"type": "text", "text": "ok"}], "isError": False}  # type: ignore[type-arg]
    elif method == "initialize":
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": _INFO}
    elif method == "server/discover":
        return {
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
        }
    elif method == "tools/list":
        result = {"tools": [_TOOL]}
        if modern:
            result |= {"ttlMs": 0, "cacheScope": "private"}
    else:
        return None
    if modern:
        result["resultType"] = "complete"
    return result


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        write = self.transport.write
        if head.startswith(b"GET"):
            write(b"HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n")
            return
        message = json.loads(body) if body else {}
        result = _result(message) if "id" in message else None
        if result is None:
            write(b"HTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n")
            return
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        session = b"mcp-session-id: abc\r\n" if message["method"] == "initialize" else b""
        if KIND == "slow" and message["method"] == "tools/call":
            asyncio.get_running_loop().call_later(0.2, self.write_json, answer, session)
        elif KIND in ("json", "slow"):
            self.write_json(answer, session)
        else:
            event = b"event: message\r\ndata: " + answer + b"\r\n\r\n"
            start = (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%b\r\n" % session
            )
            chunk = b"%x\r\n%b\r\n" % (len(event), event)
            if KIND == "events":
                write(start + chunk + b"0\r\n\r\n")
            else:
                write(start + chunk)
                asyncio.get_running_loop().call_soon(write, b"0\r\n\r\n")

    def write_json(self, answer: bytes, session: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (session, len(answer), answer)
        )


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def serve_with_the_sdk() -> None:
    """The SDK's own server, which takes most of the time of a call."""
    import uvicorn
    from mcp.server import MCPServer

    server = MCPServer("bench", log_level="CRITICAL")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    app = server.streamable_http_app(json_response=KIND == "sdk-json")
    # The protocol is named so that asyncio turns off the delay of small packets.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    if KIND.startswith("sdk-"):
        serve_with_the_sdk()
    else:
        asyncio.run(main())
