"""One contender in a process of its own: `python peer_worker.py NAME SERVER`, in an environment where NAME is installed.

Reads a line of JSON per turn on stdin, `{"calls": 100, "concurrent": 1}`, and answers with one on stdout, `{"wall": ...,
"cpu": ..., "calls": ...}`, seconds per call. Between turns it waits for the next line and does nothing else, so that the
contenders never run beside each other. Each client is used as its documentation says, with its defaults. This file is
run by interpreters that know nothing of the rest of this package, and imports nothing of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from gc import collect
from typing import Any

Call = Callable[[], Awaitable[Any]]
ARGUMENTS = {"text": "hello"}


# The contenders: each gives a function that makes one call.


@asynccontextmanager
async def pool(server: str) -> AsyncIterator[Call]:
    """This project."""
    from trio_mcp_pool import StdioServer, open_pool

    async with open_pool({"echo": StdioServer(sys.executable, (server,))}) as pool:
        yield lambda: pool.call_tool("echo", "echo", ARGUMENTS)


@asynccontextmanager
async def client(server: str) -> AsyncIterator[Call]:
    """The SDK's client, on Trio."""
    import mcp
    from mcp.client.stdio import StdioServerParameters

    async with mcp.Client(StdioServerParameters(command=sys.executable, args=[server])) as client:
        await client.list_tools()
        yield lambda: client.call_tool("echo", ARGUMENTS)


@asynccontextmanager
async def fastmcp(server: str) -> AsyncIterator[Call]:
    """FastMCP's client."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    async with Client(StdioTransport(sys.executable, [server], keep_alive=False)) as client:
        await client.list_tools()
        yield lambda: client.call_tool("echo", ARGUMENTS)


@asynccontextmanager
async def openai_agents(server: str) -> AsyncIterator[Call]:
    """The OpenAI Agents SDK's server object."""
    from agents.mcp import MCPServerStdio

    params: Any = {"command": sys.executable, "args": [server]}
    async with MCPServerStdio(params, cache_tools_list=True, client_session_timeout_seconds=60) as session:
        await session.list_tools()
        yield lambda: session.call_tool("echo", ARGUMENTS)


@asynccontextmanager
async def mcp_pool(server: str) -> AsyncIterator[Call]:
    """The other pool."""
    from mcpool import MCPPool, PoolConfig

    config = PoolConfig(endpoint=sys.executable, transport="stdio", stdio_args=[server], borrow_timeout_s=60)
    async with MCPPool(config=config) as pool:
        await pool.wait_ready(timeout_s=10)
        yield lambda: pool.call_tool("echo", arguments=ARGUMENTS)


@asynccontextmanager
async def langchain(server: str) -> AsyncIterator[Call]:
    """LangChain's adapters: a session, and so a process, per call."""
    from langchain_mcp_adapters.client import MultiServerMCPClient

    connection: Any = {"transport": "stdio", "command": sys.executable, "args": [server]}
    tools = await MultiServerMCPClient({"echo": connection}).get_tools()
    echo = next(tool for tool in tools if tool.name == "echo")
    yield lambda: echo.ainvoke(ARGUMENTS)


CONTENDERS: dict[str, Any] = {
    "pool": pool,
    "mcp.Client": client,
    "fastmcp": fastmcp,
    "openai-agents": openai_agents,
    "mcp-pool": mcp_pool,
    "langchain-mcp-adapters": langchain,
}
ON_TRIO = ("pool", "mcp.Client")


async def on_trio(name: str, server: str) -> None:
    """Take turns on Trio."""
    import trio

    async with CONTENDERS[name](server) as call:

        async def at_once(concurrent: int, share: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(concurrent):
                    nursery.start_soon(in_sequence, call, share)

        await take_turns(call, at_once)


async def on_asyncio(name: str, server: str) -> None:
    """Take turns on asyncio."""
    import asyncio

    async with CONTENDERS[name](server) as call:

        async def at_once(concurrent: int, share: int) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrent):
                    group.create_task(in_sequence(call, share))

        await take_turns(call, at_once)


async def in_sequence(call: Call, calls: int) -> None:
    """One call after the other."""
    for _ in range(calls):
        await call()


async def take_turns(call: Call, at_once: Callable[[int, int], Awaitable[None]]) -> None:
    """Answer one line with another until there are no more. Reading blocks: between turns nothing should run."""
    await call()
    say({"ready": True})
    while line := sys.stdin.readline():
        asked = json.loads(line)
        concurrent = asked["concurrent"]
        share = max(1, asked["calls"] // concurrent)
        collect()
        cpu, wall = time.process_time(), time.perf_counter()
        if concurrent == 1:
            await in_sequence(call, share)
        else:
            await at_once(concurrent, share)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        done = share * concurrent
        say({"wall": wall / done, "cpu": cpu / done, "calls": done})


def say(message: dict[str, Any]) -> None:
    """One line to the parent."""
    os.write(OUT, json.dumps(message).encode() + b"\n")


# A library that prints must not come between; nor may a child inherit the pipe.
OUT = os.dup(1)


def main() -> None:
    """Run one contender."""
    name, server = sys.argv[1:]
    os.dup2(2, 1)
    if name in ON_TRIO:
        import trio

        trio.run(on_trio, name, server)
    else:
        import asyncio

        asyncio.run(on_asyncio(name, server))


if __name__ == "__main__":
    main()
