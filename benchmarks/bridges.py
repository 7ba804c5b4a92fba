"""The pool from asyncio, beside `mcp.Client` on asyncio: both in one event loop, on servers of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters

from trio_mcp_pool import StdioServer
from trio_mcp_pool.bridge import AsyncioPool

from .measure import Sample, Stopwatch, Turn, interleave

Tool = Callable[[str, dict[str, Any]], Awaitable[Any]]
ARGUMENTS = {"text": "hello"}


def in_sequence(call: Tool, calls: int) -> Turn:
    """One call after the other."""

    async def turn() -> Sample:
        with Stopwatch() as watch:
            for _ in range(calls):
                await call("echo", ARGUMENTS)
        return watch.sample(calls)

    return turn


def at_once(call: Tool, calls: int, concurrent: int) -> Turn:
    """As many tasks as `concurrent`, each making its share of the calls, one after the other."""
    share = max(1, calls // concurrent)

    async def caller() -> None:
        for _ in range(share):
            await call("echo", ARGUMENTS)

    async def turn() -> Sample:
        with Stopwatch() as watch:
            await asyncio.gather(*(caller() for _ in range(concurrent)))
        return watch.sample(share * concurrent)

    return turn


async def measure(
    script: str, calls: int, concurrent: int, rounds: int, told: Callable[[], None]
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """The samples of both contenders, in sequence and at once."""
    async with (
        AsyncioPool({"echo": StdioServer(sys.executable, (script,))}) as pool,
        mcp.Client(StdioServerParameters(command=sys.executable, args=[script])) as client,
    ):
        await client.list_tools()

        async def through_pool(name: str, arguments: dict[str, Any]) -> Any:
            return await pool.call_tool("echo", name, arguments)

        callers: dict[str, Tool] = {"pool": through_pool, "mcp.Client": client.call_tool}
        single = {name: in_sequence(call, calls) for name, call in callers.items()}
        many = {name: at_once(call, calls, concurrent) for name, call in callers.items()}
        return await interleave(single, rounds, told=told), await interleave(many, rounds, told=told)
