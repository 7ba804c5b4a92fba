"""The kit as its users meet it: under a pool. These are the examples of its documentation."""

from __future__ import annotations

import mcp_types as types
import pytest
import trio
import trio.testing

from trio_mcp_pool import ConnectError, OutcomeUnknownError, open_pool
from trio_mcp_pool.testing import ScriptedServer, error, slow


async def test_a_missing_command_is_reported_at_once(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    server.gates["spawn"] = error(FileNotFoundError("no-such-command"))
    async with open_pool({"files": server}) as pool:
        with pytest.raises(ConnectError):
            await pool.call_tool("files", "echo", {"text": "hello"})


async def test_the_result_arrives_after_three_seconds(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"greet": lambda name: f"hello {name}"}, gates={"call": slow(3)})
    async with open_pool({"greeter": server}) as pool:
        result = await pool.call_tool("greeter", "greet", {"name": "you"})
        assert trio.current_time() == 3
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    assert content.text == "hello you"
    assert [call.tool for call in server.calls] == ["greet"]


async def test_a_call_after_a_crash_works_and_nothing_ran_twice(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with open_pool({"dictionary": server}) as pool:
        await pool.list_tools("dictionary")  # a session that has answered; else its death is a failure of its dial
        server.gates["stream"] = [error()]
        with pytest.raises(OutcomeUnknownError):
            await pool.call_tool("dictionary", "echo", {"text": "a"})
        await pool.call_tool("dictionary", "echo", {"text": "b"})
    assert [call.arguments["text"] for call in server.calls] == ["a", "b"]
    assert len(server.connections) == 2
    assert server.peak_open == 1
