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
