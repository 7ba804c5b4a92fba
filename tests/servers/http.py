"""The SDK's own server over HTTP, in a process of its own, for the tests of the HTTP wire.

Run as a module it serves and prints its port. `running(kind)` starts one and gives its address.

A server's tools count their executions in the process, so that a test can ask for the truth afterwards.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

Kind = Literal["plain", "json", "stateless", "sse"]


class Name(BaseModel):
    """What the client is asked for."""

    name: str


def build() -> MCPServer[Any]:
    """The server behind every kind of endpoint."""
    # Each call that a client gives up is an error to the SDK, and drawing its traceback takes longer than serving it.
    server: MCPServer[Any] = MCPServer("http-test", log_level="CRITICAL")
    executions: dict[str, int] = {}

    @server.tool()
    async def echo(text: str) -> str:
        """Give back the text."""
        executions["echo"] = executions.get("echo", 0) + 1
        return text

    @server.tool()
    async def slow(text: str, seconds: float) -> str:
        """Give back the text after a while."""
        executions["slow"] = executions.get("slow", 0) + 1
        await anyio.sleep(seconds)
        executions["slow finished"] = executions.get("slow finished", 0) + 1
        return text

    @server.tool()
    async def big(size: int) -> str:
        """A text of that many characters."""
        return "x" * size

    @server.tool()
    async def executed(tool: str) -> int:
        """How often a tool ran."""
        return executions.get(tool, 0)

    @server.tool()
    async def count(to: int, context: Context) -> str:
        """Report progress up to a number."""
        for number in range(1, to + 1):
            await context.report_progress(number, to)
        return "done"

    @server.tool()
    async def ask(context: Context) -> str:
        """Ask the client for a name."""
        answer = await context.elicit("Your name?", Name)
        assert answer.action == "accept"
        return answer.data.name

    @server.tool()
    async def log(context: Context) -> str:
        """Send a log message."""
        await context.session.send_log_message(
            "info", "x", "http", related_request_id=context.request_context.request_id
        )
        return "logged"

    @server.tool()
    async def client_port(context: Context) -> str:
        """The port that this request came from."""
        assert context.request_context.request is not None
        return str(context.request_context.request.client.port)

    @server.tool()
    async def session_id(context: Context) -> str:
        """The session that this request belongs to."""
        assert context.request_context.request is not None
        return str(context.request_context.request.headers["mcp-session-id"])

    return server


def serve(kind: Kind) -> None:
    """Serve on a free port until killed."""
    server = build()
    if kind == "sse":
        app = server.sse_app()
    else:
        app = server.streamable_http_app(json_response=kind == "json", stateless_http=kind == "stateless")
    # The protocol is named so that asyncio turns off the delay of small packets.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        print(listener.getsockname()[1], flush=True)
        # The lifetime of the test is short, and so is the patience with clients that hang on.
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def running(kind: Kind) -> Iterator[str]:
    """Start a server and give the URL of its endpoint."""
    process = subprocess.Popen([sys.executable, "-m", "tests.servers.http", kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield f"http://127.0.0.1:{port}/{'sse' if kind == 'sse' else 'mcp'}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    serve(sys.argv[1])  # type: ignore[arg-type]
