"""A notice board that speaks MCP over streamable HTTP, on the SDK's own server.

It listens on a port of the loopback interface, prints that port as its only line of output, and ends when its stdin does,
so that it never outlives the program that started it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer

board = MCPServer("board", log_level="WARNING")
_notices: list[str] = []


@board.tool()
def post(text: str) -> int:
    """Add a notice; returns how many there are."""
    _notices.append(text)
    return len(_notices)


@board.tool()
def notices() -> list[str]:
    """All notices, oldest first."""
    return list(_notices)


@board.tool()
def echo(text: str) -> str:
    """Give the text back."""
    return text


@board.tool()
async def look_up(text: str, seconds: float) -> str:
    """Give the text back after some seconds, as a tool does that calls another service."""
    await anyio.sleep(seconds)
    return text


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="board", description="A notice board over HTTP.")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0, the default, picks a free one")
    options = parser.parse_args(arguments)
    # Named as TCP in so many words, or asyncio leaves Nagle's algorithm on and each answer takes 40 ms more.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        if os.name == "posix":  # on Windows the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", options.port))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        config = uvicorn.Config(board.streamable_http_app(), log_level="warning", lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
