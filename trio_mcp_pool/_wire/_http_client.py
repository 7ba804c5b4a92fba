"""The HTTP client of one connection, as the SDK's transports use it.

It is an ordinary client whose `send` is told which JSON-RPC message it carries and for which call. At that height the
authentication flow has had its say already: a 401 that it answers with a fresh token never arrives here.

Requests and notices go ways of their own from here: `_http_requests.py`, `_http_notices.py`.
"""

from __future__ import annotations

import logging
import math
from typing import Any, final

import httpx2
import trio
from mcp_types import JSONRPCRequest

from ._http_answers import SESSION_ID, nothing_to_delete, status_error
from ._http_events import Deliver
from ._http_flight import HeardStream, current_message
from ._http_notices import NoticeSender
from ._http_requests import RequestSender
from ._http_verdict import decisive
from ._link import Call, Link

logger = logging.getLogger("trio_mcp_pool.http")

_CONNECT_TIMEOUT = 30.0
_GOODBYE_TIMEOUT = 2.0
# Shorter than the five seconds after which common servers close an idle connection: a request that crosses with that
# would be lost.
_KEEPALIVE = 4.0


@final
class _QuietURL(httpx2.URL):
    """A URL that does not show its query, which may hold a key."""

    def __str__(self) -> str:
        return super().__str__().partition("?")[0] + ("?***" if self.query else "")


async def _hide_query(request: httpx2.Request) -> None:
    request.url = _QuietURL(request.url)


async def _show_query(response: httpx2.Response) -> None:
    response.request.url = httpx2.URL(response.request.url)


@final
class WireClient(httpx2.AsyncClient):
    """One connection's HTTP client. `over_stream` is for the SSE transport, whose answers come over another stream.

    `limit` is the longest server-sent event in an answer, in bytes.
    """

    def __init__(
        self,
        link: Link,
        dial: Call,
        *,
        headers: dict[str, str],
        auth: httpx2.Auth | None,
        limit: int | None,
        over_stream: bool,
    ) -> None:
        super().__init__(
            headers=headers,
            auth=auth,
            # How long a call may take is for its caller to say, and callers of one session must not wait for each other.
            timeout=httpx2.Timeout(
                None,
                connect=min(link.connect_timeout, _CONNECT_TIMEOUT),
                write=link.write_timeout if link.write_timeout < math.inf else None,
            ),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=_KEEPALIVE),
            # Around the one line that the HTTP library logs. The authentication, which may sign the URL, sees it whole.
            event_hooks={"request": [_hide_query], "response": [_show_query]},
        )
        self.link = link
        self.limit = limit
        self.over_stream = over_stream
        self.has_auth = auth is not None
        self.ready = False
        """Whether the handshake is done. Until then every error is the dial's."""
        self.dial_trouble: Exception | None = None
        """What broke the dial, if not a status."""
        self.requests = RequestSender(self)
        self._notices = NoticeSender(self)
        self._dial = dial
        self._told = False
        self._initialized: trio.Event | None = None
        self._background: trio.Nursery | None = None
        self._deliver: Deliver | None = None
        self._had_stream = False

    # The dial.

    def work_in(self, nursery: trio.Nursery, deliver: Deliver) -> None:
        """Where to send from in the background, and where to put what arrives. Whoever owns the nursery cancels it."""
        self._background = nursery
        self._deliver = deliver

    @property
    def background(self) -> trio.Nursery:
        assert self._background is not None, "the SDK sends nothing before its transport is entered"
        return self._background

    @property
    def deliver(self) -> Deliver:
        assert self._deliver is not None, "the SDK sends nothing before its transport is entered"
        return self._deliver

    def verdict(self, exc: BaseException) -> BaseException:
        """What `exc`, as it came out of the SDK, is about."""
        found = decisive(exc)
        if self.ready or not isinstance(found, Exception):
            return found
        return self._dial.failure or self.dial_trouble or found

    def dial_failed(self, exc: BaseException) -> None:
        """Only cleaning up remains of the dial."""
        if not self.ready and not self._told and isinstance(verdict := self.verdict(exc), Exception):
            self._told = True
            self.link.failing(verdict)

    def expect_initialized(self) -> None:
        """The notice that ends the handshake was handed to the SDK."""
        self._initialized = trio.Event()

    async def wait_initialized(self) -> None:
        """Until the server has taken that notice. Raises what kept it from doing so."""
        if self._initialized is not None:
            await self._initialized.wait()
            if self.dial_trouble is not None:
                raise self.dial_trouble

    # Sending.

    async def send(self, request: httpx2.Request, *args: Any, **kwargs: Any) -> httpx2.Response:
        """Send one request of the SDK's, or answer it in the server's stead."""
        try:
            return await self._send(request, kwargs)
        except Exception as exc:
            if not self.ready and (self.over_stream or request.method == "POST"):
                self.dial_trouble = exc
                # The SDK comes to the same end, but by way of cancelling its tasks.
                self.dial_failed(exc)
            raise

    async def _send(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        if request.method == "DELETE":
            return await self._send_goodbye(request, kwargs)
        if request.method != "POST":
            return await self._send_listen(request, kwargs)
        carried = current_message.get()
        message = None if carried is None else carried.message
        if isinstance(message, JSONRPCRequest):
            return await self.requests.send(request, message.id, kwargs)
        if self.ready or getattr(message, "method", "") == "notifications/cancelled":
            return self._notices.send(request, message)
        return await self._send_initialized(request, kwargs)

    async def plain(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        """Send a request as it is."""
        response = await super().send(request, **kwargs)
        self.link.heard()
        if self.link.phase == "connect":
            self.link.phase = "handshake"
        return response

    async def discard(self, response: httpx2.Response) -> None:
        """Close a response that nobody reads."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await response.aclose()

    def session_lost(self) -> None:
        """The server said that it does not know the session."""
        self.link.lost(ConnectionResetError("the server no longer knows the session"))

    async def _send_initialized(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        try:
            response = await self.plain(request, kwargs)
            if self.over_stream and response.status_code >= 400:
                await self.discard(response)
                raise status_error(self.link.server, response)
            return response
        finally:
            if self._initialized is not None:
                self._initialized.set()

    async def _send_listen(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        response = await self.plain(request, kwargs)
        if response.status_code >= 400:
            if self.over_stream and not self.ready:
                self._dial.failure = status_error(self.link.server, response)
            elif response.status_code == 404 and SESSION_ID in request.headers and self._had_stream:
                # Without a stream before, it may as well be a server that has no streams.
                self.session_lost()
            return response
        self._had_stream = True
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = HeardStream(response.stream, self.link)
        return response

    async def _send_goodbye(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        link = self.link
        patience = min(_GOODBYE_TIMEOUT, link.close_timeout / 2, link.close_by - trio.current_time())
        if link.is_lost or patience <= 0:
            return nothing_to_delete(request)
        with trio.move_on_after(patience):
            try:
                return await super().send(request, **kwargs)
            except Exception as exc:
                logger.debug("%s: the session could not be ended: %s", link.server, type(exc).__name__)
                return nothing_to_delete(request)
        logger.debug("%s: the server did not end the session within %g s", link.server, patience)
        return nothing_to_delete(request)
