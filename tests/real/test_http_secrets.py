"""R16 over HTTP: what stands in a URL or a header is in no log line, not even in those of the libraries below."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Literal

import httpx2
import pytest
import trio

from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import AuthenticationError, ConnectError, HttpServer, HttpStatusError, PoolError, open_pool
from trio_mcp_pool._wire._link import Link

SECRET = "xyzzy-plugh"


def secret_server(url: str, transport: str) -> HttpServer:
    url = f"{url.replace('http://', f'http://ada:{SECRET}@')}?key={SECRET}"
    headers = {"X-Key": SECRET, "X-Token": f"Token {SECRET}"}
    return HttpServer(url, headers=headers, transport=transport)  # type: ignore[arg-type]


async def test_R16_the_query_of_a_url_is_sent_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with trio.fail_after(20):
        async with raw_server() as server, open_pool({"s": secret_server(server.url, "streamable-http")}) as pool:
            await pool.call_tool("s", "good")
    assert {target.partition("?")[2] for target in server.targets} == {f"key={SECRET}"}
    assert SECRET not in caplog.text


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
@pytest.mark.parametrize("status", [401, 404, 500])
async def test_R16_a_refused_dial_shows_nothing_of_the_url(
    status: int, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plans = {name: raw.status(status) for name in ("GET", "server/discover", "initialize")}
    with trio.fail_after(20):
        async with raw_server(plans) as server, open_pool({"s": secret_server(server.url, transport)}) as pool:
            with pytest.raises(ConnectError) as caught:
                await pool.wait_ready("s")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


async def test_R16_a_redirect_that_repeats_the_query_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plans = {"moved": raw.status(302, f"location: http://elsewhere.invalid/?key={SECRET}")}
    with trio.fail_after(20):
        async with raw_server(plans) as server, open_pool({"s": secret_server(server.url, "streamable-http")}) as pool:
            with pytest.raises(HttpStatusError) as caught:
                await pool.call_tool("s", "moved")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


async def test_R16_a_server_that_repeats_a_header_in_its_refusal_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    plans = {"initialize": raw.rpc_error(200, -32600, f"no such token: {SECRET}")}
    with trio.fail_after(20):
        async with raw_server(plans) as server:
            headers = {"Authorization": f"Bearer {SECRET}"}
            async with open_pool({"s": HttpServer(server.url, headers=headers, mode="legacy")}) as pool:
                with pytest.raises(ConnectError) as caught:
                    await pool.wait_ready("s")
    assert SECRET not in str(caught.value)


# What an authentication adds.


class Chatty(httpx2.Auth):
    """Puts a token on each request, and quotes it when that is refused."""

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {SECRET}"
        response = yield request
        if response.status_code == 401:
            raise RuntimeError(f"the token {SECRET} was refused")


class Signing(httpx2.Auth):
    """Puts a signature into the URL, and quotes it when that is refused."""

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.url = request.url.copy_merge_params({"signature": SECRET})
        response = yield request
        if response.status_code == 401:
            raise RuntimeError(f"the signature {SECRET} was refused")


@pytest.mark.parametrize("auth", [Chatty, Signing])
@pytest.mark.parametrize("refused", ["server/discover", "call"])
@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_R16_an_authentication_that_quotes_what_it_added_is_not_quoted(
    wire: Literal["trio", "sdk"], refused: str, auth: type[httpx2.Auth], caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(20):
        async with (
            raw_server({refused: raw.status(401)}) as server,
            open_pool({"s": HttpServer(server.url, auth=auth(), wire=wire)}) as pool,
        ):
            with pytest.raises(PoolError) as caught:
                await pool.call_tool("s", "call")
    shown = "".join(traceback.format_exception(caught.value))
    assert "RuntimeError" in shown or "401" in shown or wire == "sdk"
    assert SECRET not in shown
    assert SECRET not in caplog.text


async def test_R16_the_error_of_an_authentication_without_secrets_is_the_cause() -> None:
    class Plain(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
            response = yield request
            if response.status_code == 401:
                raise RuntimeError("refused")

    with trio.fail_after(20):
        async with (
            raw_server({"call": raw.status(401)}) as server,
            open_pool({"s": HttpServer(server.url, auth=Plain())}) as pool,
        ):
            with pytest.raises(AuthenticationError) as caught:
                await pool.call_tool("s", "call")
    assert repr(caught.value.__cause__) == "RuntimeError('refused')"


class Renewing(httpx2.Auth):
    """Gets a token from an authorization server, and quotes all that it sent and got."""

    requires_response_body = True

    def __init__(self, url: str, quoted: Callable[[Any], str]) -> None:
        self.url = url
        self.quoted = quoted

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        form = {"grant_type": "refresh_token", "refresh_token": SECRET, "client_secret": SECRET[::-1]}
        answer = yield httpx2.Request("POST", self.url, data=form, headers={"Authorization": f"Basic {SECRET * 2}"})
        raise RuntimeError(self.quoted(answer))


@pytest.mark.parametrize(
    "quoted",
    [lambda _: f"{SECRET} is no token", lambda _: f"no client {SECRET[::-1]}", lambda _: SECRET * 2, lambda a: a.text],
)
async def test_R16_what_an_authentication_exchanges_with_its_own_server_is_not_quoted(
    quoted: Callable[[Any], str],
) -> None:
    async def tokens(exchange: raw.Exchange) -> None:
        await exchange.reply_json({"access_token": f"granted-{SECRET}"})

    with trio.fail_after(20):
        async with raw_server({"token": tokens}) as server:
            auth = Renewing(f"{server.url}/token", quoted)
            async with open_pool({"s": HttpServer(server.url, auth=auth)}) as pool:
                with pytest.raises(ConnectError) as caught:
                    await pool.wait_ready("s")
    shown = "".join(traceback.format_exception(caught.value))
    assert "RuntimeError" in shown
    assert SECRET not in shown
    assert SECRET[::-1] not in shown


async def test_R16_only_the_last_tokens_of_an_authentication_are_remembered() -> None:
    link = Link("s")
    link.keep_secret(["lasting"])
    link.keep_passing_secret(f"token-{number:03}" for number in range(1000))
    assert link.mask("lasting token-000 token-999") == "*** token-000 ***"
