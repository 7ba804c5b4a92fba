"""What must not be shown of requests and of what an authentication exchanges (R16).

Headers and URLs are the user's, so all that may be secret in them is known before anything is sent. What an `httpx2.Auth`
puts on a request is known only when it has done so: `WatchedAuth` stands around it and notes what it adds to a request, what
it sends to an authorization server, and the tokens that it gets from there. Without that, an error of its own would show
them, or a server that repeats a token in its refusal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final, final
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx2

from .._link import Link

_OF_FORMS: Final = frozenset(
    {"assertion", "client_assertion", "client_secret", "code", "code_verifier", "password", "refresh_token", "token"}
)
_OF_ANSWERS: Final = frozenset({"access_token", "client_secret", "id_token", "refresh_token"})
_READ_AT_MOST: Final = 65536
"""Bytes of a body that may hold tokens. A longer one is none of an authorization server."""


def header_secrets(headers: Mapping[str, str]) -> Iterator[str]:
    """What is to be masked of headers."""
    for value in headers.values():
        yield from _parts(value)


def url_secrets(url: str) -> Iterator[str]:
    """What is to be masked of a URL: user name, password, query."""
    parts = urlsplit(url)
    for part in filter(None, (parts.username, parts.password, parts.query)):
        yield part
        yield unquote(part)
    for _, value in parse_qsl(parts.query):
        yield value


def _parts(value: str) -> Iterator[str]:
    yield value
    yield value.partition(" ")[2]  # a server that refuses `Bearer TOKEN` quotes the token alone


@final
class WatchedAuth(httpx2.Auth):
    """Another authentication, with its secrets noted on a link."""

    def __init__(self, inner: httpx2.Auth, link: Link) -> None:
        self.inner: Final = inner
        self.requires_request_body = inner.requires_request_body
        self.requires_response_body = inner.requires_response_body
        self._link = link

    async def async_auth_flow(  # noqa: ASYNC900 (the library's interface; whoever drives it closes it)
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """As that of the other one."""
        headers, url = frozenset(request.headers.raw), request.url
        flow = self.inner.async_auth_flow(request)
        try:
            out = await flow.__anext__()
            while True:
                if out is request or out.url == url:
                    self._note_stamp(out, headers, url)
                    answer = yield out
                else:
                    self._note(_secrets_of_form(out))
                    answer = yield out
                    self._note(_secrets_of_answer(answer))
                out = await flow.asend(answer)
        except StopAsyncIteration:
            return
        finally:
            await flow.aclose()  # noqa: ASYNC102 (a generator that was told to end awaits nothing that lasts)

    def _note_stamp(self, out: httpx2.Request, headers: frozenset[tuple[bytes, bytes]], url: httpx2.URL) -> None:
        for pair in out.headers.raw:
            if pair not in headers:
                self._note(_parts(pair[1].decode("latin-1")))
        if out.url is not url and out.url != url:
            self._note(url_secrets(str(out.url)))

    def _note(self, values: Iterator[str]) -> None:
        self._link.keep_passing_secret(values)


def _secrets_of_form(request: httpx2.Request) -> Iterator[str]:
    for name, value in request.headers.items():
        if name in ("authorization", "proxy-authorization", "cookie"):
            yield from _parts(value)
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        try:
            body = request.content
        except httpx2.RequestNotRead:
            return
        yield from (value for name, value in parse_qsl(body[:_READ_AT_MOST].decode("latin-1")) if name in _OF_FORMS)


def _secrets_of_answer(answer: httpx2.Response) -> Iterator[str]:
    try:
        content = answer.content
        found: Any = answer.json() if 0 < len(content) <= _READ_AT_MOST else None
    except (httpx2.ResponseNotRead, ValueError):
        return
    if isinstance(found, dict):
        yield from (value for name, value in found.items() if name in _OF_ANSWERS and isinstance(value, str))
