"""What one HTTP request runs into stays with it: broken connections, statuses, streams that break."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx2
import mcp
import mcp_types as types
import pytest
import trio
import trio.testing

from tests.real.http_dial import BROKEN, dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import HttpServer, open_pool
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call

# Each beside a sibling that must not notice.


@pytest.mark.parametrize("plan", BROKEN)
async def test_R11_a_connection_that_breaks_fails_its_own_call_only(plan: raw.Plan) -> None:
    release = trio.Event()

    async def patient(exchange: raw.Exchange) -> None:
        await release.wait()
        await raw.ok(exchange)

    async with raw_server({"bad": plan, "patient": patient}) as server, dialled(server.url) as connection:
        sibling: list[str] = []

        async def other() -> None:
            sibling.append(await connection.call("patient"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            call = Call(trio.CancelScope(), connection.link)
            with pytest.raises(errors.OutcomeUnknownError) as caught:
                await connection.call("bad", call)
            assert caught.value.server == "srv"
            assert call.written
            release.set()
        assert sibling == ["ok"]
        assert await connection.call("good") == "ok"
        assert server.seen.count("bad") == 1
        assert not connection.link.is_lost


async def test_R13_a_refused_connection_is_a_call_that_was_not_sent() -> None:
    async with raw_server(keep_alive=False) as server, dialled(server.url) as connection:
        await server.stop_listening()
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError):
            await connection.call("good", call)
        assert not call.written
        assert not connection.link.is_lost
        await server.listen()
        assert await connection.call("good") == "ok"
        assert server.seen.count("good") == 1


async def test_R13_a_call_of_which_only_a_part_was_sent_did_not_run() -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        server.longest_body = 1000
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError):
            await connection.call("good", call, text="x" * 20_000_000)
        assert not call.written
        assert await connection.call("good") == "ok"


class Slow(httpx2.Auth):
    """Takes its time before the request goes out."""

    def __init__(self) -> None:
        self.slow = False
        self.waiting = trio.Event()
        self.release = trio.Event()

    async def async_auth_flow(self, request: httpx2.Request) -> Any:
        if self.slow:
            self.waiting.set()
            await self.release.wait()
        yield request


@pytest.mark.parametrize("how", ["call", "link"])
async def test_R13_a_call_that_was_cut_off_before_its_body_went_out_is_never_sent(how: str) -> None:
    auth = Slow()
    async with raw_server() as server, dialled(server.url, auth=auth) as connection:
        call = Call(trio.CancelScope(), connection.link)
        with trio.CancelScope() as closing:
            async with trio.open_nursery() as nursery:
                auth.slow = True
                nursery.start_soon(swallow, connection, "late", call)
                await auth.waiting.wait()
                if how == "call":
                    call.scope.cancel()
                else:
                    connection.link.leaving = True
                auth.release.set()
                await trio.testing.wait_all_tasks_blocked(0.05)
                closing.cancel()
        assert not call.written
        assert "late" not in server.seen


def in_an_hour() -> str:
    return email.utils.formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("plan", "kind", "fields"),
    [
        (raw.status(401), errors.AuthenticationError, {"status": 401}),
        (raw.status(403), errors.AuthenticationError, {"status": 403}),
        (raw.rpc_error(401, -32001, "Unauthorized"), errors.AuthenticationError, {"status": 401}),
        (raw.status(429, "retry-after: 7"), errors.HttpStatusError, {"status": 429, "retry_after": 7.0}),
        (raw.status(500, body=b"oops"), errors.HttpStatusError, {"status": 500, "retry_after": None}),
        (raw.status(503, "retry-after: soon"), errors.HttpStatusError, {"status": 503, "retry_after": None}),
        (
            raw.status(200, "content-type: text/html", body=b"<p>hello"),
            errors.HttpStatusError,
            {"status": 200, "retry_after": None},
        ),
        (raw.status(202), errors.InvalidResultError, {"outcome": "answered"}),
        (raw.status(302, "location: http://elsewhere.invalid/?secret"), errors.HttpStatusError, {"status": 302}),
    ],
)
async def test_a_status_reaches_the_caller_in_its_error(
    plan: raw.Plan, kind: type[errors.PoolError], fields: dict[str, Any]
) -> None:
    async with raw_server({"bad": plan}) as server, dialled(server.url) as connection:
        with pytest.raises(kind) as caught:
            await connection.call("bad")
        assert {name: getattr(caught.value, name) for name in fields} == fields
        assert "secret" not in str(caught.value)
        assert await connection.call("good") == "ok"
        assert not connection.link.is_lost


async def test_retry_after_may_be_a_date() -> None:
    plan = raw.status(503, f"retry-after: {in_an_hour()}")
    async with raw_server({"bad": plan}) as server, dialled(server.url) as connection:
        with pytest.raises(errors.HttpStatusError) as caught:
            await connection.call("bad")
        assert caught.value.retry_after == pytest.approx(3600, abs=30)


@pytest.mark.parametrize(("status", "code"), [(400, -32602), (404, -32601), (500, -32603), (403, -32000)])
async def test_a_json_rpc_error_passes_through_whatever_its_status(status: int, code: int) -> None:
    async with (
        raw_server({"bad": raw.rpc_error(status, code, "as it is")}) as server,
        dialled(server.url) as connection,
    ):
        with pytest.raises(mcp.MCPError) as caught:
            await connection.call("bad")
        assert (caught.value.error.code, caught.value.error.message) == (code, "as it is")
        assert not connection.link.is_lost


async def test_an_event_over_the_limit_fails_its_own_call_only() -> None:
    async def big(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(exchange.result_event("x" * 20_000))
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with raw_server({"big": big}) as server, dialled(server.url, max_message=10_000) as connection:
        with pytest.raises(errors.MessageTooLargeError) as caught:
            await connection.call("big")
        assert caught.value.limit == 10_000
        assert await connection.call("good") == "ok"


async def test_R13_a_stream_that_breaks_is_taken_up_where_it_broke_off() -> None:
    request_ids = []

    async def interrupted(exchange: raw.Exchange) -> None:
        request_ids.append(exchange.message["id"])
        await exchange.start_events()
        await exchange.chunk(b"id: 5\nretry: 10\ndata:\n\n")
        await exchange.reset()

    async def get(exchange: raw.Exchange) -> None:
        if "last-event-id" not in exchange.headers:
            await exchange.reply(405)
            return
        assert exchange.headers["last-event-id"] == "5"
        await exchange.start_events()
        await exchange.chunk(exchange.result_event("resumed", request_ids[0]))

    async with raw_server({"bad": interrupted, "GET": get}) as server, dialled(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.call("bad", call) == "resumed"
        assert call.failure is None
        assert server.seen.count("bad") == 1


async def test_a_stream_that_cannot_be_taken_up_again_leaves_the_outcome_unknown() -> None:
    async def interrupted(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(b"id: 5\nretry: 10\ndata:\n\n")
        await exchange.reset()

    async with raw_server({"bad": interrupted}) as server, dialled(server.url) as connection:
        with pytest.raises(errors.OutcomeUnknownError):
            await connection.call("bad")
        assert await connection.call("good") == "ok"


async def test_a_tool_call_of_the_pool_takes_the_short_way_and_no_other_verb_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def the_long_way(*_: Any, **__: Any) -> None:
        raise AssertionError("the SDK's own call_tool was called")

    monkeypatch.setattr(mcp.Client, "call_tool", the_long_way)
    async with raw_server() as server, open_pool({"s": HttpServer(server.url, mode="legacy")}) as pool:
        assert "good" in [tool.name for tool in (await pool.list_tools("s")).tools]
        assert (await pool.call_tool("s", "good")).content == [types.TextContent(text="ok")]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_R13_fifty_first_callers_list_the_tools_once(mode: str) -> None:
    async with raw_server({"server/discover": raw.discover}) as server:
        async with open_pool({"s": HttpServer(server.url, mode=mode)}) as pool, trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(pool.call_tool, "s", "good")
        assert server.seen.count("good") == 50
        assert server.seen.count("tools/list") == 1


async def test_R12_an_error_that_the_server_itself_numbers_like_a_closed_connection_causes_no_probe() -> None:
    async with raw_server({"good": raw.rpc_error(200, types.CONNECTION_CLOSED)}) as server:
        async with open_pool({"s": HttpServer(server.url, mode="legacy")}) as pool:
            with pytest.raises(mcp.MCPError):
                await pool.call_tool("s", "good")
            assert pool.statistics().sessions_lost == 0
        assert "ping" not in server.seen


async def test_R8_a_scope_is_told_once_that_the_server_forgot_its_session() -> None:
    async with raw_server() as server, open_pool({"s": HttpServer(server.url, mode="legacy")}) as pool:
        async with pool.open_scope() as scope:
            await scope.call_tool("s", "good")
            server.plans["good"] = raw.status(404)
            with pytest.raises(errors.SessionLostError):
                await scope.call_tool("s", "good")
            del server.plans["good"]
            assert (await scope.call_tool("s", "good")).content == [types.TextContent(text="ok")]
