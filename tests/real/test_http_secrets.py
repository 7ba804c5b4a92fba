"""R16 over HTTP: what stands in a URL or a header is in no log line, not even in those of the libraries below."""

from __future__ import annotations

import logging
import traceback

import pytest
import trio

from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import ConnectError, HttpServer, HttpStatusError, open_pool

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
