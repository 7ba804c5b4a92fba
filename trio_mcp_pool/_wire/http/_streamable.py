"""Streamable HTTP, in both protocol eras: one POST for each request, whose response is its answer or a stream of events
with it.

In the handshake eras there is a session, named by a header, a standing GET stream for what the server sends unasked,
and resumption of broken streams. The modern era has none of them: a closed connection is the cancellation, and every
request says its era in its headers.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, final

import mcp
import outcome
import trio
from mcp_types import METHOD_NOT_FOUND, RequestId
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..._errors import AuthenticationError, HttpStatusError, InvalidResultError, OutcomeUnknownError, PoolError
from ..jsonrpc._long import cut_long_strings
from ..jsonrpc._messages import connection_closed, encode, invalid_answer
from ..jsonrpc._outbound import Request
from ._answer_stream import AnswerStream
from ._auth import AuthenticationFailed
from ._client import HttpClient
from ._connection import RawHeaders
from ._delivery import CutOff, Delivery
from ._dispatcher import HttpDispatcher
from ._exchange import Exchange
from ._failures import BodyTooLarge, ConnectionBroke, HttpFailure
from ._messages import Answer, Observer
from ._standing import StandingStream
from ._status import OUTAGE

if TYPE_CHECKING:
    from .._seam import CallOptions

logger = logging.getLogger("trio_mcp_pool.wire")

VERSION: Final = "mcp-protocol-version"
_RESUMES: Final = 2
"""How often in a row a broken stream is asked for in vain."""
_ACCEPT: Final[RawHeaders] = [
    (b"accept", b"application/json, text/event-stream"),
    (b"content-type", b"application/json"),
]
_LISTEN: Final = "subscriptions/listen"


@final
class StreamableDispatcher(HttpDispatcher):
    """The SDK's `Dispatcher` protocol over streamable HTTP."""

    transport = "streamable-http"

    def __init__(self, client: HttpClient, *, max_message: int, max_values: int, observer: Observer | None) -> None:
        super().__init__(client, max_message=max_message, max_values=max_values, observer=observer)
        self.session_id: bytes | None = None
        self._version: str | None = None
        self._standing: StandingStream | None = None
        self._accepted: set[RequestId] = set()
        self._refusal: PoolError | None = None
        """What the server said to the modern era's first request, while the handshake is tried instead."""

    @property
    def has_session(self) -> bool:
        return self.session_id is not None

    @property
    def cancels_by_notice(self) -> bool:
        return self._version not in MODERN_PROTOCOL_VERSIONS

    # Headers.

    def headers(self, own: RawHeaders = _ACCEPT, options: CallOptions | None = None) -> RawHeaders:
        """The headers of one request beside the server's own."""
        headers = list(own)
        if self.session_id is not None:
            headers.append((b"mcp-session-id", self.session_id))
        given = options.get("headers") if options else None
        if given:
            for name, value in given.items():
                headers.append((name.lower().encode("ascii"), value.encode("latin-1")))
        if self._version is not None and (not given or VERSION not in given):
            headers.append((b"mcp-protocol-version", self._version.encode("ascii")))
        return headers

    def note_era(self, options: CallOptions | None) -> None:
        """The era of what passes through the SDK's session becomes that of what does not: streams, notices, the DELETE."""
        given = options.get("headers") if options else None
        if given:
            self._version = given.get(VERSION, self._version)

    # Requests.

    async def carry(self, request: Request) -> dict[str, Any]:
        self.check_running()
        if request.method == "initialize":
            # The negotiation itself belongs to no era, and leaves behind what the modern one's first request has said.
            self._version = self.session_id = None
        else:
            self.note_era(request.options)
        delivery = Delivery(request)
        try:
            answer = await self._exchange(request, delivery)
        except CutOff:
            await trio.lowlevel.checkpoint()
            raise connection_closed() from None
        except (HttpFailure, BodyTooLarge, AuthenticationFailed) as exc:
            if isinstance(exc, AuthenticationFailed):
                self.unwritten(request, delivery.written_before)
            error = self.failure(exc, delivery.written_before)
            if error is exc:
                raise
            raise error from error.__cause__
        if not self.ready:
            answer = self._judge_dial(request, answer)
        return await self.give(request, answer)

    async def _exchange(self, request: Request, delivery: Delivery) -> Answer:
        token = request.options.get("resumption_token")
        if token is not None:
            return await self._resume_from(request, token)
        response = await self.client.send(
            b"POST",
            self.client.address,
            self.headers(options=request.options),
            encode(request.message),
            sending=delivery,
            standing=request.method == _LISTEN,
        )
        try:
            status = response.status
            if status == 200 or (200 < status < 300 and status != 202):
                if request.method == "initialize":
                    self._note_session(response)
                kind = response.head.media_type
                if kind == b"application/json":
                    body = await response.read(self.messages.max_message)
                    self.link.heard()
                    cut = await cut_long_strings(body, trio.lowlevel.checkpoint)
                    return self.messages.read_body(body, request, self, copy_context(), cut)
                if kind == b"text/event-stream":
                    return await self._read_stream(response, request)
            elif status == 202:
                await response.discard()
                return await self._wait_standing(request)
            return await self.judge(request, response, delivery.written_before)
        finally:
            response.abort()

    def _note_session(self, response: Exchange) -> None:
        session_id = response.head.headers.get(b"mcp-session-id")
        if session_id and not all(0x21 <= byte <= 0x7E for byte in session_id):
            raise invalid_answer(self.link.server, "with a session id that is not of visible ASCII characters")
        self.session_id = session_id or None

    def _judge_dial(self, request: Request, answer: Answer) -> Answer:
        """Let the SDK fall back to the handshake where it should, and say why where that was refused, too."""
        error = answer.error if isinstance(answer, outcome.Error) else None
        status = getattr(error, "status", None)
        if request.method == "server/discover":
            if isinstance(error, HttpStatusError | AuthenticationError) and status != 401 and status not in OUTAGE:
                self._refusal = error
                return outcome.Error(mcp.MCPError(METHOD_NOT_FOUND, f"HTTP {status}"))
        elif request.method == "initialize" and error is not None and self._refusal is not None:
            first = getattr(self._refusal, "status", 0)
            says_more = first == 403 or first >= 500
            if says_more and (isinstance(error, mcp.MCPError) or status in (400, 404, 405)):
                return outcome.Error(self._refusal)
        return answer

    # A stream of events.

    async def _read_stream(self, response: Exchange, request: Request) -> Answer:
        """The answer on a stream, over several connections if need be: one that breaks is resumed where the server
        allows it."""
        reading = AnswerStream(self, request)
        failures = 0
        while True:
            broke: HttpFailure | None = None
            try:
                answer = await reading.read(response)
            except HttpFailure as exc:
                answer, broke = None, exc
            if answer is not None:
                response.release()
                return answer
            response.abort()
            if not reading.last_id or self._version in MODERN_PROTOCOL_VERSIONS:
                raise broke or ConnectionBroke("the stream of events ended without the answer")
            while True:
                await trio.sleep(reading.delay)
                try:
                    response = await self._resume(reading.last_id)
                except HttpFailure:
                    failures += 1
                else:
                    if response.status == 200 and response.head.media_type == b"text/event-stream":
                        failures = 0
                        break
                    forgotten = response.status == 404 and self.session_id is not None and self.ready
                    await response.discard()
                    response.abort()
                    if forgotten:
                        self.session_lost()
                        raise ConnectionBroke("the server no longer knows the session")
                    failures += 1
                if failures >= _RESUMES:
                    raise ConnectionBroke("the stream of events broke and could not be resumed")

    async def _resume_from(self, request: Request, token: str) -> Answer:
        """Take up the answer to a request of an earlier session."""
        response = await self._resume(token.encode())
        try:
            if response.status == 200 and response.head.media_type == b"text/event-stream":
                return await self._read_stream(response, request)
            return await self.judge(request, response, False)
        finally:
            response.abort()

    async def _resume(self, last_id: bytes) -> Exchange:
        return await self.open_stream(last_id)

    async def open_stream(self, last_id: bytes) -> Exchange:
        """A GET for a stream of events, from the one after that id on."""
        own: RawHeaders = [(b"accept", b"text/event-stream"), (b"cache-control", b"no-store")]
        if last_id:
            own.append((b"last-event-id", last_id))
        return await self.client.send(b"GET", self.client.address, self.headers(own), standing=True)

    # What comes some other way.

    async def _wait_standing(self, request: Request) -> Answer:
        """The server has only accepted the request. Its answer can come on the standing stream, if there is one."""
        if self._standing is None or not self._standing.is_open:
            server = self.link.server
            return outcome.Error(
                InvalidResultError(f"server {server!r} answered a request with HTTP 202 and no answer", server=server)
            )
        self._accepted.add(request.key)
        try:
            return outcome.Value(await self.outbound.park(request, lambda _: False))
        except (mcp.MCPError, PoolError) as exc:
            return outcome.Error(exc)
        finally:
            self._accepted.discard(request.key)

    def resolve_unasked(self, key: RequestId, answer: Answer) -> bool:
        """A response came on the standing stream: it may be for a request that was only accepted."""
        if key not in self._accepted:
            return False
        self.inbound.turns.answer(lambda: self.outbound.resolve(key, answer))
        return True

    def standing_ended(self) -> None:
        """The standing stream will not come back."""
        for key in list(self._accepted):
            server = self.link.server
            error = OutcomeUnknownError(
                f"server {server!r}: the request was accepted, but the stream ended on which its answer was to come",
                server=server,
            )
            self.outbound.resolve(key, outcome.Error(error))

    # Notices and the rest of a session's life.

    async def post(self, data: bytes) -> Exchange:
        return await self.client.send(b"POST", self.client.address, self.headers(), data)

    async def _initialized(self, data: bytes) -> None:
        await super()._initialized(data)
        if self.session_id is not None and self.nursery is not None:
            self.link.hears_unasked = trio.Event()
            self._standing = StandingStream(self, self, self.link.hears_unasked)
            self.nursery.start_soon(self._standing.run)

    async def listen(self, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()

    async def end_session(self, timeout: float) -> None:
        """Ask the server to forget the session, in that many seconds and not more. Raises nothing but a cancellation."""
        if self._standing is not None:
            self._standing.stop()
        if self.session_id is None or self.link.is_lost or timeout <= 0:
            return
        with trio.move_on_after(timeout) as scope:
            try:
                response = await self.client.send(b"DELETE", self.client.address, self.headers([]))
                await response.discard()
                response.abort()
            except Exception as exc:
                logger.debug("server %s: its session could not be ended: %s", self.link.server, type(exc).__name__)
        if scope.cancelled_caught:
            logger.debug("server %s: it did not end the session within %g s", self.link.server, timeout)
