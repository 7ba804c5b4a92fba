"""The catalogue and tool sets against servers that nobody here wrote, and one of the SDK's that changes while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic.types
import jsonschema
import openai.types.chat
import openai.types.responses
import pydantic
import pytest
import trio

from tests.catalog.test_content import check_anthropic, check_openai
from tests.servers import raw_http as raw
from tests.servers.install import RealServers
from tests.servers.raw_http import raw_server
from trio_mcp_pool import HttpServer, Server, StdioServer, open_pool

ROOT = Path(__file__).resolve().parents[2]

ANTHROPIC_TOOL = pydantic.TypeAdapter[Any](anthropic.types.ToolParam)
CHAT_TOOL = pydantic.TypeAdapter[Any](openai.types.chat.ChatCompletionFunctionToolParam)
RESPONSES_TOOL = pydantic.TypeAdapter[Any](openai.types.responses.FunctionToolParam)


def named(tool: dict[str, Any]) -> str:
    """The name in any format."""
    return str(tool.get("function", tool)["name"])


def function_call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """As the Responses API asks for it."""
    return {"type": "function_call", "call_id": f"c{number}", "name": name, "arguments": json.dumps(arguments)}


def tool_call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """As a chat completion asks for it."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"type": "function", "id": f"c{number}", "function": function}


