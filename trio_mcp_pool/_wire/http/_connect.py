"""The HTTP wire: one MCP session over streamable HTTP, in both protocol eras, or over the older SSE transport."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
import mcp
import trio

from ..._groups import sole_error
from .._link import Link
from .._seam import client_with_dispatcher
from .._tool_call import HandDispatcher, tool_caller
from ._address import Address, parse_address
from ._client import HttpClient
from ._credentials import Credentials, Resolve
from ._dialling import Dialler
from ._dispatcher import HttpDispatcher
from ._relay import RelayTransport
from ._sse import SseDispatcher
from ._streamable import StreamableDispatcher

_CONNECT_TIMEOUT: Final = 30.0
"""The longest that a new connection of a live session may take, in seconds."""
_GOODBYE: Final = 2.0


@asynccontextmanager
async def connect_http(
    link: Link,
    *,
    url: str,
    resolve_headers: Resolve,
    auth: httpx2.Auth | None,
    transport: Literal["streamable-http", "sse"],
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    max_message: int,
    max_values: int,
    max_connections: int,
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Dial `url` and give a client whose handshake is done. Entered and left by one task.

    What a failed dial raises is one bare exception, never a group: `AuthenticationError` or `HttpStatusError` where the
    server answered with a status, `HttpFailure` where no answer came, else what the SDK raised.
    """
    address = parse_address(url)
    credentials = Credentials(resolve_headers)
    await credentials.load()
    link.phase = "connect"
    client = HttpClient(
        link,
        address,
        Dialler(ssl_context=ssl_context, proxy=proxy, timeout=min(link.connect_timeout, _CONNECT_TIMEOUT)),
        credentials,
        auth,
        max_connections=max_connections,
        max_message=max_message,
        basic=None if auth is not None else _basic(address),
    )
    kind: type[HttpDispatcher] = SseDispatcher if transport == "sse" else StreamableDispatcher
    dispatcher = kind(
        client, max_message=max_message, max_values=max_values, observer=client_options.get("message_handler")
    )
    hand = HandDispatcher(dispatcher)
    session = client_with_dispatcher(
        lambda: hand, RelayTransport(dispatcher), _with_cache_identity(client_options, url)
    )
    try:
        try:
            await session.__aenter__()
        except BaseException as exc:
            bare = sole_error(exc)
            if isinstance(bare, Exception):
                link.failing(bare)
            if bare is exc:
                raise
            raise bare from bare.__cause__
        dispatcher.ready = True
        link.call_tool = tool_caller(session, hand, link)
        raised: BaseException | None = None
        try:
            yield session
        except BaseException as exc:
            # Not shown to the client's own task group, which would wrap it.
            raised = exc
        try:
            if not isinstance(raised, trio.Cancelled):
                await dispatcher.end_session(min(_GOODBYE, link.close_timeout / 2, link.close_by - trio.current_time()))
        finally:
            # Also where that was cancelled: the scopes that the client has opened are this task's.
            await session.__aexit__(None, None, None)
        if raised is not None:
            raise raised
    finally:
        client.close()


def _basic(address: Address) -> bytes | None:
    """User name and password of the URL as a header: so they stand in no log line and no error of the libraries below."""
    if not address.userinfo:
        return None
    user, _, password = address.userinfo.decode("ascii").partition(":")
    return b"Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode())


def _with_cache_identity(options: dict[str, Any], url: str) -> dict[str, Any]:
    """The client's options, with the URL as the identity of its response cache: what the SDK does when it is given the
    URL and not a transport."""
    cache = options.get("cache")
    if cache is None or cache.target_id is not None:
        return options
    parts = urlsplit(url)
    return {
        **options,
        "cache": replace(cache, target_id=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))),
    }
