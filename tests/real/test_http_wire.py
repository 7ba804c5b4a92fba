"""The HTTP wire on real sockets: the SDK's own server in a process, and a server that misbehaves on demand."""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, get_args

import httpx2
import mcp
import mcp_types as types
import pytest
import trio
import trio.testing

from tests.servers import raw_http as raw
from tests.servers.http import Kind, running
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._http import connect_http
from trio_mcp_pool._wire._link import Call, Link, current_call

BOUND = 20
"""Seconds that no test may take."""


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Kind], str]]:
    """Addresses of servers that live as long as this module's tests."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        urls: dict[str, str] = {}

        def start(kind: Kind) -> str:
            if kind not in urls:
                urls[kind] = stack.enter_context(running(kind))
            return urls[kind]

        # All at once: a test that started one would be found to have left it behind.
        for kind in get_args(Kind):
            start(kind)
        yield start


@dataclass
class Dialled:
    """A connection as its owner task holds it."""

    link: Link
    client: mcp.Client = field(init=False)
    lost_at: float = 0

    async def call(self, tool: str, call: Call | None = None, /, **arguments: Any) -> str:
        """What a session handle does: the text of the result, or the error that the wire left on the call."""
        call = call or Call(trio.CancelScope(), self.link)
        token = current_call.set(call)
        try:
            with call.scope:
                result = await self.client.call_tool(tool, arguments)
                assert isinstance(result.content[0], types.TextContent)
                return result.content[0].text
        except mcp.MCPError as exc:
            if call.failure is not None:
                raise call.failure from exc
            raise
        finally:
            current_call.reset(token)
        assert call.failure is not None
        raise call.failure


@asynccontextmanager
async def dialled(
    url: str,
    *,
    mode: str = "legacy",
    transport: str = "streamable-http",
    auth: httpx2.Auth | None = None,
    headers: dict[str, str] | None = None,
    limit: int | None = 1024 * 1024,
    close_timeout: float = 10,
    failing: list[BaseException] | None = None,
    **options: Any,
) -> AsyncIterator[Dialled]:
    """Dial, and leave like an owner does, within a bound."""
    told: list[BaseException] = [] if failing is None else failing

    def lost() -> None:
        connection.lost_at = trio.current_time()

    link = Link("srv", on_lost=lost, on_failing=told.append, close_timeout=close_timeout, write_timeout=10)
    connection = Dialled(link)
    with trio.fail_after(BOUND):
        async with connect_http(
            link, url, headers or {}, auth, cast(Any, transport), limit, {"mode": mode, **options}
        ) as connection.client:
            yield connection
            link.close_by = trio.current_time() + close_timeout
            link.leaving = True


ERAS = [
    pytest.param("plain", "legacy", id="legacy"),
    pytest.param("plain", "auto", id="modern"),
    pytest.param("json", "legacy", id="legacy-json"),
    pytest.param("json", "auto", id="modern-json"),
    pytest.param("stateless", "legacy", id="stateless"),
    pytest.param("sse", "legacy", id="sse"),
]


def transport_of(kind: str) -> str:
    return "sse" if kind == "sse" else "streamable-http"


# Against the SDK's own server.


@pytest.mark.parametrize(("kind", "mode"), ERAS)
async def test_fifty_concurrent_calls_get_their_own_answers(
    serve: Callable[[Kind], str], kind: Kind, mode: str
) -> None:
    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        answers: dict[int, str] = {}
        calls = [Call(trio.CancelScope(), connection.link) for _ in range(50)]

        async def one(number: int) -> None:
            answers[number] = await connection.call("echo", calls[number], text=f"text {number}")

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert answers == {number: f"text {number}" for number in range(50)}
        assert [(call.written, call.failure) for call in calls] == [(True, None)] * 50
        assert connection.link.phase != "connect"
        assert connection.link.heard_at <= trio.current_time()
    assert not connection.link.is_lost


@pytest.mark.parametrize(("kind", "mode"), ERAS)
async def test_a_cancelled_caller_leaves_at_once_and_its_tool_is_stopped(
    serve: Callable[[Kind], str], kind: Kind, mode: str
) -> None:
    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        finished = await connection.call("executed", tool="slow finished")
        started = int(await connection.call("executed", tool="slow"))
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(trio.Cancelled):
                    await connection.call("slow", text="x", seconds=1)

            nursery.start_soon(one)
            while int(await connection.call("executed", tool="slow")) == started:
                pass
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 0.5
        assert await connection.call("echo", text="after") == "after"
        assert not connection.link.is_lost
        # Without a session a notice has nobody to reach, and a modern server that answers with JSON does not look
        # whether its client is still there.
        if kind != "stateless" and (kind, mode) != ("json", "auto"):
            await trio.sleep(1.2)
            assert await connection.call("executed", tool="slow finished") == finished


@pytest.mark.parametrize(("kind", "mode"), [("plain", "legacy"), ("plain", "auto"), ("sse", "legacy")])
async def test_progress_arrives_before_the_answer(serve: Callable[[Kind], str], kind: Kind, mode: str) -> None:
    seen: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        result = await connection.client.call_tool("count", {"to": 3}, progress_callback=progress)
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "done"
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [1, 2, 3]


@pytest.mark.parametrize("kind", ["plain", "sse"])
async def test_a_server_may_ask_its_client_back_in_the_middle_of_a_call(
    serve: Callable[[Kind], str], kind: Kind
) -> None:
    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async with dialled(serve(kind), transport=transport_of(kind), elicitation_callback=elicit) as connection:
        assert await connection.call("ask") == "Ada"


async def test_connections_are_used_again(serve: Callable[[Kind], str]) -> None:
    """The SDK closes the connection after every answer that came as a stream of events."""
    ports = set()
    async with dialled(serve("plain")) as connection:
        for _ in range(10):
            ports.add(await connection.call("client_port"))
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert len(ports) < 5


async def test_the_session_is_ended_on_the_server(serve: Callable[[Kind], str]) -> None:
    url = serve("plain")
    session_ids = set()

    async def remember(response: httpx2.Response) -> None:
        session_ids.add(response.headers.get("mcp-session-id"))

    async with dialled(url) as connection:
        await connection.call("echo", text="x")
        session_id = await connection.call("session_id")
    async with httpx2.AsyncClient() as http:
        answer = await http.post(
            url,
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            headers={"mcp-session-id": session_id, "accept": "application/json, text/event-stream"},
        )
    assert answer.status_code == 404


# What one request runs into stays with it.

BROKEN = [
    pytest.param(raw.reset, id="reset"),
    pytest.param(raw.truncated_json, id="truncated-json"),
    pytest.param(raw.truncated_events, id="truncated-events"),
    pytest.param(raw.ended_events, id="ended-events"),
]


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


async def swallow(connection: Dialled, tool: str, call: Call | None = None) -> None:
    try:
        await connection.call(tool, call)
    except (errors.PoolError, mcp.MCPError):
        pass


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
                    call.fail(errors.PoolClosedError("closed"))
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
        (raw.status(202), errors.HttpStatusError, {"status": 202}),
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

    async with raw_server({"big": big}) as server, dialled(server.url, limit=10_000) as connection:
        with pytest.raises(errors.MessageTooLargeError) as caught:
            await connection.call("big")
        assert caught.value.limit == 10_000
        assert await connection.call("good") == "ok"


async def test_without_a_limit_an_answer_may_be_of_any_size(serve: Callable[[Kind], str]) -> None:
    async with dialled(serve("plain"), limit=None) as connection:
        assert len(await connection.call("big", size=3_000_000)) == 3_000_000


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


# Session loss.


@pytest.mark.parametrize(
    "plan",
    [
        raw.status(404),
        raw.status(400),
        raw.rpc_error(404, -32600, "Session terminated"),
        raw.rpc_error(404, -32001, "Session not found"),
        raw.rpc_error(400, -32000, "Bad Request: No valid session ID provided"),
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


async def test_a_call_whose_first_request_ran_is_never_said_not_to_have() -> None:
    """The SDK asks for the tools after a call of one that it does not know yet."""
    async with raw_server({"tools/list": raw.status(404)}) as server, dialled(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.OutcomeUnknownError):
            await connection.call("good", call)
        assert call.written
        assert connection.link.is_lost


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


# The dial.


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_R14_a_refused_dial_is_one_bare_error(mode: str, transport: str) -> None:
    async with raw_server() as server:
        await server.stop_listening()
        failing: list[BaseException] = []
        with pytest.raises(httpx2.ConnectError):
            async with dialled(server.url, mode=mode, transport=transport, failing=failing):
                pass
        assert [type(error) for error in failing] == [httpx2.ConnectError]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
@pytest.mark.parametrize(
    ("plan", "kind", "status"),
    [
        (raw.status(401), errors.AuthenticationError, 401),
        (raw.rpc_error(403, -32000), errors.AuthenticationError, 403),
        (raw.status(503, "retry-after: 3"), errors.HttpStatusError, 503),
    ],
)
async def test_a_dial_that_is_refused_by_a_status_says_so(
    plan: raw.Plan, kind: type[errors.PoolError], status: int, mode: str, transport: str
) -> None:
    plans = dict.fromkeys(("GET", "initialize", "server/discover"), plan)
    failing: list[BaseException] = []
    async with raw_server(plans) as server:
        with pytest.raises(kind) as caught:
            async with dialled(server.url, mode=mode, transport=transport, failing=failing):
                pass
    assert getattr(caught.value, "status") == status  # noqa: B009
    assert [type(error) for error in failing] == [kind]


@pytest.mark.parametrize("name", ["initialize", "notifications/initialized"])
@pytest.mark.parametrize(
    ("plan", "kind"),
    [(raw.reset, httpx2.TransportError), (raw.status(401), errors.AuthenticationError)],
)
async def test_an_sse_dial_whose_post_fails_ends_at_once(plan: raw.Plan, kind: type[Exception], name: str) -> None:
    failing: list[BaseException] = []
    async with raw_server(raw.sse_plans({name: plan})) as server:
        with trio.fail_after(1):
            with pytest.raises(kind):
                async with dialled(server.url, transport="sse", failing=failing):
                    pass
    assert [isinstance(error, kind) for error in failing] == [True]


@pytest.mark.parametrize("plan", BROKEN)
async def test_a_dial_whose_answer_breaks_fails_with_what_broke_it(plan: raw.Plan) -> None:
    async with raw_server({"initialize": plan}) as server:
        with pytest.raises(httpx2.TransportError):
            async with dialled(server.url):
                pass


@pytest.mark.parametrize("name", ["initialize", "notifications/initialized"])
async def test_R15_a_dial_of_a_mute_server_ends_when_it_is_cancelled(name: str) -> None:
    async with raw_server({name: raw.hang}) as server:
        before = trio.current_time()
        with trio.move_on_after(0.3) as scope:
            async with dialled(server.url):
                pass
        assert scope.cancelled_caught
        assert trio.current_time() - before < 1


# Credentials.


class Refreshing(httpx2.Auth):
    """Sends a stale token until it is refused."""

    def __init__(self) -> None:
        self.token = "stale"

    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["authorization"] = self.token
        response = yield request
        if response.status_code == 401:
            self.token = "fresh"
            request.headers["authorization"] = self.token
            yield request


async def test_a_refusal_that_the_authentication_mends_is_none() -> None:
    async def guarded(exchange: raw.Exchange) -> None:
        await (raw.ok(exchange) if exchange.headers["authorization"] == "fresh" else exchange.reply(401))

    async with raw_server({"guarded": guarded}) as server, dialled(server.url, auth=Refreshing()) as connection:
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.call("guarded", call) == "ok"
        assert call.failure is None


class Failing(httpx2.Auth):
    broken = False

    def auth_flow(self, request: httpx2.Request) -> Any:
        if self.broken:
            raise ValueError("no token to be had")
        yield request


async def test_R11_an_authentication_that_fails_fails_its_own_call_only() -> None:
    auth = Failing()
    async with raw_server() as server, dialled(server.url, auth=auth) as connection:
        auth.broken = True
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.AuthenticationError):
            await connection.call("good", call)
        assert not call.written
        auth.broken = False
        assert await connection.call("good") == "ok"


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_R16_credentials_in_the_url_are_used_and_never_shown(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plans = {name: raw.status(401) for name in ("GET", "initialize")}
    async with raw_server(plans) as server:
        url = server.url.replace("http://", "http://ada:hunter2@")
        with pytest.raises(errors.AuthenticationError) as caught:
            async with dialled(url, transport=transport):
                pass
        assert server.headers[0]["authorization"] == "Basic YWRhOmh1bnRlcjI="
    shown = [str(caught.value), *(record.getMessage() for record in caplog.records)]
    error: BaseException | None = caught.value.__cause__
    while error is not None:
        shown.append(str(error))
        error = error.__cause__
    assert [text for text in shown if "hunter2" in text] == []


# Cancel notices.


@pytest.mark.parametrize("notice", [raw.hang, raw.reset, raw.status(500), raw.status(400)])
@pytest.mark.parametrize("slow", [raw.hang, raw.hanging_events])
async def test_a_cancel_notice_that_goes_wrong_disturbs_nobody(notice: raw.Plan, slow: raw.Plan) -> None:
    plans = {"notifications/cancelled": notice, "slow": slow}
    async with raw_server(plans) as server, dialled(server.url) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, connection, "slow")
            await server.hanging.wait()
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 0.5
        assert await connection.call("good") == "ok"
        assert trio.current_time() - before < 1
        while "slow" not in server.gone:
            await trio.sleep(0.01)
        assert server.seen.count("notifications/cancelled") == 1
        assert not connection.link.is_lost


async def test_R15_a_thousand_cancelled_callers_do_not_open_a_thousand_connections() -> None:
    async with raw_server({"slow": raw.hang, "notifications/cancelled": raw.hang}) as server:
        async with dialled(server.url) as connection:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(swallow, connection, "slow")
                while server.seen.count("slow") < 100:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            while server.gone.count("slow") < 100:
                await trio.sleep(0.01)
            assert server.seen.count("notifications/cancelled") <= 8
            assert await connection.call("good") == "ok"


# Leaving.


async def test_the_session_is_deleted_on_leaving() -> None:
    async with raw_server() as server:
        async with dialled(server.url):
            pass
        assert server.seen[-1] == "DELETE"


@pytest.mark.parametrize(("close_timeout", "bound"), [(10, 2), (1, 0.5)])
async def test_R15_a_server_that_does_not_answer_the_delete_is_left_behind(close_timeout: float, bound: float) -> None:
    async with raw_server({"DELETE": raw.hang}) as server:
        async with dialled(server.url, close_timeout=close_timeout):
            before = trio.current_time()
        assert bound - 0.1 < trio.current_time() - before < bound + 0.5
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


# The SSE transport.

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
        (raw.status(401), errors.AuthenticationError, True),
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
