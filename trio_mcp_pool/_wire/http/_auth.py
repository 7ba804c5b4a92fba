"""Driving an `httpx2.Auth`: a generator that is given responses and says what to send.

It is made for the HTTP library's client, so it gets request and response objects of that library, built for it. Bodies
are handed to it decoded, without the header that says how they were coded.

The SDK's OAuth provider needs a way of its own. It holds a lock from the moment that it stamps a request until the
response has come, so that twenty callers take twenty times as long. Here its generator is closed once the request is
stamped. When that is refused, a new one is started: if it stamps another token than before, somebody has renewed it
meanwhile, and the request goes again with that; if not, it is given the refusal and may log in. So of fifty callers
with an expired token one renews it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, final

import httpx2
from mcp.client.auth import OAuthClientProvider

from ._address import Address, parse_address
from ._connection import RawHeaders
from ._exchange import Exchange, Sending
from ._failures import BodyTooLarge, HttpFailure
from ._secrets import WatchedAuth

_BODY: Final = 1024 * 1024
"""The longest body that an authentication is given."""
_ROUNDS: Final = 4
"""How often a request is sent again because another caller has renewed the token."""

Flow = AsyncGenerator[httpx2.Request, httpx2.Response]
SendOnce = Callable[[bytes, Address, RawHeaders, bytes, Sending | None, bool], Awaitable[Exchange]]


class AuthenticationFailed(Exception):
    """The authentication gave no credentials. What it raised is the `__cause__`, where it raised anything."""


@final
class AuthFlow:
    """An `httpx2.Auth`, driven over our connections."""

    def __init__(
        self,
        auth: WatchedAuth,
        send: SendOnce,
        fetch: Callable[[httpx2.Request], Awaitable[Exchange]],
        *,
        max_message: int,
    ) -> None:
        self._auth = auth
        self._max_message = max_message
        self._is_oauth = isinstance(auth.inner, OAuthClientProvider)
        self._send_once = send
        self._fetch_once = fetch

    async def send(
        self,
        method: bytes,
        address: Address,
        headers: RawHeaders,
        body: bytes,
        sending: Sending | None,
        standing: bool,
    ) -> Exchange:
        """Send a request with whatever the authentication adds to it. Raises `AuthenticationFailed` and `HttpFailure`."""
        # All headers are there already, and given a stream the library does not look for what might be missing.
        request = httpx2.Request(method.decode("ascii"), address.url, headers=headers, stream=httpx2.ByteStream(body))
        request.read()
        url = request.url

        async def send(stamped: httpx2.Request) -> Exchange:
            # It may have signed the URL.
            target = address if stamped.url is url else parse_address(stamped.url)
            return await self._send_once(method, target, list(stamped.headers.raw), body, sending, standing)

        def again() -> None:
            if sending is not None:
                sending.refused()

        if self._is_oauth:
            return await self._send_with_oauth(request, send, again)
        return await self._send_with_any(request, send, again)

    # Any authentication: its generator is open as long as the HTTP library would have it open.

    async def _send_with_any(
        self, request: httpx2.Request, send: Callable[[httpx2.Request], Awaitable[Exchange]], again: Callable[[], None]
    ) -> Exchange:
        flow = self._auth.async_auth_flow(request)
        response: Exchange | None = None
        try:
            out = await _step(flow, None)
            while out is not None:
                if response is not None:
                    await response.discard()
                    again()
                    response = None
                if out is request or (out.method == request.method and out.url == request.url):
                    response = await send(out)
                    answer = await self._response(out, response, whole=self._auth.requires_response_body)
                else:
                    answer = await self._fetch(out)
                out = await _step(flow, answer)
        except BaseException:
            if response is not None:
                response.abort()
            raise
        finally:
            await flow.aclose()  # noqa: ASYNC102 (a generator that was told to end awaits nothing that lasts)
        if response is None:
            raise AuthenticationFailed("the authentication ended without sending the request")
        return response

    # The SDK's OAuth provider.

    async def _send_with_oauth(
        self, request: httpx2.Request, send: Callable[[httpx2.Request], Awaitable[Exchange]], again: Callable[[], None]
    ) -> Exchange:
        await self._stamp(request)
        logged_in = False
        for _ in range(_ROUNDS):
            stamp = request.headers.get("authorization")
            response = await send(request)
            if not _is_challenge(response) or logged_in:
                return response
            again()  # before a person is asked to log in, which may take its time
            try:
                logged_in = await self._renew(request, response, stamp)
            except BaseException:
                response.abort()
                raise
            await response.discard()
        return await send(request)

    async def _stamp(self, request: httpx2.Request) -> None:
        """Let it put its token on the request, and renew that first if it has expired."""
        flow = self._auth.async_auth_flow(request)
        try:
            await self._run_to(flow, await _step(flow, None), request)
        finally:
            await flow.aclose()  # noqa: ASYNC102 (as above)

    async def _renew(self, request: httpx2.Request, response: Exchange, stamp: str | None) -> bool:
        """After a refusal: put another token on the request. Whether that took a login."""
        flow = self._auth.async_auth_flow(request)
        try:
            await self._run_to(flow, await _step(flow, None), request)
            if request.headers.get("authorization") != stamp:
                return False
            refusal = await self._response(request, response, whole=True)
            await self._run_to(flow, await _step(flow, refusal), request)
            return True
        finally:
            await flow.aclose()  # noqa: ASYNC102 (as above)

    async def _run_to(self, flow: Flow, out: httpx2.Request | None, request: httpx2.Request) -> None:
        """Send what it wants to be sent until it comes to the request itself."""
        while out is not request:
            if out is None:
                raise AuthenticationFailed("the authentication ended without new credentials")
            out = await _step(flow, await self._fetch(out))

    # Requests and responses.

    async def _fetch(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._response(request, await self._fetch_once(request), whole=True)
        except HttpFailure as exc:
            raise AuthenticationFailed(f"a request of the authentication failed: {exc}") from None
        except ValueError:
            raise AuthenticationFailed("a request of the authentication has no URL that can be read") from None

    async def _response(self, request: httpx2.Request, response: Exchange, *, whole: bool) -> httpx2.Response:
        """A response as the HTTP library would hand it over. The body of an answer that the caller waits for is not
        read for it, unless it asks for that; the events of a stream never are."""
        content: bytes | None = None
        if response.status >= 300 or (whole and response.head.media_type != b"text/event-stream"):
            try:
                content = await response.read(_BODY if response.status >= 300 else self._max_message)
            except BodyTooLarge:
                raise AuthenticationFailed("an answer is too long for the authentication to be given it") from None
        headers = [
            (name, value)
            for name, value in response.head.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        if content is None:
            unread = httpx2.ByteStream(b"")
            return httpx2.Response(response.status, headers=headers, stream=unread, request=request)
        answer = httpx2.Response(response.status, headers=headers, content=content, request=request)
        if 300 <= response.status < 400:
            answer.next_request = _next_request(request, answer)
        return answer


async def _step(flow: Flow, answer: httpx2.Response | None) -> httpx2.Request | None:
    """The next request that it wants to be sent; `None` when it has ended."""
    try:
        return await (flow.__anext__() if answer is None else flow.asend(answer))
    except StopAsyncIteration:
        return None
    except Exception as exc:
        raise AuthenticationFailed(f"the authentication failed ({type(exc).__name__})") from exc


def _is_challenge(response: Exchange) -> bool:
    """Whether the OAuth provider has something to say to it: no valid token, or one that allows too little."""
    if response.status == 401:
        return True
    return response.status == 403 and "insufficient_scope" in response.head.get(b"www-authenticate")


def _next_request(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Request | None:
    """Where a redirect leads, as the HTTP library would follow it."""
    if not answer.has_redirect_location:
        return None
    try:
        url = request.url.join(answer.headers["location"])
    except Exception:
        return None
    keeps = answer.status_code in (307, 308) or request.method in ("GET", "HEAD")
    headers = httpx2.Headers(request.headers)
    if (url.scheme, url.host, url.port) != (request.url.scheme, request.url.host, request.url.port):
        headers.pop("authorization", None)
    headers.pop("host", None)
    if keeps:
        return httpx2.Request(request.method, url, headers=headers, content=request.content)
    for name in ("content-length", "content-type", "transfer-encoding"):
        headers.pop(name, None)
    return httpx2.Request("GET", url, headers=headers)
