"""The HTTP wire: one MCP session over streamable HTTP, in both protocol eras, or over the older SSE transport.

The SDK's transports do the talking. What they lack is told apart here. To them a request is a task in one group, so a
single refused connection ends the whole session; a status is a generic error; a session that the server has forgotten
looks like a failed call. So the SDK is given an HTTP client of ours (`_http_client.py`), which sees every request and
answers with a JSON-RPC error where the SDK would fall over, and its streams are wrapped (`_http_transport.py`), which
shows their end.

While dialling nothing is softened: an error there is the dial's error, and this module picks the one that says most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
import mcp
import trio

from ._http_client import WireClient
from ._http_transport import HttpTransport
from ._link import Call, Link, current_call


@asynccontextmanager
async def connect_http(
    link: Link,
    url: str,
    headers: dict[str, str],
    auth: httpx2.Auth | None,
    transport: Literal["streamable-http", "sse"],
    max_sse_event_size: int | None,
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Dial `url` and give a client whose handshake is done.

    What a failed dial raises is one bare exception, never a group: `AuthenticationError` or `HttpStatusError` where the
    server answered with a status, else what the HTTP client or the SDK raised.
    """
    url, auth = _without_credentials(url, auth)
    # The dial is a call of its own, so that what its requests run into is recorded like any other call's.
    dial = Call(trio.CancelScope(), link)
    http = WireClient(link, dial, headers=headers, auth=auth, limit=max_sse_event_size, over_stream=transport == "sse")
    # Structurally a Transport; the SDK names its streams by concrete classes.
    streams: Any = HttpTransport(link, http, url, transport, max_sse_event_size)
    client = mcp.Client(streams, **_with_cache_identity(client_options, url))
    try:
        async with _shaken_hands(client, http, dial):
            yield client
    except Exception as exc:
        raise_decisive(exc, http.verdict(exc))


@asynccontextmanager
async def _shaken_hands(client: mcp.Client, http: WireClient, dial: Call) -> AsyncIterator[None]:
    """Enter and leave `client`; only the first half is the dial."""
    token = current_call.set(dial)
    try:
        await client.__aenter__()
    finally:
        current_call.reset(token)
    try:
        # The SDK takes the handshake for done when it has handed over its last message.
        await http.wait_initialized()
        http.ready = True
        yield
    except BaseException as exc:
        await client.__aexit__(type(exc), exc, exc.__traceback__)
        raise
    else:
        await client.__aexit__(None, None, None)


def raise_decisive(caught: BaseException, decisive: BaseException) -> None:
    """Raise `decisive` in place of `caught`, with what `caught` was hidden: it may quote the URL."""
    if decisive is caught:
        raise caught
    raise decisive from decisive.__cause__


def _without_credentials(url: str, auth: httpx2.Auth | None) -> tuple[str, httpx2.Auth | None]:
    """The URL without user name and password, which become basic authentication, as the HTTP client would have it.

    So they stand in no log line and no error of the libraries below.
    """
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return url, auth
    if auth is None:
        auth = httpx2.BasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), auth


def _with_cache_identity(options: dict[str, Any], url: str) -> dict[str, Any]:
    """The client's options, with the URL as the identity of its response cache: what the SDK does when it is given the
    URL and not a transport."""
    cache = options.get("cache")
    if cache is None or cache.target_id is not None:
        return options
    return {**options, "cache": replace(cache, target_id=url)}
