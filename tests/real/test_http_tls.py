"""TLS with a private authority and client certificates, and proxies, all on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import traceback
from dataclasses import dataclass

import pytest
import trio
import trustme

from tests.real.http_dial import dialled
from tests.servers import raw_http as raw
from tests.servers.proxy import running_proxy
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call
from trio_mcp_pool._wire.http._failures import ConnectFailed


@dataclass
class Pki:
    """A private authority and what it has issued."""

    authority: trustme.CA
    server: ssl.SSLContext
    client: ssl.SSLContext

    def asking_for_certificates(self) -> ssl.SSLContext:
        """A server that lets nobody in without one."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost").configure_cert(context)
        self.authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def pki() -> Pki:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    return Pki(authority, server, trusting(authority))


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_calls_over_tls_with_a_private_authority(pki: Pki, transport: str) -> None:
    plans = raw.sse_plans({"good": raw.sse_result}) if transport == "sse" else {}
    async with raw_server(plans, ssl_context=pki.server) as server:
        async with dialled(server.url, ssl_context=pki.client, transport=transport) as connection:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(connection.call, "good")
            for _ in range(5):
                assert await connection.call("good") == "ok"
        assert server.connections <= 25


async def test_a_connection_over_tls_is_used_again(pki: Pki) -> None:
    async with raw_server(ssl_context=pki.server) as server:
        async with dialled(server.url, ssl_context=pki.client) as connection:
            for _ in range(10):
                await connection.call("good")
        assert server.connections <= 2


async def test_a_large_request_and_a_large_answer_go_through_tls(pki: Pki) -> None:
    async def echo(exchange: raw.Exchange) -> None:
        await exchange.result(raw.tool_result(exchange.message["params"]["arguments"]["text"]))

    async with raw_server({"echo": echo}, ssl_context=pki.server) as server:
        async with dialled(server.url, ssl_context=pki.client, max_message=1 << 26) as connection:
            assert len(await connection.call("echo", text="x" * 5_000_000)) == 5_000_000


async def test_a_server_of_an_unknown_authority_is_refused_by_name(pki: Pki) -> None:
    async with raw_server(ssl_context=pki.server) as server:
        with pytest.raises(ConnectFailed, match=r"https://localhost:\d+: TLS failed: its certificate was not accepted"):
            async with dialled(server.url):
                pass


async def test_the_name_in_a_certificate_is_checked(pki: Pki) -> None:
    async with raw_server(ssl_context=pki.server) as server:
        with pytest.raises(ConnectFailed, match="certificate was not accepted"):
            async with dialled(server.url.replace("localhost", "127.0.0.1"), ssl_context=pki.client):
                pass


async def test_a_client_certificate_lets_in(pki: Pki) -> None:
    mine = trusting(pki.authority)
    pki.authority.issue_cert("the-client").configure_cert(mine)
    async with raw_server(ssl_context=pki.asking_for_certificates()) as server:
        async with dialled(server.url, ssl_context=mine) as connection:
            assert await connection.call("good") == "ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_without_its_certificate_gets_an_error_that_says_so(pki: Pki, version: ssl.TLSVersion) -> None:
    """Under TLS 1.3 it shows only when the first answer is read. Trio's server would not send the alert."""
    context = pki.asking_for_certificates()
    context.maximum_version = version
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def refuse() -> None:
            one, _ = listener.accept()
            with one, contextlib.suppress(OSError):
                context.wrap_socket(one, server_side=True).recv(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse)
            with pytest.raises((ConnectFailed, errors.AuthenticationError), match="refused .* certificate"):
                async with dialled(f"https://localhost:{listener.getsockname()[1]}/mcp", ssl_context=pki.client):
                    pass


async def test_https_on_an_http_port_says_so() -> None:
    async with raw_server() as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost") + "?key=xyzzy"
        with pytest.raises(ConnectFailed, match="TLS failed: the other side answered in plain HTTP") as caught:
            async with dialled(url):
                pass
        assert "xyzzy" not in "".join(traceback.format_exception(caught.value))


async def test_http_on_an_https_port_says_so(pki: Pki) -> None:
    async with raw_server(ssl_context=pki.server) as server:
        with pytest.raises(ConnectionError, match="speaks TLS; is it an https:// address?|closed the connection"):
            async with dialled(server.url.replace("https", "http")):
                pass


# Proxies.


async def test_a_plain_proxy_that_was_given_is_used_and_given_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy() as proxy, raw_server() as server:
        url = proxy.url.replace("http://", "http://ada:hunter2@")
        async with dialled(server.url, proxy=url) as connection:
            assert await connection.call("good") == "ok"
        assert proxy.requests[0] == f"POST {server.url}"
        assert set(proxy.authorizations) == {"basic ywrhomh1bnrlcji="}


async def test_a_tunnel_carries_tls(pki: Pki) -> None:
    async with running_proxy() as proxy, raw_server(ssl_context=pki.server) as server:
        async with dialled(server.url, ssl_context=pki.client, proxy=proxy.url) as connection:
            assert await connection.call("good") == "ok"
        assert set(proxy.requests) == {f"CONNECT localhost:{server.port}"}


@pytest.mark.parametrize(("status", "words"), [(407, "it wants credentials"), (502, "refused a tunnel")])
async def test_a_tunnel_that_is_refused_says_by_whom(pki: Pki, status: int, words: str) -> None:
    async with running_proxy() as proxy, raw_server(ssl_context=pki.server) as server:
        proxy.refuse = status
        with pytest.raises(ConnectFailed, match=rf"the proxy 127.0.0.1:{proxy.port} refused a tunnel.*") as caught:
            async with dialled(server.url, ssl_context=pki.client, proxy=proxy.url):
                pass
        assert words in str(caught.value)


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "https://127.0.0.1:1"])
async def test_a_kind_of_proxy_that_the_wire_does_not_speak_names_the_other_wire(url: str) -> None:
    async with raw_server() as server:
        with pytest.raises(ConnectFailed, match='wire="sdk"'):
            async with dialled(server.url, proxy=url):
                pass


async def test_a_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw_server() as server, dialled(server.url) as connection:
        call = Call(trio.CancelScope(), connection.link)
        assert await connection.call("good", call) == "ok"
