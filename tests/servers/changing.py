"""A server of the SDK's own that adds and removes tools while it runs, over stdio or HTTP.

python -m tests.servers.changing stdio
python -m tests.servers.changing http          # prints its port
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context


def build() -> MCPServer[Any]:
    """The server: `add` and `remove` change what it lists, and tell."""
    server: MCPServer[Any] = MCPServer("changing")

    async def tell(context: Context[Any]) -> None:
        # One call for each era: to those who listen, and to the session that called.
        await context.notify_tools_changed()
        await context.request_context.session.send_tool_list_changed()

    @server.tool()
    async def add(name: str, context: Context[Any]) -> str:
        """Add a tool of that name."""
        server.add_tool(lambda: name, name=name, description="Says its name.")
        await tell(context)
        return "added"

    @server.tool()
    async def remove(name: str, context: Context[Any]) -> str:
        """Remove the tool of that name."""
        server.remove_tool(name)
        await tell(context)
        return "removed"

    return server


def main() -> None:
    """Serve until killed."""
    if sys.argv[1] == "stdio":
        build().run("stdio")
        return
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(build().streamable_http_app(), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
