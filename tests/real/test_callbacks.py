"""`callbacks=` of a server: whose question it is, on every transport and in both eras."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import mcp_types as types
import pytest
import trio

from tests.servers.http import running
from trio_mcp_pool import Callbacks, Caller, HttpServer, Server, StdioServer, open_pool

who_am_i: ContextVar[str] = ContextVar("who_am_i", default="nobody")
asked: list[tuple[Caller, str]] = []


async def elicit(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
    asked.append((caller, who_am_i.get()))
    await trio.sleep(0.05)
    return types.ElicitResult(action="accept", content={"name": who_am_i.get()})


async def log(caller: Caller, params: types.LoggingMessageNotificationParams) -> None:
    asked.append((caller, who_am_i.get()))


CALLBACKS = Callbacks(elicit=elicit, log=log)


@pytest.fixture(autouse=True)
def nobody_asked_yet() -> None:
    asked.clear()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running("plain") as where:
        yield where


def stdio(mode: str, wire: Any) -> Server:
    return StdioServer(
        sys.executable, ["-m", "tests.servers.features_stdio"], mode=mode, wire=wire, callbacks=CALLBACKS
    )


async def ask_as(pool: Any, tool: str, name: str, scope: str) -> None:
    who_am_i.set(name)
    result = await pool.call_tool("s", tool, scope=scope)
    assert name in str(result.content) or "nobody" in str(result.content)


@pytest.mark.parametrize("wire", ["trio", "sdk"])
@pytest.mark.parametrize(("mode", "known"), [("legacy", False), ("2026-07-28", True)])
async def test_on_stdio_a_question_names_its_call_in_the_modern_era_only(wire: str, mode: str, known: bool) -> None:
    with trio.fail_after(30):
        async with open_pool({"s": stdio(mode, wire)}) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(ask_as, pool, "elicit", "one", "a")
            nursery.start_soon(ask_as, pool, "elicit", "two", "a")
    assert {(caller.server, caller.scope, caller.session) for caller, _ in asked} == {("s", "a", 1)}
    assert [caller.tool for caller, _ in asked] == ["elicit" if known else None] * 2
    assert sorted(name for _, name in asked) == (["one", "two"] if known else ["nobody"] * 2)
    assert all((caller.context is not None) == known for caller, _ in asked)
    if known:
        assert all(caller.context is not None and caller.context[who_am_i] == name for caller, name in asked)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK's wire leaves generators behind
@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_over_http_a_question_names_its_call_in_the_older_era_too(url: str, wire: Any) -> None:
    server = HttpServer(url, mode="legacy", wire=wire, callbacks=CALLBACKS)
    with trio.fail_after(30):
        async with open_pool({"s": server}) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(ask_as, pool, "ask", "one", "a")
            nursery.start_soon(ask_as, pool, "ask", "two", "a")
    assert {(caller.server, caller.scope) for caller, _ in asked} == {("s", "a")}
    assert [caller.tool for caller, _ in asked] == ["ask"] * 2
    assert sorted(name for _, name in asked) == ["one", "two"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_log_message_on_stdio_names_no_call(mode: str) -> None:
    with trio.fail_after(30):
        async with open_pool({"s": stdio(mode, "trio")}) as pool:
            await pool.call_tool("s", "log", {"lines": 1}, meta={"io.modelcontextprotocol/logLevel": "debug"})
            await trio.sleep(0.1)
    assert [(caller.server, caller.tool) for caller, _ in asked] == [("s", None)]


async def test_a_log_message_over_http_names_its_call(url: str) -> None:
    with trio.fail_after(30):
        async with open_pool({"s": HttpServer(url, mode="legacy", callbacks=CALLBACKS)}) as pool:
            who_am_i.set("me")
            await pool.call_tool("s", "log")
            await trio.sleep(0.1)
    assert [(caller.tool, name) for caller, name in asked] == [("log", "me")]


async def test_a_callback_that_raises_is_told_to_the_server_as_one_sentence(caplog: Any) -> None:
    async def fail(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
        raise ValueError("hunter2")

    server = StdioServer(
        sys.executable, ["-m", "tests.servers.features_stdio"], mode="legacy", callbacks=Callbacks(elicit=fail)
    )
    with trio.fail_after(30), caplog.at_level(logging.ERROR):
        async with open_pool({"s": server}) as pool:
            result = await pool.call_tool("s", "elicit")
    assert isinstance(result.content[0], types.TextContent)
    assert "the client's callback failed" in result.content[0].text
    assert "hunter2" not in result.content[0].text


CALLERS = 50


async def asked_alone(pool: Any, number: int, tool: str, counting: str, known: bool) -> None:
    """One of fifty: its progress and, where the transport says whose they are, its questions reach its own functions."""
    who_am_i.set(str(number))
    questions, reports = [], []

    async def own_elicit(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
        questions.append(caller)
        await trio.sleep(0.01)
        return types.ElicitResult(action="accept", content={"name": f"name {number}"})

    async def own_progress(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
        assert who_am_i.get() == str(number)
        assert caller.tool == counting
        reports.append(progress)

    result = await pool.call_tool("s", tool, on_elicit=own_elicit)
    if known:
        assert f"name {number}" in str(result.content)
        assert [caller.tool for caller in questions] == [tool]
    else:
        assert "nobody" in str(result.content)
        assert questions == []
    await pool.call_tool("s", counting, {"to": 3}, on_progress=own_progress)
    await trio.sleep(0.2)  # the last report may come after the answer
    assert sorted(reports)[-1] == 3


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK's wire leaves generators behind
@pytest.mark.parametrize(
    ("kind", "mode", "wire", "known"),
    [
        ("stdio", "legacy", "trio", False),
        ("stdio", "2026-07-28", "trio", True),
        ("stdio", "2026-07-28", "sdk", True),
        ("plain", "legacy", "trio", True),
        ("plain", "legacy", "sdk", True),
        ("sse", "legacy", "trio", False),
    ],
)
async def test_fifty_callers_at_once_on_one_session_are_asked_and_told_each_for_itself(
    kind: Any, mode: Any, wire: Any, known: bool
) -> None:
    async def all_of_them(server: Server, tool: str, counting: str) -> None:
        with trio.fail_after(60):
            async with open_pool({"s": server}, callbacks=CALLBACKS) as pool:
                async with trio.open_nursery() as nursery:
                    for number in range(CALLERS):
                        nursery.start_soon(asked_alone, pool, number, tool, counting, known)
                assert pool.statistics().connects == 1
        assert len(asked) == (0 if known else CALLERS)

    if kind == "stdio":
        command = ["-m", "tests.servers.features_stdio"]
        await all_of_them(StdioServer(sys.executable, command, mode=mode, wire=wire), "elicit", "progress")
    else:
        with running(kind) as where:
            transport: Any = "sse" if kind == "sse" else "streamable-http"
            await all_of_them(HttpServer(where, mode=mode, wire=wire, transport=transport), "ask", "count")


async def test_a_calls_own_function_is_asked_through_every_verb(url: str) -> None:
    def elicit_as(name: str) -> Any:
        async def own(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
            return types.ElicitResult(action="accept", content={"name": name})

        return own

    with trio.fail_after(30):
        async with open_pool({"s": HttpServer(url, mode="legacy", callbacks=CALLBACKS)}) as pool:
            result = await pool.call_tool("s", "ask", on_elicit=elicit_as("pool"))
            assert "pool" in str(result.content)
            async with pool.session("s") as session:
                result = await session.call_tool("ask", on_elicit=elicit_as("session"))
                assert "session" in str(result.content)
            tools = await pool.toolset("s")
            assert "set" in str((await tools.call("s__ask", {}, on_elicit=elicit_as("set"))).content)
            assert asked == []
            assert "nobody" in str((await pool.call_tool("s", "ask")).content)
