"""Credentials over HTTP: `auth=`, the URL's own, and live headers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio

from tests.real.http_dial import Dialled, dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call


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


# Live headers.


class Rotating:
    """A `headers` function of tokens that the server withdraws."""

    def __init__(self) -> None:
        self.token = "token-1"
        self.asked: list[str] = []
        self.slow = False
        self.fails = False

    async def __call__(self, reason: str) -> dict[str, str]:
        self.asked.append(reason)
        if self.slow:
            await trio.sleep(0.1)
        if self.fails:
            raise OSError("the vault is closed")
        return {"Authorization": self.token}

    async def guard(self, exchange: raw.Exchange) -> bool:
        if exchange.headers["authorization"] == self.token:
            return False
        await exchange.reply(401)
        return True


@asynccontextmanager
async def rotating(plans: dict[str, raw.Plan] | None = None) -> AsyncIterator[tuple[Rotating, raw.RawServer, Dialled]]:
    headers = Rotating()
    async with raw_server(plans) as server:
        server.guard = headers.guard
        async with dialled(server.url, headers=headers) as connection:
            yield headers, server, connection


async def test_R13_after_a_401_the_headers_are_asked_for_again_and_the_call_is_sent_once_more() -> None:
    async with rotating() as (headers, server, connection):
        headers.token = "token-2"
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.call("good", call) == "ok"
        assert (headers.asked, server.seen.count("good"), call.written) == (["connect", "unauthorized"], 2, True)
        assert await connection.call("good") == "ok"
        assert headers.asked == ["connect", "unauthorized"]


async def test_fifty_refused_callers_ask_once() -> None:
    async with rotating() as (headers, server, connection):
        headers.token, headers.slow = "token-2", True
        answers: list[str] = []

        async def one() -> None:
            answers.append(await connection.call("good"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert answers == ["ok"] * 50
        assert headers.asked == ["connect", "unauthorized"]
        assert server.seen.count("good") <= 100


async def test_a_401_to_older_credentials_is_sent_again_without_asking() -> None:
    held = trio.Event()

    async def late(exchange: raw.Exchange) -> None:
        if exchange.headers["authorization"] == "token-1":
            await held.wait()
            await exchange.reply(401)
        else:
            await raw.ok(exchange)

    async with rotating({"late": late}) as (headers, server, connection):
        answers: list[str] = []

        async def one() -> None:
            answers.append(await connection.call("late"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            while "late" not in server.seen:
                await trio.sleep(0.005)
            headers.token = "token-2"
            assert await connection.call("good") == "ok"
            held.set()
        assert answers == ["ok"]
        assert headers.asked == ["connect", "unauthorized"]


async def test_a_caller_who_leaves_while_the_headers_are_asked_for_does_not_leave_the_others_without() -> None:
    async with rotating() as (headers, _, connection):
        headers.token, headers.slow = "token-2", True
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(swallow, connection, "good")
                while len(headers.asked) < 2:
                    await trio.sleep(0.005)
                scope.cancel()
        assert await connection.call("good") == "ok"


@pytest.mark.parametrize("mode", ["same", "wrong"])
async def test_credentials_that_are_refused_again_are_an_authentication_error(mode: str) -> None:
    async with rotating() as (headers, server, connection):

        async def guard(exchange: raw.Exchange) -> bool:
            await exchange.reply(401, b"", 'www-authenticate: Bearer error="invalid_token"')
            return True

        server.guard = guard
        if mode == "wrong":
            headers.token = "token-2"
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.AuthenticationError, match="invalid_token") as caught:
            await connection.call("good", call)
        assert (caught.value.status, caught.value.outcome, call.written) == (401, "not run", False)
        assert not connection.link.is_lost


async def test_what_the_headers_function_raises_reaches_every_caller_who_waited_for_it_as_it_is() -> None:
    async with rotating() as (headers, _, connection):
        headers.token, headers.slow, headers.fails = "token-2", True, True
        raised: list[str] = []

        async def one() -> None:
            with pytest.raises(OSError, match="the vault is closed"):
                await connection.call("good")
            raised.append("it")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        assert (len(raised), headers.asked) == (5, ["connect", "unauthorized"])
        headers.fails = False
        assert await connection.call("good") == "ok"
