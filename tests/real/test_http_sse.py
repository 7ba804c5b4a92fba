"""The older SSE transport."""

from __future__ import annotations

from functools import partial

import mcp
import pytest
import trio
import trio.testing

from tests.real.http_dial import dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call

SSE = partial(dialled, transport="sse")


async def test_R12_the_end_of_the_sse_stream_is_the_end_of_the_session() -> None:
    async with raw_server(raw.sse_plans({})) as server, SSE(server.url) as connection:
        assert await connection.call("fine") == "ok"
        before = trio.current_time()
        await raw.end_sse_stream(server)
        while not connection.link.is_lost:
            await trio.sleep(0.005)
        assert connection.lost_at - before < 0.2


@pytest.mark.parametrize(
    ("plan", "kind", "written"),
    [
        (raw.reset, errors.OutcomeUnknownError, True),
        (raw.status(500), errors.HttpStatusError, True),
        (raw.status(401), errors.AuthenticationError, False),
    ],
)
async def test_R11_a_failing_post_on_sse_fails_its_own_call_only(
    plan: raw.Plan, kind: type[errors.PoolError], written: bool
) -> None:
    async with raw_server(raw.sse_plans({"bad": plan})) as server, SSE(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(kind):
            await connection.call("bad", call)
        assert call.written == written
        assert await connection.call("fine") == "ok"
        assert not connection.link.is_lost


async def test_R13_a_refused_post_on_sse_is_a_call_that_was_not_sent() -> None:
    async with raw_server(raw.sse_plans({}), keep_alive=False) as server, SSE(server.url) as connection:
        await server.stop_listening()
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError):
            await connection.call("fine", call)
        assert not call.written
        await server.listen()
        assert await connection.call("fine") == "ok"


async def test_R11_a_post_that_hangs_on_sse_holds_up_nobody() -> None:
    async with raw_server(raw.sse_plans({"hang": raw.hang})) as server, SSE(server.url) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, connection, "hang")
            await server.hanging.wait()
            assert await connection.call("fine") == "ok"
            nursery.cancel_scope.cancel()
        while "hang" not in server.gone:
            await trio.sleep(0.01)


async def test_a_forgotten_sse_session_is_lost() -> None:
    async with raw_server(raw.sse_plans({"bad": raw.status(404)})) as server, SSE(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError):
            await connection.call("bad", call)
        assert not call.written
        assert connection.link.is_lost


async def test_an_answer_that_comes_before_the_response_to_its_post_is_not_waited_with() -> None:
    async def early(exchange: raw.Exchange) -> None:
        await raw.sse_answer(exchange)
        await exchange.wait_gone()

    async with raw_server(raw.sse_plans({"early": early})) as server, SSE(server.url) as connection:
        with trio.fail_after(2):
            assert await connection.call("early") == "ok"
            while "early" not in server.gone:
                await trio.sleep(0.005)
        assert await connection.call("fine") == "ok"


async def test_fifty_callers_over_one_stream_get_their_own_answers() -> None:
    async with raw_server(raw.sse_plans({"good": raw.sse_result})) as server, SSE(server.url) as connection:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(connection.call, "good")


async def test_R11_an_event_over_the_limit_costs_its_own_call() -> None:
    """A screenshot over 1 MiB used to kill a browser session."""

    async def big(exchange: raw.Exchange) -> None:
        await exchange.reply(202)
        await raw.sse_answer(exchange, "x" * 100_000)

    async with raw_server(raw.sse_plans({"big": big})) as server, SSE(server.url, max_message=50_000) as connection:
        with pytest.raises(errors.MessageTooLargeError) as caught:
            await connection.call("big")
        assert (caught.value.limit, caught.value.outcome) == (50_000, "answered")
        assert await connection.call("fine") == "ok"
        assert not connection.link.is_lost


@pytest.mark.parametrize("status", [400, 401, 403, 410, 500])
async def test_R11_an_odd_status_on_sse_fails_its_call_and_is_followed_by_a_probe(status: int) -> None:
    async with raw_server(raw.sse_plans({"bad": raw.status(status)})) as server, SSE(server.url) as connection:
        with pytest.raises(errors.PoolError):
            await connection.call("bad")
        server.plans["ping"] = raw.status(status)
        with pytest.raises(errors.PoolError):
            await connection.call("bad")
        while not connection.undecided:
            await trio.sleep(0.005)
        assert await connection.call("fine") == "ok"
        assert not connection.link.is_lost


@pytest.mark.parametrize("place", ["http://elsewhere.invalid/messages", "//elsewhere.invalid/", "https://127.0.0.1/"])
async def test_R16_messages_go_to_no_other_origin(place: str) -> None:
    async def stream(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(f"event: endpoint\ndata: {place}\n\n".encode())
        await exchange.wait_gone()

    async with raw_server({"GET": stream}) as server:
        with pytest.raises(errors.InvalidResultError, match="another origin"):
            async with SSE(server.url):
                pass


@pytest.mark.parametrize("plan", [raw.ended_events, raw.truncated_events])
async def test_a_stream_that_ends_before_it_says_where_messages_go_is_an_error(plan: raw.Plan) -> None:
    async with raw_server({"GET": plan}) as server:
        with pytest.raises(ConnectionError, match="127.0.0.1"):
            async with SSE(server.url):
                pass


async def test_callers_who_wait_when_the_stream_breaks_are_let_go() -> None:
    async def accepted(exchange: raw.Exchange) -> None:
        await exchange.reply(202)

    async with raw_server(raw.sse_plans({"never": accepted})) as server, SSE(server.url) as connection:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(swallow, connection, "never")
            while server.seen.count("never") < 3:
                await trio.sleep(0.005)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await raw.end_sse_stream(server)
        assert connection.link.is_lost
        with pytest.raises(mcp.MCPError):
            await connection.call("fine")
