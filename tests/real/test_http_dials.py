"""How a dial over HTTP fails."""

from __future__ import annotations

import json

import pytest
import trio

from tests.real.http_dial import BROKEN, dialled
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire.http._failures import ConnectFailed, HttpFailure


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_R14_a_refused_dial_is_one_bare_error(mode: str, transport: str) -> None:
    async with raw_server() as server:
        await server.stop_listening()
        failing: list[BaseException] = []
        with pytest.raises(ConnectFailed):
            async with dialled(server.url, mode=mode, transport=transport, failing=failing):
                pass
        assert [type(error) for error in failing] == [ConnectFailed]


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
    [(raw.reset, HttpFailure), (raw.status(401), errors.AuthenticationError)],
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
        with pytest.raises(HttpFailure):
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


# What the first error says.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/mcp", "127.0.0.1:1 refused the connection"),
        ("http://localhost:1/mcp", "localhost:1 refused the connection"),
        ("http://no-such-host.invalid/mcp", "the host of no-such-host.invalid:80 is not known"),
    ],
)
async def test_an_address_that_cannot_be_reached_is_named(url: str, words: str) -> None:
    with pytest.raises(ConnectFailed, match=words):
        async with dialled(f"{url}?key=xyzzy"):
            pass


HTML = raw.status(404, "content-type: text/html", body=b"<p>")
PAGE = raw.status(200, "content-type: text/html", body=b"<p>")
BEARER = raw.status(401, 'www-authenticate: Bearer realm="x"')
WANTS = r"/mcp answered 401: it wants credentials.*headers= or auth="
ADVICE = [
    ("streamable-http", HTML, r"/mcp answered 404 with text/html; is the path /mcp\?"),
    ("streamable-http", PAGE, r"answered 200 with text/html; is the path /mcp\?"),
    ("streamable-http", raw.status(405), r"answered 405 and no MCP message; .* Try transport='sse'"),
    ("sse", raw.status(405), r"Try transport='streamable-http'"),
    ("sse", raw.status(400), r"Try transport='streamable-http'"),
    ("sse", raw.rpc_error(406, -32000, "Not Acceptable"), r"Try transport='streamable-http'"),
    ("sse", raw.status(404), r"is the path /sse\?"),
    ("streamable-http", BEARER, rf"{WANTS}.*Bearer realm"),
    ("sse", raw.status(401), r"answered 401: it wants credentials"),
]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize(("transport", "plan", "words"), ADVICE)
async def test_the_first_error_says_what_is_probably_wrong(
    transport: str, plan: raw.Plan, words: str, mode: str
) -> None:
    plans = dict.fromkeys(("GET", "initialize", "server/discover"), plan)
    async with raw_server(plans) as server:
        with pytest.raises((errors.HttpStatusError, errors.AuthenticationError), match=words):
            async with dialled(server.url + "?key=xyzzy", transport=transport, mode=mode):
                pass


@pytest.mark.parametrize("first", [403, 500])
@pytest.mark.parametrize("then", [raw.status(400), raw.rpc_error(400, -32000, "Missing MCP-Protocol-Version header")])
async def test_where_the_handshake_is_refused_too_the_status_that_says_why_is_reported(
    first: int, then: raw.Plan
) -> None:
    async with raw_server({"server/discover": raw.status(first), "initialize": then}) as server:
        with pytest.raises((errors.HttpStatusError, errors.AuthenticationError)) as caught:
            async with dialled(server.url, mode="auto"):
                pass
    assert getattr(caught.value, "status") == first  # noqa: B009


@pytest.mark.parametrize("status", [401, 429, 502, 503, 504])
async def test_an_outage_or_a_refusal_is_no_reason_to_try_the_other_era(status: int) -> None:
    async with raw_server({"server/discover": raw.status(status)}) as server:
        with pytest.raises((errors.HttpStatusError, errors.AuthenticationError)) as caught:
            async with dialled(server.url, mode="auto"):
                pass
    assert getattr(caught.value, "status") == status  # noqa: B009
    assert server.seen == ["server/discover"]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 500])
async def test_a_server_of_the_handshake_era_may_refuse_the_modern_eras_first_request_as_it_likes(status: int) -> None:
    async with raw_server({"server/discover": raw.status(status)}) as server:
        async with dialled(server.url, mode="auto") as connection:
            assert await connection.call("good") == "ok"
        assert "mcp-protocol-version" not in server.headers[server.seen.index("initialize")]


async def test_a_session_id_that_is_not_visible_ascii_is_an_error_and_no_hang() -> None:
    async def initialize(exchange: raw.Exchange) -> None:
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        body = json.dumps({"jsonrpc": "2.0", "id": exchange.message["id"], "result": result}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        await exchange.stream.send_all(head.encode() + "mcp-session-id: sitzung-ä\r\n\r\n".encode() + body)

    async with raw_server({"initialize": initialize}) as server:
        with trio.fail_after(5), pytest.raises(errors.InvalidResultError, match="session id"):
            async with dialled(server.url):
                pass


async def test_an_initialize_over_the_limit_is_an_error_of_the_dial() -> None:
    async def initialize(exchange: raw.Exchange) -> None:
        await exchange.result({"protocolVersion": "2025-11-25", "instructions": "x" * 20_000})

    async with raw_server({"initialize": initialize}) as server:
        with pytest.raises(errors.MessageTooLargeError):
            async with dialled(server.url, max_message=10_000):
                pass
