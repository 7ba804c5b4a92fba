"""One request on its way over HTTP: what was sent of it, what went wrong, and how it is called back.

The pool may send a request again if and only if nothing of it can have run. So a flight watches the body: a call counts
as written from the moment that its body begins to go out, and ceases to if the operating system did not take the whole
of it, because a server cannot run half a message. A call that was cut off before that moment is never sent at all:
somebody may have been told already that it was not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import final

import httpx2
import trio
from mcp.shared.message import SessionMessage
from mcp_types import RequestId

from .._errors import OutcomeUnknownError, PoolError, SessionLostError
from ._link import Call, Link

current_message: ContextVar[SessionMessage | None] = ContextVar("trio_mcp_pool_http_message", default=None)
"""The message that the SDK's current task sends."""

ABANDONED = "The caller has gone."


class CutOff(Exception):
    """The call was ended before its body went out."""


@final
class Flight:
    """A JSON-RPC request, from the POST until its answer is complete."""

    def __init__(self, link: Link, call: Call, request_id: RequestId, *, dialling: bool) -> None:
        self.link = link
        self.call = call
        self.request_id = request_id
        self.sent = False
        """Whether the whole body was taken by the operating system."""
        self.abandoned = False
        """Whether nobody waits for the answer any more."""
        self.scope = trio.CancelScope()
        """Around whatever is awaited from the network on behalf of this flight."""
        self.trouble: Exception | None = None
        """What broke the answer, as it is. A dial tells it as it is."""
        self._dialling = dialling
        # An earlier request of the same call may have run, whatever becomes of this one.
        self._written_before = call.written
        if not call.scope.cancel_called:
            # What an earlier request of the same call ran into, or this one on its way through a redirect, is past.
            call.failure = None

    def check(self) -> None:
        """Refuse to send for a call that has been ended."""
        if self.abandoned or self.call.scope.cancel_called or self.link.is_lost or self.link.leaving:
            raise CutOff

    def sending(self) -> None:
        """The body begins to go out."""
        self.check()
        self.call.written = True

    def all_sent(self) -> None:
        """The body went out."""
        self.sent = True
        if self.link.phase == "connect":
            self.link.phase = "handshake"

    def settle_written(self) -> None:
        """The attempt is over: a body that did not go out whole does not count."""
        if not self.sent:
            self.call.written = self._written_before

    def refused(self) -> None:
        """The server took the request and did not run it."""
        self.call.written = self._written_before

    def failure(self, why: str) -> PoolError:
        """The error for this request now that no answer will come."""
        server = self.link.server
        if self.call.written:
            return OutcomeUnknownError(f"{server}: the request was sent, but {why}", server=server)
        return SessionLostError(f"{server}: the request was not sent: {why}", server=server)

    def broke(self, why: str, cause: Exception | None) -> None:
        """No answer will come."""
        self.settle_written()
        self.trouble = cause or httpx2.RemoteProtocolError(why)
        if not self._dialling:
            self.fail_with(self.failure(why), cause)

    def fail_with(self, error: PoolError, cause: Exception | None = None) -> None:
        """Leave the error on the call."""
        if self.call.failure is None:
            error.__cause__ = cause
            self.call.failure = error

    def abandon(self) -> None:
        """Nobody waits for the answer any more: stop what is awaited for it."""
        self.abandoned = True
        self.scope.cancel(reason=ABANDONED)


@final
class FlightBody(httpx2.AsyncByteStream):
    """The body of a request, which tells the flight how much of it went out.

    Each attempt iterates anew. The iterator is no generator: one that a broken connection leaves half read would be
    reported by Trio.
    """

    def __init__(self, request: httpx2.Request, flight: Flight) -> None:
        # A redirect carries the body of the first attempt on, and has no content of its own.
        stream = request.stream
        self._content: bytes = stream._content if isinstance(stream, FlightBody) else request.content
        self._flight = flight

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Attempt(self._content, self._flight)


@final
class _Attempt:
    def __init__(self, content: bytes, flight: Flight) -> None:
        self._content: bytes | None = content
        self._flight = flight

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if content is None:
            # The HTTP library asks again when the operating system has taken the whole.
            self._flight.all_sent()
            raise StopAsyncIteration
        self._flight.sending()
        return content


@final
class HeardStream(httpx2.AsyncByteStream):
    """The body of a response, which tells the link that bytes arrived."""

    def __init__(self, body: httpx2.AsyncByteStream, link: Link) -> None:
        self._body = body
        self._link = link
        self._parts: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts = aiter(self._body)
        return self

    async def __anext__(self) -> bytes:
        assert self._parts is not None
        part = await anext(self._parts)
        self._link.heard()
        return part

    async def aclose(self) -> None:
        await self._body.aclose()
