"""The MCP SDK's own HTTP transports, with a watch on them: what `wire="sdk"` asks for, for comparison and as the way
out.

They are wrapped as a transport of ours, which is public API, so that the link learns what the SDK tells nobody: that
the session is gone, and that a request was handed over. What the SDK does in its own way stays as it is: one broken
request ends the session, a status is a general error, JSON bodies have no limit.
"""

from __future__ import annotations

import inspect
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, cast, final

import httpx2
import mcp
import trio
from mcp.client import sse, streamable_http
from mcp.shared.message import SessionMessage

from ..._groups import leaves, sole_error
from .._link import Call, Link
from .._streams import WatchedReading, WatchedWriting
from ._credentials import Resolve
from ._secrets import WatchedAuth

_GOODBYE: Final = 2.0
_CONNECT: Final = 30.0


@final
class _Writing(WatchedWriting):
    notice_seconds = 0.25

    async def _send(self, item: SessionMessage, call: Call | None) -> None:
        if call is not None:
            # Whoever takes it sends it in the background, and says nothing of how far it came.
            call.written = True
        await self._inner.send(item)


@final
class _Watched:
    """An SDK transport with the link told of what happens on it."""

    def __init__(self, link: Link, inner: AbstractAsyncContextManager[Any], http: httpx2.AsyncClient) -> None:
        self._link = link
        self._inner = inner
        self._http = http

    async def __aenter__(self) -> tuple[WatchedReading, WatchedWriting]:
        reading, writing = await self._inner.__aenter__()
        return WatchedReading(self._link, reading), _Writing(self._link, writing)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # For the DELETE, which the SDK sends on its way out.
        left = min(_GOODBYE, self._link.close_timeout / 2, self._link.close_by - trio.current_time())
        self._http.timeout = httpx2.Timeout(max(0.01, left))
        return await self._inner.__aexit__(kind, exc, traceback)


@asynccontextmanager
async def connect_sdk_http(
    link: Link,
    *,
    url: str,
    resolve_headers: Resolve,
    auth: httpx2.Auth | None,
    transport: Literal["streamable-http", "sse"],
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    max_message: int,
    max_connections: int,
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Dial `url` over the SDK's transport and give a client whose handshake is done. Entered and left by one task.

    `max_message` bounds the events of a stream; the SDK has no bound for a JSON body. What a failed dial raises is bare.
    """
    headers = await resolve_headers("connect")
    link.phase = "connect"

    async def watch(response: httpx2.Response) -> None:
        link.heard()
        if link.phase == "connect":
            link.phase = "handshake"
        if response.status_code == 404 and "mcp-session-id" in response.request.headers and ready:
            link.lost(ConnectionResetError("the server no longer knows the session"))

    ready = False
    http = httpx2.AsyncClient(
        headers=headers,
        auth=None if auth is None else WatchedAuth(auth, link),
        verify=ssl_context if ssl_context is not None else True,
        proxy=proxy,
        # How long a call may take is for its caller to say.
        timeout=httpx2.Timeout(
            None,
            connect=min(link.connect_timeout, _CONNECT),
            write=link.write_timeout if link.write_timeout < math.inf else None,
        ),
        limits=httpx2.Limits(max_connections=max_connections),
        event_hooks={"response": [watch]},
    )
    raised: BaseException | None = None
    try:
        inner: AbstractAsyncContextManager[Any]
        if transport == "sse":
            inner = sse.sse_client(url, httpx_client_factory=lambda *_, **__: http)
        else:
            inner = _Streamable(http, url, max_message)
        client = mcp.Client(cast("Any", _Watched(link, inner, http)), **client_options)
        await client.__aenter__()
        ready = True
        try:
            yield client
        except BaseException as exc:
            raised = exc
        await client.__aexit__(None, None, None)
    except BaseException as exc:
        bare = _sole_cause(exc)
        if not ready and isinstance(bare, Exception):
            link.failing(bare)
        if bare is exc:
            raise
        raise bare from None
    if raised is not None:
        raise raised


@final
class _Streamable:
    """The streamable transport and its HTTP client, which the SDK leaves open."""

    def __init__(self, http: httpx2.AsyncClient, url: str, max_message: int) -> None:
        self._http = http
        options: dict[str, Any] = {"http_client": http}
        if "max_sse_event_size" in inspect.signature(streamable_http.streamable_http_client).parameters:
            options["max_sse_event_size"] = max_message  # since mcp 2.2
        self._inner = streamable_http.streamable_http_client(url, **options)

    async def __aenter__(self) -> Any:
        await self._http.__aenter__()
        try:
            return await self._inner.__aenter__()
        except BaseException as exc:
            await self._http.__aexit__(type(exc), exc, exc.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, exc, traceback)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._http.aclose()


def _sole_cause(exc: BaseException) -> BaseException:
    """The one exception in a group of the SDK's that is about the cause: a broken connection says more than the errors
    of all who waited for it."""
    bare = sole_error(exc)
    if not isinstance(bare, BaseExceptionGroup):
        return bare
    causes = [leaf for leaf in leaves(bare) if isinstance(leaf, httpx2.HTTPError)]
    return causes[0] if causes and len({type(cause) for cause in causes}) == 1 else bare
