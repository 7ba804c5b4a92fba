"""Addresses and proxies: what is sent of a URL, what is shown of it, and who is reached through whom."""

from __future__ import annotations

import pytest

from trio_mcp_pool._wire.http._address import Origin, parse_address
from trio_mcp_pool._wire.http._failures import ConnectFailed
from trio_mcp_pool._wire.http._proxies import proxy_for


@pytest.mark.parametrize(
    ("url", "origin", "target", "host", "shown"),
    [
        ("http://h", "http://h:80", b"/", b"h", "http://h/"),
        ("https://h/a b?c=d#e", "https://h:443", b"/a%20b?c=d", b"h", "https://h/a%20b"),
        ("http://ada:x@h:8080/mcp", "http://h:8080", b"/mcp", b"h:8080", "http://h:8080/mcp"),
        ("http://[::1]:8/mcp", "http://[::1]:8", b"/mcp", b"[::1]:8", "http://[::1]:8/mcp"),
        ("http://bücher.example/", "http://xn--bcher-kva.example:80", b"/", b"xn--bcher-kva.example", None),
    ],
)
def test_R16_a_url_is_taken_apart_and_shown_without_its_secrets(
    url: str, origin: str, target: bytes, host: bytes, shown: str | None
) -> None:
    address = parse_address(url)
    assert (str(address.origin), address.target, address.host_header) == (origin, target, host)
    assert shown is None or address.shown == shown
    assert "ada" not in repr(address)


@pytest.mark.parametrize("url", ["ftp://h/", "http:///xyzzy", "xyzzy", "http://h:xyzzy/"])
def test_R16_what_is_no_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        parse_address(url)
    assert "xyzzy" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("host", "loopback", "literal"),
    [
        ("localhost", True, False),
        ("mcp.localhost", True, False),
        ("LOCALHOST.", True, False),
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("10.0.0.1", False, True),
        ("localhost.example.com", False, False),
    ],
)
def test_what_is_this_machine_and_what_needs_no_resolving(host: str, loopback: bool, literal: bool) -> None:
    origin = Origin("http", host, 80)
    assert (origin.is_loopback, origin.is_literal) == (loopback, literal)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


FAR = Origin("https", "mcp.example.com", 443)


@pytest.mark.parametrize(
    ("variables", "origin", "proxy"),
    [
        ({}, FAR, None),
        ({"https_proxy": "http://p:3128"}, FAR, "http://p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, FAR, "http://p:3128"),
        ({"http_proxy": "http://p"}, FAR, None),
        ({"all_proxy": "http://p"}, FAR, "http://p:80"),
        ({"https_proxy": "http://p", "no_proxy": "example.com"}, FAR, None),
        ({"https_proxy": "http://p", "no_proxy": ".example.com,other"}, FAR, None),
        ({"https_proxy": "http://p", "no_proxy": "mcp.example.com:443"}, FAR, None),
        ({"https_proxy": "http://p", "no_proxy": "mcp.example.com:8443"}, FAR, "http://p:80"),
        ({"https_proxy": "http://p", "no_proxy": "*"}, FAR, None),
        ({"all_proxy": "http://p"}, Origin("http", "127.0.0.1", 80), None),
        ({"all_proxy": "http://p"}, Origin("http", "localhost", 80), None),
    ],
)
def test_the_environment_is_read_as_urllib_reads_it(
    variables: dict[str, str], origin: Origin, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(origin, None)
    assert (None if found is None else str(found.origin)) == proxy


def test_a_proxy_that_was_given_is_used_for_this_machine_too() -> None:
    found = proxy_for(Origin("http", "127.0.0.1", 80), "http://ada:p%40ss@p:3128")
    assert found is not None
    assert (str(found.origin), found.authorization) == ("http://p:3128", b"Basic YWRhOnBAc3M=")
    assert "ada" not in repr(found)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("socks5://xyzzy@p", "'socks5'.*wire=\"sdk\""),
        ("https://xyzzy@p", "'https'.*wire=\"sdk\""),
        ("http://", "no URL"),
        ("http://p:xyzzy", "no URL"),
    ],
)
def test_R16_a_proxy_that_this_wire_does_not_speak_to_is_named_by_its_kind(url: str, words: str) -> None:
    with pytest.raises(ConnectFailed, match=words) as caught:
        proxy_for(FAR, url)
    assert "xyzzy" not in str(caught.value)
