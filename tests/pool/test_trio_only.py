"""R17: only under Trio, and who checkpoints when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import CustomServer, InProcessServer, Pool, PoolPolicy, Server, Session, open_pool, serve_pool
from trio_mcp_pool.testing import ScriptedServer

from .books import watched_pool

SAYS = r"works only under Trio: start the program with trio\.run\(main\), or with anyio\.run\(main, backend='trio'\)"


async def enter() -> None:
    async with open_pool({"s": ScriptedServer()}):
        pytest.fail("it was opened")


async def serve() -> None:
    await serve_pool({"s": ScriptedServer()})


@pytest.mark.parametrize("entry", [enter, serve])
@pytest.mark.parametrize(
    "run", [asyncio.run, lambda coroutine: anyio.run(lambda: coroutine, backend="asyncio")], ids=["asyncio", "anyio"]
)
def test_R17_outside_of_trio_the_entry_points_say_what_to_do(
    entry: Callable[[], Awaitable[None]], run: Callable[[Any], None]
) -> None:
    with pytest.raises(RuntimeError, match=SAYS):
        run(entry())


@pytest.mark.parametrize("entry", [enter, serve])
def test_R17_in_no_event_loop_at_all_the_entry_points_say_what_to_do(entry: Callable[[], Any]) -> None:
    coroutine = entry()
    with pytest.raises(RuntimeError, match=SAYS):
        coroutine.send(None)


def test_R17_anyio_code_on_the_trio_backend_can_use_the_pool() -> None:
    async def main() -> str:
        async with open_pool({"s": ScriptedServer()}) as pool, anyio.create_task_group() as group:
            group.start_soon(pool.wait_ready)
            result = await pool.call_tool("s", "echo", {"text": "x"})
            return str(result.is_error)

    assert anyio.run(main, backend="trio") == "False"


def in_process() -> MCPServer:
    server = MCPServer("m")

    @server.tool()
    def echo(text: str) -> str:
        return text

    @server.resource("memo://hello")
    def hello() -> str:
        return "hello"

    @server.prompt()
    def greet() -> str:
        return "hello"

    return server


def servers() -> dict[str, Server]:
    shared = in_process()
    return {
        "scripted": ScriptedServer(),
        "in process": InProcessServer(shared),
        "custom": CustomServer(lambda: mcp.Client(shared)),
    }


ON_POOL: dict[str, Callable[[Pool, str], Awaitable[Any]]] = {
    "call_tool": lambda pool, name: pool.call_tool(name, "echo", {"text": "x"}),
    "list_tools": lambda pool, name: pool.list_tools(name),
    "list_resources": lambda pool, name: pool.list_resources(name),
    "list_resource_templates": lambda pool, name: pool.list_resource_templates(name),
    "list_prompts": lambda pool, name: pool.list_prompts(name),
    "read_resource": lambda pool, name: pool.read_resource(name, "memo://hello"),
    "get_prompt": lambda pool, name: pool.get_prompt(name, "greet"),
    "wait_ready": lambda pool, name: pool.wait_ready(name),
    "drain": lambda pool, name: pool.drain(name),
    "remove_server": lambda pool, name: pool.remove_server(name),
    "aclose": lambda pool, name: pool.aclose(),
}
ON_SESSION: dict[str, Callable[[Session], Awaitable[Any]]] = {
    "call_tool": lambda session: session.call_tool("echo", {"text": "x"}),
    "list_tools": lambda session: session.list_tools(),
    "list_resources": lambda session: session.list_resources(),
    "list_resource_templates": lambda session: session.list_resource_templates(),
    "list_prompts": lambda session: session.list_prompts(),
    "read_resource": lambda session: session.read_resource("memo://hello"),
    "get_prompt": lambda session: session.get_prompt("greet"),
}
NAMES = ["scripted", "in process", "custom"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ready", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("verb", ON_POOL)
async def test_R17_every_verb_of_the_pool_checkpoints_twice_over(
    verb: str, ready: bool, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The second time too, when the SDK could answer from its cache."""
    async with open_pool(servers()) as pool:
        if ready:
            await pool.wait_ready()
        for _ in range(1 if verb in ("remove_server", "aclose") else 3):
            with trio.testing.assert_checkpoints():
                await ON_POOL[verb](pool, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ON_SESSION)
async def test_R17_every_verb_of_a_session_checkpoints(
    verb: str, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pool(servers()) as pool, pool.session(name) as session:
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await ON_SESSION[verb](session)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ON_SESSION)
async def test_R17_every_verb_of_a_session_can_be_cancelled_before_it_does_anything(
    verb: str, name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pool(servers()) as pool, pool.session(name) as session:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ON_SESSION[verb](session)
        assert scope.cancelled_caught


async def test_R17_entering_a_lease_checkpoints_and_leaving_it_does_not(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        for _ in range(2):  # a dial, then a session that is free
            with trio.testing.assert_checkpoints():
                lease = pool.session("s")
                await lease.__aenter__()
            with trio.testing.assert_no_checkpoints():
                await lease.__aexit__(None, None, None)
            with trio.testing.assert_checkpoints():
                session = await pool.acquire("s")
            with trio.testing.assert_no_checkpoints():
                session.release()
                session.release()


async def test_R17_synchronous_functions_never_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        await pool.wait_ready()
        with trio.testing.assert_no_checkpoints():
            session = pool.acquire_nowait("s")
            assert (session.server, session.protocol_version) == ("s", "2026-07-28")
            assert session.server_info is not None
            assert session.server_capabilities.tools is not None
            assert session.instructions is None
            assert repr(session) == "<Session 1 of 's': ready>"
            session.release()
            pool.add_server("t", ScriptedServer(policy=PoolPolicy(min_sessions=1)))
            pool.statistics()
            repr(pool)
            pool.session("s")
            pool.open_scope()
            with pytest.raises(trio.WouldBlock):
                pool.acquire_nowait("t")


async def test_R17_opening_and_leaving_an_open_scope_with_sessions_checkpoints(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        scope = pool.open_scope()
        corner = await scope.__aenter__()
        await corner.list_tools("s")
        with trio.testing.assert_checkpoints():
            await scope.__aexit__(None, None, None)


async def test_R17_reconfiguring_checkpoints_though_nothing_differs(autojump_clock: trio.testing.MockClock) -> None:
    same = ScriptedServer()
    async with watched_pool({"s": same}) as pool:
        with trio.testing.assert_checkpoints():
            await pool.reconfigure({"s": same})
