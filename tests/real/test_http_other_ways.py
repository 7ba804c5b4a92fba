"""The ways beside the pool's own dispatcher: the transport for an SDK without the seam, and `wire="sdk"`."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio

from tests.real.http_dial import BOUND, dialled
from tests.servers import raw_http as raw
from tests.servers.http import running
from tests.servers.raw_http import raw_server
from trio_mcp_pool import HttpServer, open_pool
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire import _seam


@pytest.fixture
def no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_seam, "seam_stands", lambda: False)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_without_the_seam_calls_go_through_a_transport(no_seam: None, mode: str) -> None:
    plans = {"bad": raw.rpc_error(200, -32000, "no"), "hang": raw.hang}
    if mode == "auto":
        plans["server/discover"] = raw.discover
    async with raw_server(plans) as server, dialled(server.url, mode=mode) as connection:
        assert await connection.call("good") == "ok"
        with pytest.raises(Exception, match="no"):
            await connection.call("bad")
        with trio.move_on_after(0.2) as scope:
            await connection.call("hang")
        assert scope.cancelled_caught
        while "hang" not in server.gone:
            await trio.sleep(0.005)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connection.call, "good")
    assert server.seen[-1] == ("good" if mode == "auto" else "DELETE")


async def test_without_the_seam_an_error_of_the_pools_own_waits_on_the_call(no_seam: None) -> None:
    async with raw_server({"bad": raw.reset}) as server, dialled(server.url) as connection:
        with pytest.raises(errors.OutcomeUnknownError):
            await connection.call("bad")
        assert await connection.call("good") == "ok"


async def test_without_the_seam_the_server_may_ask_back_in_the_middle_of_a_call(no_seam: None) -> None:
    async def ask(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(
            b'data: {"jsonrpc": "2.0", "id": 7, "method": "roots/list"}\n\n'
            b'data: {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}\n\n'
        )
        while "response" not in exchange.server.seen:
            await trio.sleep(0.005)
        await exchange.chunk(exchange.result_event("asked"))
        await exchange.stream.send_all(b"0\r\n\r\n")

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    async with raw_server({"ask": ask}) as server, dialled(server.url, list_roots_callback=roots) as connection:
        assert await connection.call("ask") == "asked"


async def test_without_the_seam_a_refused_dial_is_one_bare_error(no_seam: None) -> None:
    async with raw_server({"initialize": raw.status(401)}) as server:
        with pytest.raises(Exception, match="401|AuthenticationError"):
            async with dialled(server.url):
                pass


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_the_sdks_wire_carries_calls(transport: Any) -> None:
    with running("sse" if transport == "sse" else "plain") as url, trio.fail_after(BOUND):
        async with open_pool({"s": HttpServer(url, transport=transport, wire="sdk")}) as pool:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(pool.call_tool, "s", "echo", {"text": str(number)})
            result = await pool.call_tool("s", "echo", {"text": "hello"})
            assert isinstance(result.content[0], types.TextContent)
            assert result.content[0].text == "hello"
