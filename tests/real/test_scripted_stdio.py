"""The scripted server as a real process, under the MCP SDK's own client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio

from trio_mcp_pool import StdioServer
from trio_mcp_pool.testing import error, hold, never, ok, read_log, scripted_stdio_server, slow


def parameters(server: StdioServer) -> mcp.StdioServerParameters:
    return mcp.StdioServerParameters(command=server.command, args=list(server.args))


def text(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_a_real_client_speaks_every_verb_with_it(mode: str, version: str, tmp_path: Path) -> None:
    server = scripted_stdio_server(texts={"greet": "hello"}, log=tmp_path / "log")
    with trio.fail_after(20):
        async with mcp.Client(parameters(server), mode=mode) as client:
            assert client.protocol_version == version
            assert [tool.name for tool in (await client.list_tools()).tools][-1] == "greet"
            assert text(await client.call_tool("greet")) == "hello"
            assert text(await client.call_tool("echo", {"text": "a"})) == "a"
            assert text(await client.call_tool("add", {"a": 1, "b": 2})) == "3"
            assert text(await client.call_tool("sleep", {"seconds": 0.01})) == "awake"
            assert (await client.call_tool("echo")).is_error
            assert (await client.call_tool("sing")).is_error
            pid = int(text(await client.call_tool("pid")))
            assert (await client.read_resource("memo://hello")).contents[0].model_dump()["text"] == "hello"
            with pytest.raises(mcp.MCPError, match="Unknown prompt"):
                await client.get_prompt("nobody")
            results: list[str] = []

            async def caller(number: int) -> None:
                results.append(text(await client.call_tool("echo", {"text": str(number)})))

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(caller, number)
            assert sorted(map(int, results)) == list(range(50))
    log = read_log(tmp_path / "log")
    assert [entry["pid"] for entry in log if entry["event"] == "spawn"] == [pid]
    assert [entry["tool"] for entry in log if entry["event"] == "call"][:3] == ["greet", "echo", "add"]


async def test_gates_of_a_child_and_its_log_count_over_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = scripted_stdio_server(
        gates={
            "spawn": [error(OSError("no licence")), ok],
            "call": [error(mcp.MCPError(-32050, "no")), error(ValueError("bad")), slow(0.01), ok],
            "stream": [ok, ok, ok, error()],
        },
        log=log,
    )
    with trio.fail_after(20):
        with pytest.raises(BaseExceptionGroup):
            async with mcp.Client(parameters(server)):
                raise AssertionError
        async with mcp.Client(parameters(server)) as client:
            with pytest.raises(mcp.MCPError, match="no"):
                await client.call_tool("echo", {"text": "a"})
            assert (await client.call_tool("echo", {"text": "b"})).is_error
            assert text(await client.call_tool("echo", {"text": "c"})) == "c"
            with pytest.raises(mcp.MCPError, match="Connection closed"):
                await client.call_tool("echo", {"text": "d"})
    events = [(entry["event"], entry.get("arguments", {}).get("text")) for entry in read_log(log)]
    assert [event for event in events if event[0] != "stream"] == [
        ("spawn", None),
        ("spawn", None),
        *(("call", letter) for letter in "abcd"),
    ]


async def test_crash_kills_the_process_in_the_middle_of_the_call(tmp_path: Path) -> None:
    server = scripted_stdio_server(log=tmp_path / "log")
    with trio.fail_after(20):
        async with mcp.Client(parameters(server)) as client:
            with pytest.raises(mcp.MCPError, match="Connection closed"):
                await client.call_tool("crash")
    assert [entry["tool"] for entry in read_log(tmp_path / "log") if entry["event"] == "call"] == ["crash"]


@pytest.mark.parametrize("gates", [{"spawn": never}, {"handshake": never}, {"stream": never}, {"call": never}])
async def test_a_mute_child_can_be_left(gates: dict[str, Any]) -> None:
    with trio.fail_after(20), trio.move_on_after(0.5) as scope:
        async with mcp.Client(parameters(scripted_stdio_server(gates=gates)), mode="legacy") as client:
            await client.call_tool("echo", {"text": "a"})
    assert scope.cancelled_caught


def run(server: StdioServer, **options: Any) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([server.command, *server.args], stdin=pipe, stdout=pipe, stderr=pipe, **options)


def test_a_failing_child_says_why_on_stderr_and_by_its_status() -> None:
    for stage, why, status in [
        ("spawn", SystemExit(3), 3),
        ("handshake", OSError("gone"), 1),
        ("close", OSError("x"), 1),
    ]:
        with run(scripted_stdio_server(gates={stage: error(why)})) as child:
            _, said = child.communicate(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n', timeout=10)
        assert child.returncode == status
        assert said.decode() == f"scripted {stage} failure: {type(why).__name__}: {why}\n"


def test_a_stubborn_child_ignores_the_end_of_stdin_and_sigterm() -> None:
    with run(scripted_stdio_server(gates={"close": never})) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n')
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["id"] == 1
        child.stdin.close()
        child.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.kill()
        assert child.wait(10) == -signal.SIGKILL


def test_a_child_starts_fast_because_it_imports_nothing_of_the_package() -> None:
    server = scripted_stdio_server()
    done = subprocess.run(
        [server.command, "-X", "importtime", *server.args],
        input=b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n',
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b'"protocolVersion"' in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "json" in imported
    assert {name.partition(".")[0] for name in imported}.isdisjoint(
        {"mcp", "trio", "anyio", "pydantic", "trio_mcp_pool"}
    )
    # Nor what of the standard library takes long.
    assert imported.isdisjoint({"asyncio", "dataclasses", "inspect", "subprocess", "multiprocessing"})


def test_the_module_can_be_run_by_name() -> None:
    command = [sys.executable, "-m", "trio_mcp_pool.testing"]
    done = subprocess.run(
        command, input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n', capture_output=True, timeout=30, check=True
    )
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_gates_that_a_child_cannot_have_are_refused() -> None:
    with pytest.raises(TypeError, match=r"hold\(\) works in this process only"):
        scripted_stdio_server(gates={"call": hold()})
    with pytest.raises(TypeError, match="sequence"):
        scripted_stdio_server(gates={"call": lambda number: ok})
    with pytest.raises(KeyError, match="no stage"):
        scripted_stdio_server(gates={"connect": ok})
    assert read_log(os.devnull + ".none") == []
