"""However the block of a pool ends, no task, no process and no descriptor is left behind it.

The fixture `nothing_left_behind` looks for processes and descriptors after every test; here they are looked for, with the
tasks, at the very moment when the block has ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import mcp_types as types
import pytest
import trio
import trio.testing

from tests.processes import children, descriptors
from tests.servers.http import running
from trio_mcp_pool import HttpServer, OutcomeUnknownError, Pool, Server, StdioServer, open_pool

Kind = Literal["trio", "sdk", "http legacy", "http modern", "sse"]
KINDS: list[Kind] = ["trio", "sdk", "http legacy", "http modern", "sse"]
IN_FLIGHT = 50


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with running("plain") as plain, running("sse") as sse:
        yield {"http": plain, "sse": sse}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, urls: dict[str, str]) -> Server:
    kind: Kind = request.param
    match kind:
        case "trio" | "sdk":
            return StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], wire=kind)
        case "http legacy":
            return HttpServer(urls["http"], mode="legacy")
        case "http modern":
            return HttpServer(urls["http"])
        case _:
            return HttpServer(urls["sse"], transport="sse")


@asynccontextmanager
async def nothing_left(seconds: float = 90) -> AsyncIterator[None]:
    with trio.fail_after(seconds):
        await trio.to_thread.run_sync(lambda: None)  # so that Trio's own threads and descriptors are there
        before = trio.lowlevel.current_statistics().tasks_living, children(), len(descriptors())
        yield
        after = trio.lowlevel.current_statistics().tasks_living, children(), len(descriptors())
        assert after == before


async def call(pool: Pool, server: Server) -> types.CallToolResult:
    """A call that does not come back while the test lasts."""
    if isinstance(server, StdioServer):
        return await pool.call_tool("it", "hang")
    return await pool.call_tool("it", "slow", {"text": "?", "seconds": 60})


async def is_up(pool: Pool) -> None:
    await pool.call_tool("it", "echo", {"text": "?"})


async def test_R2_nothing_is_left_when_the_block_is_left_with_calls_in_flight(server: Server) -> None:
    told: list[str] = []

    async def cut(pool: Pool) -> None:
        try:
            await call(pool, server)
        except OutcomeUnknownError:
            told.append("it may have run")

    async with nothing_left():
        async with trio.open_nursery() as nursery:
            with pytest.raises(ZeroDivisionError):  # which skips the wait for running leases
                async with open_pool({"it": server}) as pool:
                    await is_up(pool)
                    for _ in range(IN_FLIGHT):
                        nursery.start_soon(cut, pool)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    raise ZeroDivisionError
    assert told == ["it may have run"] * IN_FLIGHT


async def test_R2_nothing_is_left_when_the_block_is_cancelled_with_calls_in_flight(server: Server) -> None:
    async with nothing_left():
        with trio.CancelScope() as scope:
            async with open_pool({"it": server}) as pool, trio.open_nursery() as nursery:
                await is_up(pool)
                for _ in range(IN_FLIGHT):
                    nursery.start_soon(call, pool, server)
                await trio.testing.wait_all_tasks_blocked(0.05)
                scope.cancel()
        assert scope.cancelled_caught


async def test_R2_nothing_is_left_when_the_block_is_cancelled_in_the_middle_of_a_dial(server: Server) -> None:
    async with nothing_left():
        for seconds in (0, 0.01, 0.1):
            with trio.move_on_after(seconds):
                async with open_pool({"it": server}) as pool:
                    await pool.wait_ready()
                    await trio.sleep_forever()


@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_R12_nothing_is_left_of_a_process_that_was_killed_while_the_pool_stays_open(
    wire: Literal["trio", "sdk"],
) -> None:
    server = StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], wire=wire)
    async with nothing_left(), open_pool({"it": server}) as pool:
        before = children()
        content = (await pool.call_tool("it", "pid")).content[0]
        assert isinstance(content, types.TextContent)
        os.kill(int(content.text), signal.SIGKILL)
        while pool.statistics().size:  # bounded by the block's own deadline
            await trio.sleep(0.01)
        assert children() == before  # not even a zombie
        assert pool.statistics().closed_broken == 1
        await is_up(pool)