async def test_the_tools_of_four_real_servers_are_one_list_with_a_dead_one_beside(
    real_servers: RealServers, tmp_path: Path
) -> None:
    files, memory, clock, calculator = (
        real_servers.filesystem,
        real_servers.memory,
        real_servers.time,
        real_servers.calculator,
    )
    servers: dict[str, Server] = {
        "files": StdioServer(files[0], [*files[1:], str(tmp_path)]),
        "memory": StdioServer(memory[0], memory[1:], env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}),
        "dead": StdioServer("/no/such/program"),
        "time": StdioServer(clock[0], clock[1:]),
        "calculator": StdioServer(calculator[0], calculator[1:]),
    }
    with trio.fail_after(60):
        async with open_pool(servers) as pool:
            tools = await pool.toolset(within=30)
            of = {name.partition("__")[0] for name in tools.names}
            assert of == {"files", "memory", "time", "calculator"}
            assert list(pool.catalog.problems) == ["dead"]
            assert tools.problems == {}
            (tmp_path / "a.txt").write_text("here")
            outcomes = await tools.run(
                [
                    ("files__read_text_file", {"path": str(tmp_path / "a.txt")}),
                    ("memory__read_graph", {}),
                    ("time__get_current_time", '{"timezone": "Europe/Paris"}'),
                    ("calculator__calculate", {"expression": "6*7"}),
                    ("files__read_text_file", {"pth": "x"}),
                ]
            )
            assert [outcome.is_error for outcome in outcomes] == [False, False, False, False, True]
            assert [outcomes[0].text, outcomes[3].text] == ["here", "42"]
            assert "missing 'path'" in outcomes[4].text
            strict = tools.to_openai(strict=True)
            assert sum(each["function"]["strict"] for each in strict) >= len(strict) // 2
            # Every tool of each in every format, as the providers' own types have it.
            for adapter, made in [
                (ANTHROPIC_TOOL, tools.to_anthropic()),
                (CHAT_TOOL, tools.to_openai()),
                (CHAT_TOOL, strict),
                (RESPONSES_TOOL, tools.to_openai(style="responses")),
                (RESPONSES_TOOL, tools.to_openai(style="responses", strict=True)),
            ]:
                assert [named(each) for each in made] == list(tools.names)
                for each in made:
                    assert adapter.validate_python(each) == each
                    parameters = each.get("function", each)
                    jsonschema.Draft202012Validator.check_schema(
                        parameters.get("parameters") or parameters["input_schema"]
                    )
            # What a model of each provider asks of each server, answered in its shape.
            uses = [
                ("files__list_directory", {"path": str(tmp_path)}),
                ("memory__search_nodes", {"query": "Ada"}),
                ("time__convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
                ("calculator__calculate", {"expression": "1+1"}),
            ]
            asked = [{"type": "tool_use", "id": f"t{n}", "name": x, "input": y} for n, (x, y) in enumerate(uses)]
            answer = (await tools.run({"role": "assistant", "content": asked})).to_anthropic()
            check_anthropic(answer)
            assert [(part["tool_use_id"], part["is_error"]) for part in answer["content"]] == [
                (f"t{n}", False) for n in range(4)
            ]
            for response in (
                {"output": [function_call(n, x, y) for n, (x, y) in enumerate(uses)]},
                {"choices": [{"message": {"tool_calls": [tool_call(n, x, y) for n, (x, y) in enumerate(uses)]}}]},
            ):
                outcomes = await tools.run(response)
                assert [outcome.is_error for outcome in outcomes] == [False] * 4
                for message in outcomes.to_openai():
                    check_openai(message)


@contextmanager
def serving() -> Iterator[int]:
    """The changing server over HTTP; gives its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers.changing", "http"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_server_that_changes_its_tools_is_known_within_one_round_trip(transport: str, mode: str) -> None:
    if transport == "stdio":
        server: Server = StdioServer(sys.executable, ["-m", "tests.servers.changing", "stdio"], cwd=ROOT, mode=mode)
        await change(server)
        return
    with serving() as port:
        await change(HttpServer(f"http://127.0.0.1:{port}/mcp", mode=mode))


async def change(server: Server) -> None:
    with trio.fail_after(30):
        async with open_pool({"s": server}) as pool:
            tools = await pool.toolset()
            assert tools.names == ("s__add", "s__remove")
            for tool, name, names in [
                ("s__add", "new", ("s__add", "s__remove", "s__new")),
                ("s__remove", "new", ("s__add", "s__remove")),
            ]:
                # One for each: to a reader that has not looked in between, a tool that came and went is no difference.
                changes = pool.catalog.changes()
                await tools.call(tool, {"name": name})
                with trio.fail_after(5):
                    while tools.names != names:
                        await anext(changes)
            assert not any(entry.stale for entry in pool.catalog.tools)


async def test_over_http_in_the_older_era_nothing_is_listed_or_followed_before_changes_can_arrive() -> None:
    """What a server tells without a standing stream is lost, so a change between the list and the stream would be."""
    order: list[str] = []

    def noting(name: str, result: dict[str, Any]) -> raw.Plan:
        async def plan(exchange: raw.Exchange) -> None:
            order.append(name)
            await exchange.result(result, "mcp-session-id: the-session")

        return plan

    async def standing(exchange: raw.Exchange) -> None:
        await trio.sleep(0.2)
        order.append("stream")
        await raw.hanging_events(exchange)

    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}, "resources": {"subscribe": True}},
        "serverInfo": {"name": "raw", "version": "1"},
    }
    plans = {
        "initialize": noting("initialize", hello),
        "GET": standing,
        "tools/list": noting("list", {"tools": []}),
        "resources/subscribe": noting("subscribe", {}),
        "resources/unsubscribe": noting("unsubscribe", {}),
    }
    with trio.fail_after(20):
        for then in ("list", "subscribe"):
            order.clear()
            async with (
                raw_server(plans) as server,
                open_pool({"s": HttpServer(server.url, mode="legacy")}) as pool,
            ):
                if then == "list":
                    await pool.toolset()
                else:
                    async with pool.subscribe("s", "memo://a"):
                        pass
            assert order[:3] == ["initialize", "stream", then]


@pytest.mark.parametrize("stream", [raw.hang, raw.status(405), raw.reset])
async def test_a_server_without_a_standing_stream_is_listed_all_the_same(stream: raw.Plan) -> None:
    async def listing(exchange: raw.Exchange) -> None:
        await exchange.result({"tools": []})

    with trio.fail_after(20):
        async with (
            raw_server({"GET": stream, "tools/list": listing}) as server,
            open_pool({"s": HttpServer(server.url, mode="legacy")}) as pool,
        ):
            await pool.toolset()
            assert not pool.catalog.problems
            assert server.seen.count("tools/list") == 1
