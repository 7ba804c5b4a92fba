"""A server reached over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal, final
from urllib.parse import urlsplit

import httpx2
import mcp

from .._arguments import explain_timeout
from .._policy import PoolPolicy
from .._wire._link import Link
from .._wire.http._secrets import header_secrets, url_secrets
from ._base import MAX_MESSAGE, MAX_VALUES, ClientOptions, Configure, Server, check_limit
from ._http_fields import check_headers, check_url
from ._per_dial import DialReason, PerDial, frozen_map, resolve

MAX_CONNECTIONS: Final = 1000
"""The default of `max_connections`."""


@final
@explain_timeout
@dataclass(frozen=True, repr=False)
class HttpServer(ClientOptions, Server):
    """A server reached over HTTP: streamable HTTP in both protocol eras, or the older SSE transport.

    Each session has an HTTP client of its own, without a read timeout: the caller's cancel scope bounds a call.

    Raises `TypeError` or `ValueError` on construction, naming the field and showing no secret.
    """

    url: str
    """The endpoint, `http://` or `https://`."""
    _: KW_ONLY
    headers: PerDial | None = None
    """Headers of every request: a mapping, or a function, sync or async, called for every dial, and once more when the server
    answers 401. One that has a required positional parameter is given a `Dial`."""
    auth: httpx2.Auth | None = None
    """Any `httpx2.Auth`, the SDK's OAuth provider included."""
    transport: Literal["streamable-http", "sse", "http"] = "streamable-http"
    """Which of the two HTTP transports the server speaks; `"http"` is another name of `"streamable-http"`."""
    ssl_context: ssl.SSLContext | None = None
    """For a private authority or a client certificate. Compared by identity. Default `None`: the HTTP library's own."""
    proxy: str | None = None
    """The URL of a proxy: `http://`; with `wire="sdk"` also `https://` or `socks5://`. Default `None`: what the environment
    says."""
    wire: Literal["trio", "sdk"] = "trio"
    """`"trio"`: the pool's own wire. `"sdk"`: the MCP SDK's transports."""
    max_message: int = MAX_MESSAGE
    """The longest message accepted from the server, in bytes. Default 64 MiB."""
    max_values: int = MAX_VALUES
    """The most JSON values in one message from the server, counted roughly before it is parsed. Default 1,000,000. Only on
    the `"trio"` wire."""
    max_connections: int = MAX_CONNECTIONS
    """The most connections of one session to the server; requests beyond them wait. Default 1,000."""
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    configure: Configure | None = None
    """An async function of the new `Session`, run before the session is first lent. Default `None`."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        check_url("HttpServer.url", self.url, ("http", "https"))
        object.__setattr__(self, "headers", frozen_map("HttpServer.headers", self.headers, check_headers))
        if self.auth is not None and not isinstance(self.auth, httpx2.Auth):
            raise TypeError(f"HttpServer.auth must be an httpx2.Auth or None, not {type(self.auth).__name__}")
        if self.transport not in ("streamable-http", "sse", "http"):
            raise ValueError(f"HttpServer.transport must be 'streamable-http' or 'sse', not {self.transport!r}")
        if self.transport == "http":
            object.__setattr__(self, "transport", "streamable-http")
        if self.ssl_context is not None and not isinstance(self.ssl_context, ssl.SSLContext):
            raise TypeError(
                f"HttpServer.ssl_context must be an ssl.SSLContext or None, not {type(self.ssl_context).__name__}"
            )
        if self.proxy is not None:
            check_url("HttpServer.proxy", self.proxy, ("http", "https", "socks5", "socks5h"))
        if self.wire not in ("trio", "sdk"):
            raise ValueError(f"HttpServer.wire must be 'trio' or 'sdk', not {self.wire!r}")
        check_limit("HttpServer", "max_message", self.max_message, "bytes")
        check_limit("HttpServer", "max_values", self.max_values, "JSON values")
        check_limit("HttpServer", "max_connections", self.max_connections, "connections")
        self._check()

    def __repr__(self) -> str:
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"<HttpServer {parts.scheme}://{parts.hostname}{port}{parts.path} ({self.transport})>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        parts = urlsplit(self.url)
        link.transport, link.address = "tcp", (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        for url in filter(None, (self.url, self.proxy)):
            link.keep_secret(url_secrets(url))

        async def resolve_headers(reason: DialReason) -> dict[str, str]:
            if reason == "connect":
                link.phase = "configure"
            headers = await resolve("HttpServer.headers", self.headers, link, reason, check_headers)
            link.keep_secret(header_secrets(headers))
            if reason == "connect":
                link.phase = "connect"
            return headers

        options: dict[str, Any] = {
            "url": self.url,
            "resolve_headers": resolve_headers,
            "auth": self.auth,
            "transport": self.transport,
            "ssl_context": self.ssl_context,
            "proxy": self.proxy,
            "max_message": self.max_message,
            "max_connections": self.max_connections,
            "client_options": self._client_options(link),
        }
        if self.wire == "trio":
            from .._wire.http._connect import connect_http

            wire = connect_http(link, max_values=self.max_values, **options)
        else:
            from .._wire.http._sdk import connect_sdk_http

            wire = connect_sdk_http(link, **options)
        async with wire as client:
            yield client
