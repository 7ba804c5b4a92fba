"""`auth=`: the SDK's OAuth provider, against an authorization server on loopback, and flows of other makes."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
import trio

from tests.real.http_dial import Dialled, dialled
from tests.servers import raw_http as raw
from tests.servers.oauth import Guarded, guarded
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call


async def at_once(connection: Dialled, tool: str, count: int) -> list[str]:
    answers: list[str] = []

    async def one() -> None:
        answers.append(await connection.call(tool))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return answers


def expire(auth: Any, both: Guarded) -> None:
    """The token has run out, and its server knows it."""
    auth.context.token_expiry_time = time.time() - 1
    both.valid.clear()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_dial_logs_in_where_it_must(mode: str) -> None:
    async with guarded() as both, dialled(both.mcp.url, mode=mode, auth=both.auth()) as connection:
        assert await connection.call("good") == "ok"
        assert (both.logins, both.issued) == (1, ["authorization_code"])


async def test_an_sse_dial_logs_in_where_it_must() -> None:
    async with guarded(raw.sse_plans({})) as both:
        async with dialled(both.mcp.url, transport="sse", auth=both.auth()) as connection:
            assert await connection.call("fine") == "ok"
            assert both.logins == 1


async def test_fifty_callers_with_an_expired_token_renew_it_once() -> None:
    auth_of = {}
    async with guarded() as both:
        auth_of["it"] = both.auth()
        async with dialled(both.mcp.url, auth=auth_of["it"]) as connection:
            expire(auth_of["it"], both)
            assert await at_once(connection, "good", 50) == ["ok"] * 50
            assert both.issued == ["authorization_code", "refresh_token"]
            assert both.mcp.seen.count("good") == 50


async def test_fifty_callers_whose_token_was_revoked_log_in_once() -> None:
    async with guarded() as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        both.valid.clear()
        assert await at_once(connection, "good", 50) == ["ok"] * 50
        assert both.logins == 2
        assert not connection.link.is_lost


async def test_callers_do_not_wait_for_each_others_answers() -> None:
    """The provider holds a lock from stamping a request until its response has come."""

    async def slow(exchange: raw.Exchange) -> None:
        await trio.sleep(0.2)
        await raw.ok(exchange)

    async with guarded({"slow": slow}) as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        before = trio.current_time()
        assert await at_once(connection, "slow", 20) == ["ok"] * 20
        assert trio.current_time() - before < 3.9  # one after the other they take four


async def test_a_request_that_needs_a_wider_scope_asks_for_it() -> None:
    async with guarded() as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        both.scope = "admin"
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.call("good", call) == "ok"
        assert (both.logins, call.written) == (2, True)


async def test_a_login_that_fails_fails_its_call_alone_and_nothing_ran() -> None:
    async with guarded() as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        both.valid.clear()
        both.login_fails = True
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.AuthenticationError) as caught:
            await connection.call("good", call)
        assert (caught.value.outcome, call.written) == ("not run", False)
        both.login_fails = False
        assert await connection.call("good") == "ok"
        assert not connection.link.is_lost


async def test_a_caller_who_leaves_during_the_login_holds_up_nobody() -> None:
    async with guarded() as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        both.valid.clear()
        both.login_takes = 60
        with trio.move_on_after(0.3) as scope:
            await connection.call("good")
        assert scope.cancelled_caught
        both.login_takes = 0
        assert await connection.call("good") == "ok"


async def test_a_login_is_not_counted_in_the_timeout_of_a_call() -> None:
    async with guarded() as both, dialled(both.mcp.url, auth=both.auth()) as connection:
        both.valid.clear()
        both.login_takes = 0.5
        result = await connection.client.call_tool("good", {}, read_timeout_seconds=0.3)
        assert not result.is_error


# Flows of other makes.


class Reading(httpx2.Auth):
    """Reads every body, and wants to know where a redirect leads."""

    requires_response_body = True

    def __init__(self) -> None:
        self.bodies: list[tuple[int, bytes, bool]] = []

    def auth_flow(self, request: httpx2.Request) -> Any:
        response = yield httpx2.Request("GET", request.url.join("/token"))
        self.bodies.append((response.status_code, response.content, response.next_request is not None))
        request.headers["authorization"] = response.text
        response = yield request
        self.bodies.append((response.status_code, response.content, response.next_request is not None))


async def test_a_flow_is_given_bodies_decoded_and_where_redirects_lead() -> None:
    import gzip

    async def token(exchange: raw.Exchange) -> None:
        await exchange.reply(200, gzip.compress(b"the-token"), "content-encoding: gzip", "location: /x")

    async def elsewhere(exchange: raw.Exchange) -> None:
        await exchange.reply(302, b"moved", "location: http://other.invalid/")

    auth = Reading()
    async with raw_server({"moved": elsewhere}) as server:
        server.routes["/token"] = token
        async with dialled(server.url, auth=auth) as connection:
            assert await connection.call("good") == "ok"
            with pytest.raises(errors.HttpStatusError):
                await connection.call("moved")
            assert server.headers[0]["authorization"] == "the-token"
    assert auth.bodies[0] == (200, b"the-token", False)
    assert auth.bodies[1][0] == 200
    assert b"protocolVersion" in auth.bodies[1][1]
    assert (302, b"moved", True) in auth.bodies


class Digest(httpx2.DigestAuth):
    pass


async def test_a_flow_that_answers_a_challenge_is_driven_to_its_end() -> None:
    async def guard(exchange: raw.Exchange) -> bool:
        if exchange.headers.get("authorization", "").startswith("Digest "):
            return False
        await exchange.reply(401, b"", 'www-authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=MD5')
        return True

    async with raw_server() as server:
        server.guard = guard
        async with dialled(server.url, auth=Digest("ada", "hunter2")) as connection:
            assert await connection.call("good") == "ok"


class Replacing(httpx2.Auth):
    """Sends a request of its own in place of the one that it was given."""

    def auth_flow(self, request: httpx2.Request) -> Any:
        yield httpx2.Request(
            request.method, request.url, headers={**request.headers, "x-own": "1"}, content=request.content
        )


async def test_a_flow_may_send_another_request_in_place_of_its_own() -> None:
    async with raw_server() as server, dialled(server.url, auth=Replacing()) as connection:
        assert await connection.call("good") == "ok"
        assert all(headers["x-own"] == "1" for headers in server.headers)
