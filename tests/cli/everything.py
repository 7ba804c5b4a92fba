"""A server of the SDK with something for each command: tools that succeed, fail and take time, resources, prompts, completion.

Run as a module it speaks over stdio; with `http` it serves on a free port, prints it, and speaks both eras.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

import anyio
import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context


def build() -> MCPServer[Any]:
    """The server."""
    server: MCPServer[Any] = MCPServer("everything", version="7")

    @server.tool()
    async def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    async def paint(colour: Literal["red", "green"], coats: list[int] | None = None) -> str:
        """Paint the\x1b]0;owned\x07 town.\n\nIn colour."""
        return f"{colour} {coats}"

    @server.tool()
    async def fail(why: str) -> str:
        """Fail."""
        raise ValueError(why)

    @server.tool()
    async def slow(seconds: float, context: Context) -> str:
        """Take a while, and report progress."""
        for step in range(10):
            await context.report_progress(step + 1, 10, f"step {step + 1}")
            await anyio.sleep(seconds / 10)
        return f"slept in {os.getpid()}"

    @server.resource("note://today")
    async def today() -> str:
        """What is to be done."""
        return "nothing"

    @server.resource("note://{day}")
    async def note(day: str) -> str:
        """What was done."""
        return f"much on {day}"

    @server.prompt()
    async def greet(name: str, tone: str = "kind") -> str:
        """Greet somebody."""
        return f"Greet {name}, {tone}"

    @server.completion()
    async def complete(ref: object, argument: types.CompletionArgument, context: object) -> types.Completion:
        return types.Completion(values=[name for name in ("Ada", "Alan", "Ben") if name.startswith(argument.value)])

    return server


if __name__ == "__main__":
    if sys.argv[1:] == ["http"]:
        import socket

        import uvicorn

        with socket.socket(proto=socket.IPPROTO_TCP) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            print(listener.getsockname()[1], flush=True)
            config = uvicorn.Config(build().streamable_http_app(), log_level="error", timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[listener])
    else:
        build().run("stdio")
