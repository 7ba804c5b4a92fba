"""When a session over HTTP is over, when it is not, and how it is left."""

from __future__ import annotations

from typing import Any

import mcp
import pytest
import trio

from tests.real.http_dial import Dialled, dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call


@pytest.mark.parametrize(
    "plan",
    [
        raw.status(404),
        raw.rpc_error(404, -32600, "Session terminated"),
        raw.rpc_error(404, -32001, "Session not found"),
    ],
)
async def test_R13_a_session_that_the_server_forgot_is_lost_and_the_call_did_not_run(plan: raw.Plan) -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        assert await connection.call("good") == "ok"
        server.plans["good"] = plan
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError):
            await connection.call("good", call)
        assert not call.written
        assert connection.link.is_lost
        seen = len(server.seen)
        with pytest.raises(mcp.MCPError):
            await connection.call("good")
        assert server.seen[seen:] == []
    assert "DELETE" not in server.seen


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_R18_what_a_request_after_the_answer_meets_does_not_take_the_answer_away(status: int) -> None:
    """The SDK asks for the tools after a call of one that it does not know yet."""
    async with raw_server({"tools/list": raw.status(status)}) as server, dialled(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.pooled("good", call) == "ok"
        assert call.written
        assert connection.link.is_lost == (status == 404)


async def test_the_end_of_the_standing_stream_is_no_death_but_a_server_that_forgot_is() -> None:
    streams = 0
    restart = trio.Event()

    async def get(exchange: raw.Exchange) -> None:
        nonlocal streams
        streams += 1
        if streams == 3:
            await restart.wait()
            await exchange.reply(404)
            return
        await exchange.start_events()
        await exchange.chunk(b"retry: 10\ndata:\n\n")
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with raw_server({"GET": get}) as server, dialled(server.url) as connection:
        while streams < 3:
            await trio.sleep(0.01)
        assert not connection.link.is_lost
        assert await connection.call("good") == "ok"
        restart.set()
        while not connection.link.is_lost:
            await trio.sleep(0.01)


# Leaving.


async def test_the_session_is_deleted_on_leaving() -> None:
    async with raw_server() as server:
        async with dialled(server.url):
            pass
        assert server.seen[-1] == "DELETE"


@pytest.mark.parametrize(("close_timeout", "bound"), [(10, 2), (3, 1.5)])
async def test_R15_a_server_that_does_not_answer_the_delete_is_left_behind(close_timeout: float, bound: float) -> None:
    async with raw_server({"DELETE": raw.hang}) as server:
        async with dialled(server.url, close_timeout=close_timeout):
            before = trio.current_time()
        assert bound - 0.1 < trio.current_time() - before < close_timeout - 0.1
        while server.gone != ["DELETE"]:
            await trio.sleep(0.01)


async def test_a_delete_that_fails_is_no_error() -> None:
    async with raw_server({"DELETE": raw.reset}) as server:
        async with dialled(server.url):
            pass


async def test_R2_nothing_stays_when_the_owner_is_cancelled_in_the_middle_of_calls() -> None:
    async with raw_server({"slow": raw.hang, "DELETE": raw.hang}) as server:
        async with trio.open_nursery() as callers:
            with trio.CancelScope() as scope:
                async with dialled(server.url) as connection:
                    for _ in range(10):
                        callers.start_soon(caller_of_a_dead_session, connection)
                    while server.seen.count("slow") < 10:
                        await trio.sleep(0.01)
                    before = trio.current_time()
                    scope.cancel()
                    await trio.sleep_forever()
            assert trio.current_time() - before < 1
        while server.gone.count("slow") < 10:
            await trio.sleep(0.01)


async def caller_of_a_dead_session(connection: Dialled) -> None:
    with pytest.raises(mcp.MCPError):
        await connection.call("slow")


async def test_nothing_new_is_sent_while_leaving() -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        seen = len(server.seen)
        connection.link.leaving = True
        with pytest.raises(mcp.MCPError):
            await connection.call("good")
        assert server.seen[seen:] == []


# R11: a status alone is no death; one probe follows, and where that cannot tell either, a handshake beside the session decides.

FORGOTTEN = [400, 401, 403, 410, 500, 503]


@pytest.mark.parametrize("status", FORGOTTEN)
async def test_R11_an_odd_status_fails_its_call_and_is_followed_by_one_probe_that_finds_life(status: int) -> None:
    async with raw_server({"bad": raw.status(status), "ping": raw.empty_result}) as server:
        async with dialled(server.url) as connection:
            for _ in range(3):
                with pytest.raises(errors.PoolError) as caught:
                    await connection.call("bad")
                assert getattr(caught.value, "status") == status  # noqa: B009
                await trio.sleep(0.05)
            assert server.seen.count("ping") == 3
            assert server.headers[server.seen.index("ping")]["mcp-session-id"] == "the-session"
            assert await connection.call("good") == "ok"
            assert (connection.link.is_lost, connection.undecided) == (False, 0)


async def test_R11_many_odd_statuses_at_once_are_followed_by_one_probe() -> None:
    async with raw_server({"bad": raw.status(500), "ping": raw.hang}) as server, dialled(server.url) as connection:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(swallow, connection, "bad")
        assert server.seen.count("ping") <= 1


@pytest.mark.parametrize("status", FORGOTTEN)
async def test_R11_the_same_odd_status_to_the_probe_leaves_it_undecided(status: int) -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        assert await connection.call("good") == "ok"
        server.plans |= {"good": raw.status(status), "ping": raw.status(status)}
        with pytest.raises(errors.PoolError):
            await connection.call("good")
        while not connection.undecided:
            await trio.sleep(0.005)
        assert not connection.link.is_lost


async def test_R11_an_error_without_an_id_at_an_odd_status_is_no_life() -> None:
    """What the reference server says to a session that it has forgotten."""
    refusal = raw.anonymous_error(400, -32000, "Bad Request: No valid session ID provided")
    async with raw_server() as server, dialled(server.url) as connection:
        server.plans |= {"good": refusal, "ping": refusal}
        with pytest.raises(mcp.MCPError, match="No valid session ID"):
            await connection.call("good")
        while not connection.undecided:
            await trio.sleep(0.005)


async def test_R11_a_probe_that_gets_404_is_death() -> None:
    async with raw_server({"bad": raw.status(400), "ping": raw.status(404)}) as server:
        async with dialled(server.url) as connection:
            with pytest.raises(errors.HttpStatusError):
                await connection.call("bad")
            while not connection.link.is_lost:
                await trio.sleep(0.005)


@pytest.mark.parametrize("ping", [raw.reset, raw.hang])
async def test_R11_a_probe_without_an_answer_says_nothing(ping: raw.Plan) -> None:
    async with raw_server({"bad": raw.status(400), "ping": ping}) as server, dialled(server.url) as connection:
        with pytest.raises(errors.HttpStatusError):
            await connection.call("bad")
        await trio.sleep(1.2)
        assert (server.seen.count("ping"), connection.link.is_lost, connection.undecided) == (1, False, 0)


@pytest.mark.parametrize("status", [*FORGOTTEN, 404])
async def test_R11_in_the_modern_era_no_status_evicts_and_nothing_is_probed(status: int) -> None:
    plans = {"server/discover": raw.discover, "bad": raw.status(status)}
    async with raw_server(plans) as server, dialled(server.url, mode="auto") as connection:
        assert connection.client.protocol_version == "2026-07-28"
        with pytest.raises(errors.PoolError):
            await connection.call("bad")
        await trio.sleep(0.05)
        assert "ping" not in server.seen
        assert (connection.link.is_lost, connection.undecided) == (False, 0)


async def test_one_page_of_html_costs_its_call_alone() -> None:
    """It used to be taken for the death of the session: three unrelated calls were cut, and the request sent again."""
    release = trio.Event()

    async def patient(exchange: raw.Exchange) -> None:
        await release.wait()
        await raw.ok(exchange)

    html = raw.status(400, "content-type: text/html", body=b"<p>no")
    async with raw_server({"bad": html, "ping": raw.empty_result, "patient": patient}) as server:
        async with dialled(server.url) as connection:
            answers: list[str] = []

            async def sibling() -> None:
                answers.append(await connection.call("patient"))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(sibling)
                with pytest.raises(errors.HttpStatusError) as caught:
                    await connection.call("bad")
                assert (caught.value.status, caught.value.outcome) == (400, "not run")
                release.set()
            assert answers == ["ok"] * 3
            assert server.seen.count("bad") == 1


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_R18_a_later_request_of_a_call_that_may_have_run_does_not_say_that_it_did_not(status: int) -> None:
    async with raw_server({"second": raw.status(status), "ping": raw.empty_result}) as server:
        async with dialled(server.url) as connection:
            call = Call(trio.CancelScope(), connection.link)
            call.written = True  # by an earlier round
            with pytest.raises(errors.PoolError) as caught:
                await connection.call("second", call)
            assert (caught.value.outcome, call.written) == ("unknown", True)


# The standing stream.


async def test_what_the_server_sends_unasked_arrives_on_the_standing_stream() -> None:
    messages: list[Any] = []

    async def get(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(b'data: {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}\n\n')
        await exchange.wait_gone()

    async def handler(message: Any) -> None:
        messages.append(message)

    async with raw_server({"GET": get}) as server, dialled(server.url, message_handler=handler):
        while not messages:
            await trio.sleep(0.005)
    assert messages[0].method == "notifications/tools/list_changed"


async def test_a_request_that_was_only_accepted_is_answered_on_the_standing_stream() -> None:
    streams: list[raw.Exchange] = []

    async def get(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        streams.append(exchange)
        await exchange.wait_gone()

    async def later(exchange: raw.Exchange) -> None:
        await exchange.reply(202)
        await trio.sleep(0.05)
        await streams[0].chunk(exchange.result_event("ok"))

    async with raw_server({"GET": get, "later": later}) as server, dialled(server.url) as connection:
        while not streams:
            await trio.sleep(0.005)
        assert await connection.call("later") == "ok"
        assert await connection.call("good") == "ok"


async def test_a_standing_stream_that_breaks_is_resumed_after_its_last_event() -> None:
    seen: list[str | None] = []

    async def get(exchange: raw.Exchange) -> None:
        seen.append(exchange.headers.get("last-event-id"))
        if len(seen) == 3:
            await exchange.wait_gone()
            return
        await exchange.start_events()
        await exchange.chunk(b"id: event-%d\nretry: 20\ndata:\n\n" % len(seen))
        await exchange.reset()

    async with raw_server({"GET": get}) as server, dialled(server.url):
        while len(seen) < 3:
            await trio.sleep(0.005)
    assert seen == [None, "event-1", "event-2"]


async def test_R19_a_server_that_ends_its_standing_stream_at_once_is_not_asked_in_a_loop() -> None:
    async def get(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with raw_server({"GET": get}) as server, dialled(server.url):
        await trio.sleep(1)
        assert 2 <= server.seen.count("GET") <= 6


async def test_a_server_without_standing_streams_is_asked_once() -> None:
    async with raw_server({"GET": raw.status(405)}) as server, dialled(server.url) as connection:
        await trio.sleep(0.5)
        assert server.seen.count("GET") == 1
        assert not connection.link.is_lost


# Headers of each era.


async def test_each_era_sends_the_headers_that_it_asks_for() -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        await connection.call("good")
    by_name = dict(zip(server.seen, server.headers, strict=True))
    assert "mcp-session-id" not in by_name["initialize"]
    assert "mcp-protocol-version" not in by_name["initialize"]
    for name in ("notifications/initialized", "good", "GET", "DELETE"):
        assert by_name[name]["mcp-session-id"] == "the-session", name
        assert by_name[name]["mcp-protocol-version"] == "2025-11-25", name
    async with raw_server({"server/discover": raw.discover}) as server:
        async with dialled(server.url, mode="auto") as connection:
            await connection.call("good")
    by_name = dict(zip(server.seen, server.headers, strict=True))
    assert server.seen == ["server/discover", "good", "tools/list"]
    assert "mcp-session-id" not in by_name["good"]
    assert {k: by_name["good"][k] for k in ("mcp-protocol-version", "mcp-method", "mcp-name")} == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "good",
    }


async def test_the_users_own_headers_are_sent_and_do_not_replace_those_of_the_protocol() -> None:
    headers = {"X-Own": "1", "Accept": "text/plain", "Mcp-Session-Id": "forged", "User-Agent": "me"}
    async with raw_server() as server, dialled(server.url, headers=headers) as connection:
        await connection.call("good")
    sent = server.headers[server.seen.index("good")]
    assert (sent["x-own"], sent["user-agent"], sent["mcp-session-id"]) == ("1", "me", "the-session")
    assert sent["accept"] == "application/json, text/event-stream"


@pytest.mark.parametrize("delete", [raw.hang, raw.hanging_events])
async def test_R1_an_owner_that_is_cancelled_while_it_ends_the_session_leaves_everything_that_it_has_entered(
    delete: raw.Plan,
) -> None:
    async with raw_server({"DELETE": delete}) as server:
        with trio.CancelScope() as scope:
            async with dialled(server.url, close_timeout=10):
                scope.deadline = trio.current_time() + 0.2
        assert scope.cancelled_caught
        while server.gone != ["DELETE"]:
            await trio.sleep(0.01)
