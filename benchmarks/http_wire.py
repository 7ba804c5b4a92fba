"""The HTTP wire beside `mcp.Client` on Trio, in one run, against a raw server in a process of its own.

Run: `python -m benchmarks.http_wire`. Prints the ratio of wall time for each row; the bars stand in the second column.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx2
import mcp
import trio
from mcp.client.streamable_http import streamable_http_client

from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire.http._connect import connect_http

CALLS, AT_ONCE, ROUNDS = 400, 50, 7
Tool = Callable[..., Awaitable[Any]]


@contextmanager
def server(kind: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.http_server", kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Stamp(httpx2.Auth):
    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["authorization"] = "Bearer x"
        yield request


@asynccontextmanager
async def ours(url: str, mode: str, auth: httpx2.Auth | None = None) -> AsyncIterator[mcp.Client]:
    async def resolve(_: object) -> dict[str, str]:
        return {}

    async with connect_http(
        Link("bench"),
        url=url,
        resolve_headers=resolve,
        auth=auth,
        transport="streamable-http",
        ssl_context=None,
        proxy=None,
        max_message=1 << 26,
        max_values=1_000_000,
        max_connections=1000,
        client_options={"mode": mode},
    ) as client:
        await client.list_tools()
        yield client


@asynccontextmanager
async def theirs(url: str, mode: str, auth: httpx2.Auth | None = None) -> AsyncIterator[mcp.Client]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=None, auth=auth, limits=limits) as http:
        async with mcp.Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            await client.list_tools()
            yield client


async def in_sequence(client: mcp.Client) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        await client.call_tool("echo", {"text": "hello"})
    return time.perf_counter() - began


async def at_once(client: mcp.Client) -> float:
    async def caller() -> None:
        for _ in range(CALLS // AT_ONCE):
            await client.call_tool("echo", {"text": "hello"})

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(caller)
    return time.perf_counter() - began


Open = Callable[..., AbstractAsyncContextManager[mcp.Client]]


async def compare(url: str, mode: str, auth: httpx2.Auth | None = None) -> str:
    out = []
    async with ours(url, mode, auth) as us, theirs(url, mode, auth) as them:
        for turn in (in_sequence, at_once):
            mine, yours = [], []
            for _ in range(ROUNDS):
                mine.append(await turn(us))
                yours.append(await turn(them))
            a, b = statistics.median(mine), statistics.median(yours)
            out.append(f"{a / b:.2f} ({a / CALLS * 1e6:.0f} / {b / CALLS * 1e6:.0f} us)")
    return "   ".join(out)


async def crowd(url: str) -> str:
    """500 callers of 200 ms each: the makespan to the ideal, cold and warm."""
    out = []
    async with ours(url, "legacy") as client:
        for _ in range(3):
            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(500):
                    nursery.start_soon(client.call_tool, "echo", {})
            out.append((time.perf_counter() - began) / 0.2)
    return "  ".join(f"{one:.2f}" for one in out)


async def main() -> None:
    for kind, bar in (("json", "0.45 / 0.25"), ("events", "0.30 / 0.20"), ("split", "0.30 / 0.20")):
        with server(kind) as url:
            for mode in ("legacy", "auto"):
                print(f"{kind:7} {mode:7} at most {bar}:  {await compare(url, mode)}", flush=True)
            if kind == "json":
                print(f"{kind:7} auth    at most 0.50 / 0.27:  {await compare(url, 'auto', Stamp())}", flush=True)
    with server("slow") as url:
        print(f"500 callers, at most 2.5 cold, 1.8 warm:  {await crowd(url)}", flush=True)


if __name__ == "__main__":
    trio.run(main)
