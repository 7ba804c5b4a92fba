"""A server whose tokens expire. `headers` is a function, called for every dial, so every session brings a fresh token.

Two things keep the calls going: sessions are replaced before their token runs out (`max_lifetime`), and when a token is
refused all the same, because somebody revoked it, the sessions are replaced at once (`drain`).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from trio_mcp_pool import AuthenticationError, HttpServer, Pool, PoolPolicy, open_pool

LIFE = 1.0
"""How long a token is good for, in seconds."""

tokens: dict[str, float] = {}
"""Every token that was ever issued, and when it expires."""

server = MCPServer("office", log_level="WARNING")


@server.tool()
def work(number: int) -> int:
    """Do a little work."""
    return number * number


async def fresh_headers() -> dict[str, str]:
    """Log in. A real program would ask its identity provider here."""
    await trio.sleep(0.01)
    token = secrets.token_hex(8)
    tokens[token] = trio.current_time() + LIFE
    return {"Authorization": f"Bearer {token}"}


class Guard:
    """Lets requests with a valid token through to the server."""

    def __init__(self, app: Starlette) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            header = dict(scope["headers"]).get(b"authorization", b"").decode()
            if tokens.get(header.removeprefix("Bearer "), 0) < trio.current_time():
                await PlainTextResponse("token expired", 401)(scope, receive, send)
                return
        await self.app(scope, receive, send)


@asynccontextmanager
async def office() -> AsyncIterator[str]:
    """Run the server in this program; gives its URL."""
    config = Config()
    config.errorlog = None
    config.bind = ["127.0.0.1:0"]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        guarded = Guard(server.streamable_http_app())
        bound = await nursery.start(partial(serve, guarded, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        yield f"{bound[0]}/mcp"
        stop.set()


async def call_with_care(pool: Pool, number: int) -> int:
    """Call; if the token was refused, replace the sessions and call again. A refused call did not run."""
    try:
        result = await pool.call_tool("office", "work", {"number": number})
    except AuthenticationError as error:
        print("refused:", error)
        await pool.drain("office")
        result = await pool.call_tool("office", "work", {"number": number})
    squared: int = result.structured_content["result"]
    return squared


async def main() -> None:
    """Work for longer than any token lasts."""
    policy = PoolPolicy(max_lifetime=0.6 * LIFE)
    async with office() as url, open_pool({"office": HttpServer(url, headers=fresh_headers, policy=policy)}) as pool:
        for number in range(30):
            result = await pool.call_tool("office", "work", {"number": number})
            assert result.structured_content["result"] == number * number
            await trio.sleep(0.08)
        print(f"30 calls in 2.4 s with {len(tokens)} tokens of {LIFE:g} s each, and none was refused")
        assert len(tokens) >= 3

        tokens.update(dict.fromkeys(tokens, 0.0))  # somebody revokes them all
        assert await call_with_care(pool, 12) == 144
        print("revoked, replaced, answered")


if __name__ == "__main__":
    trio.run(main)
