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
from ._address import Address, parse_address
from ._connection import Head
from ._credentials import Resolve
from ._dialling import tcp_trouble, tls_trouble
from ._failures import ConnectFailed
from ._secrets import WatchedAuth
from ._status import status_error

_GOODBYE: Final = 2.0
_CONNECT: Final = 30.0
_MCP: Final = (b"application/json", b"text/event-stream")
_STAND_INS: Final = ("Not Found", "Session terminated", "Server returned an error response", "Unexpected content type")
"""What the SDK says in place of an answer that is no message."""


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

    address = parse_address(url)
    dial = _Dial(link, address, transport)

    async def watch(response: httpx2.Response) -> None:
        link.heard()
        dial.note(response)
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
            bare = dial.error(bare)
            link.failing(bare)
        if bare is exc:
            raise
        raise bare from None
    if raised is not None:
        raise raised


@final
class _Dial:
    """What the server's answers say of a dial that has failed. The SDK keeps neither address nor status nor headers."""

    def __init__(self, link: Link, address: Address, transport: Literal["streamable-http", "sse"]) -> None:
        self._link = link
        self._address = address
        self._transport = transport
        self._refusal: Head | None = None
        """The head of the last answer, where it is none that MCP knows."""

    def note(self, response: httpx2.Response) -> None:
        """An answer has come."""
        if self._transport == "sse" or response.request.method == "POST":
            head = Head(response.status_code, response.headers.raw)
            known = 200 <= head.status < 300 and (head.media_type in _MCP or head.status == 202)
            self._refusal = None if known else head

    def error(self, exc: Exception) -> Exception:
        """What is known of the failure, instead of what the SDK made of it."""
        head = self._refusal
        if head is not None and isinstance(exc, httpx2.HTTPStatusError | httpx2.SSEError | mcp.MCPError):
            if isinstance(exc, mcp.MCPError) and head.status != 401 and not exc.message.startswith(_STAND_INS):
                return exc  # the server's own words
            return status_error(
                self._link, self._address, head, transport=self._transport, dialling=True, written_before=False
            )
        if isinstance(exc, httpx2.ConnectError):
            return ConnectFailed(self._unreached(exc))
        return exc

    def _unreached(self, exc: httpx2.ConnectError) -> str:
        origin = self._address.origin
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return f"{origin}: TLS failed: {tls_trouble(cause)}"
            if isinstance(cause, OSError):
                return tcp_trouble(origin.authority, cause)
            cause = cause.__cause__ or cause.__context__
        return f"{origin} could not be reached"


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
