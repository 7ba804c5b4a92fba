"""Calls that only their own scope can end: in the modern era a handler in the same process runs in the caller's task."""

from __future__ import annotations

from contextlib import nullcontext

import anyio
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import InProcessServer, OutcomeUnknownError, Pool, PoolPolicy

from .books import settle, watched_pool


@pytest.mark.parametrize("how", ["aclose", "drain", "the body raises"])
async def test_R15_closing_its_connection_cancels_a_call_that_runs_in_its_caller(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = MCPServer("endless")

    @server.tool()
    async def endless() -> str:
        await anyio.sleep_forever()
        return "never"

    policy = PoolPolicy(drain_timeout=3, close_timeout=5)
    cut: list[tuple[float, type[BaseException]]] = []

    async def call(pool: Pool) -> None:
        try:
            await pool.call_tool("s", "endless")
        except OutcomeUnknownError as exc:
            cut.append((trio.current_time(), type(exc)))

    with trio.fail_after(20):
        async with trio.open_nursery() as outside:
            with pytest.raises(RuntimeError, match="enough") if how == "the body raises" else nullcontext():
                async with watched_pool({"s": InProcessServer(server)}, policy=policy) as pool:
                    outside.start_soon(call, pool)
                    await settle()
                    if how == "aclose":
                        await pool.aclose()
                    elif how == "drain":
                        await pool.drain("s")
                    else:
                        raise RuntimeError("enough")
    assert cut == [(0 if how == "the body raises" else 3, OutcomeUnknownError)]
