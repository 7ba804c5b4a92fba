"""The pool on servers that nobody here wrote, and on each kind of server that it can be given."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server import MCPServer

from tests.processes import children
from tests.servers.http import running
from tests.servers.install import RealServers
from tests.servers.raw_http import raw_server
from trio_mcp_pool import (
    CustomServer,
    HttpServer,
    InProcessServer,
    OutcomeUnknownError,
    Pool,
    PoolPolicy,
    Server,
    StdioServer,
    open_pool,
)

Wire = Literal["trio", "sdk"]
CALLERS = 50
FEATURES = (sys.executable, ["-m", "tests.servers.features_stdio"])


@pytest.fixture(params=["trio", "sdk"])
def wire(request: pytest.FixtureRequest) -> Wire:
    name: Wire = request.param
    return name


@pytest.fixture(scope="module")
def streamable() -> Iterator[str]:
    with running("plain") as url:
        yield url


@pytest.fixture(scope="module")
def sse() -> Iterator[str]:
    with running("sse") as url:
        yield url


def text(result: types.CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, types.TextContent)
    assert not result.is_error, content.text
    return content.text


async def all_at_once(server: Server, ask: Callable[[Pool, int], Awaitable[bool]], seconds: float = 30) -> None:
    """Many callers, one session, everybody served with what is theirs, and nothing left."""
    with trio.fail_after(seconds):
        await trio.to_thread.run_sync(lambda: None)  # so that Trio's own threads and descriptors are there
        tasks, processes = trio.lowlevel.current_statistics().tasks_living, children()
        served: dict[int, bool] = {}
        async with open_pool({"it": server}, policy=PoolPolicy(max_sessions=1)) as pool:

            async def call(number: int) -> None:
                served[number] = await ask(pool, number)

            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(call, number)
            assert served == dict.fromkeys(range(CALLERS), True)
            stats = pool.statistics()
            assert (stats.connects, stats.size, stats.leases_in_flight) == (1, 1, 0)
            if isinstance(server, StdioServer):
                assert len(children() - processes) == 1
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert children() == processes
        stats = pool.statistics()
        assert (stats.connects, stats.size, stats.closed_shutdown) == (1, 0, 1)


async def echoes(pool: Pool, number: int) -> bool:
    return text(await pool.call_tool("it", "echo", {"text": f"caller {number}"})) == f"caller {number}"


# Servers over stdio that nobody here wrote.


async def test_filesystem_server_called_by_many_at_once(wire: Wire, real_servers: RealServers, tmp_path: Path) -> None:
    async def ask(pool: Pool, number: int) -> bool:
        path = str(tmp_path / f"{number}.txt")
        await pool.call_tool("it", "write_file", {"path": path, "content": f"written by {number}"})
        return text(await pool.call_tool("it", "read_text_file", {"path": path})) == f"written by {number}"

    command, *args = real_servers.filesystem
    await all_at_once(StdioServer(command, [*args, str(tmp_path)], wire=wire), ask)


async def test_memory_server_called_by_many_at_once(wire: Wire, real_servers: RealServers, tmp_path: Path) -> None:
    graph = tmp_path / "memory.jsonl"
    entity = '{{"type":"entity","name":"e{0}","entityType":"number","observations":["seen {0} times"]}}'
    graph.write_text("\n".join(map(entity.format, range(CALLERS))))

    async def ask(pool: Pool, number: int) -> bool:
        found = text(await pool.call_tool("it", "open_nodes", {"names": [f"e{number}"]}))
        return f"seen {number} times" in found and found.count('"name"') == 1

    command, *args = real_servers.memory
    await all_at_once(StdioServer(command, args, env={"MEMORY_FILE_PATH": str(graph)}, wire=wire), ask)


async def test_time_server_called_by_many_at_once(wire: Wire, real_servers: RealServers) -> None:
    async def ask(pool: Pool, number: int) -> bool:
        arguments = {"source_timezone": "UTC", "time": f"03:{number:02}", "target_timezone": "Asia/Tokyo"}
        return f"T12:{number:02}:00+09:00" in text(await pool.call_tool("it", "convert_time", arguments))

    command, *args = real_servers.time
    await all_at_once(StdioServer(command, args, wire=wire), ask)


async def test_calculator_server_on_mcp_1_called_by_many_at_once(wire: Wire, real_servers: RealServers) -> None:
    async def ask(pool: Pool, number: int) -> bool:
        expression = {"expression": f"{number} * {number} + 1"}
        return text(await pool.call_tool("it", "calculate", expression)) == str(number * number + 1)

    command, *args = real_servers.calculator
    await all_at_once(StdioServer(command, args, wire=wire), ask)


async def test_R5_a_hundred_first_callers_start_one_process_and_lose_only_the_one_cancelled(
    wire: Wire, real_servers: RealServers, tmp_path: Path
) -> None:
    command, *args = real_servers.filesystem
    before = children()
    served: list[int] = []
    with trio.fail_after(30):
        async with open_pool({"it": StdioServer(command, [*args, str(tmp_path)], wire=wire)}) as pool:
            first = trio.CancelScope()

            async def call(number: int) -> None:
                with first if number == 0 else trio.CancelScope():
                    assert str(tmp_path) in text(await pool.call_tool("it", "list_allowed_directories"))
                    served.append(number)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, 0)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(1, 100):
                    nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
                assert pool.statistics().tasks_waiting_acquire == 100
                first.cancel()
            assert sorted(served) == list(range(1, 100))
            assert pool.statistics().connects == 1
            assert len(children() - before) == 1


# HTTP, in both eras and over SSE.


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_streamable_http_called_by_many_at_once(mode: Any, version: str, streamable: str) -> None:
    async def ask(pool: Pool, number: int) -> bool:
        async with pool.session("it") as session:
            assert session.protocol_version == version
        return await echoes(pool, number)

    await all_at_once(HttpServer(streamable, mode=mode), ask)


async def test_sse_called_by_many_at_once(sse: str) -> None:
    await all_at_once(HttpServer(sse, transport="sse"), echoes)


# Credentials.


async def test_a_drain_brings_the_fresh_environment_to_a_fresh_process(wire: Wire) -> None:
    tokens = iter(["first token", "second token"])

    async def environment() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {"TOKEN": next(tokens)}

    async def ask(pool: Pool) -> str:
        return text(await pool.call_tool("it", "env", {"name": "TOKEN"}))

    command, args = FEATURES
    with trio.fail_after(30):
        async with open_pool({"it": StdioServer(command, args, env=environment, wire=wire)}) as pool:
            assert [await ask(pool), await ask(pool)] == ["first token"] * 2
            await pool.drain("it")
            assert await ask(pool) == "second token"
            assert pool.statistics().closed_drained == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_drain_brings_fresh_headers_to_a_fresh_connection(kind: str) -> None:
    token = "first"

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async def headers_async() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return headers()

    given = headers if kind == "sync" else headers_async
    with trio.fail_after(30):
        async with raw_server() as raw, open_pool({"it": HttpServer(raw.url, headers=given, mode="legacy")}) as pool:
            await pool.call_tool("it", "one")
            token = "second"
            await pool.call_tool("it", "two")  # the connection keeps what it was dialled with
            assert {seen["authorization"] for seen in raw.headers} == {"Bearer first"}
            await pool.drain("it")
            raw.headers.clear()
            await pool.call_tool("it", "three")
            assert {seen["authorization"] for seen in raw.headers} == {"Bearer second"}


# In process, and of one's own making.


def in_process() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("in process")

    @server.tool()
    async def echo(text: str) -> str:
        """Give back the text."""
        await anyio.lowlevel.checkpoint()
        return text

    return server


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_server_in_process_called_by_many_at_once(mode: Any) -> None:
    await all_at_once(InProcessServer(in_process(), mode=mode), echoes)


async def test_a_custom_client_called_by_many_at_once() -> None:
    await all_at_once(CustomServer(lambda: mcp.Client(in_process())), echoes)


async def test_a_custom_client_whose_server_dies_is_replaced_at_the_next_call() -> None:
    dials = 0

    @asynccontextmanager
    async def factory() -> AsyncIterator[mcp.Client]:
        nonlocal dials
        dials += 1
        command, args = FEATURES
        async with mcp.Client(stdio_client(StdioServerParameters(command=command, args=args))) as client:
            yield client

    with trio.fail_after(30):
        async with open_pool({"it": CustomServer(factory)}) as pool:
            first = int(text(await pool.call_tool("it", "pid")))
            os.kill(first, signal.SIGKILL)
            # The pool cannot see behind such a client, so it must take the request as sent.
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("it", "pid")
            assert int(text(await pool.call_tool("it", "pid"))) != first
            assert dials == 2
            assert pool.statistics().sessions_lost == 1


# anyio.


def test_an_anyio_program_on_the_trio_backend_needs_to_know_nothing_of_trio() -> None:
    async def main() -> list[str]:
        said: list[str] = []
        command, args = FEATURES
        with anyio.fail_after(30):
            async with open_pool({"it": StdioServer(command, args)}) as pool:

                async def call(number: int) -> None:
                    said.append(text(await pool.call_tool("it", "echo", {"text": str(number)})))

                async with anyio.create_task_group() as group:
                    for number in range(CALLERS):
                        group.start_soon(call, number)
                assert sorted(said, key=int) == [str(number) for number in range(CALLERS)]
                with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                    await pool.call_tool("it", "hang")
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(partial(pool.call_tool, "it", "hang"))
                        await anyio.lowlevel.checkpoint()
                        scope.cancel()
                async with pool.session("it") as session:
                    os.kill(int(text(await session.call_tool("pid"))), signal.SIGKILL)
                    with pytest.raises(anyio.BrokenResourceError):
                        await session.call_tool("hang")
                await pool.aclose()
                with pytest.raises(anyio.ClosedResourceError):
                    await pool.call_tool("it", "echo", {"text": "too late"})
        return said

    assert len(anyio.run(main, backend="trio")) == CALLERS
