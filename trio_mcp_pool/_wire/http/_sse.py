"""The older SSE transport: one GET stream, on which everything comes from the server, and a POST for each message to
it.

The stream is the session: its end is the session's death (R11). A request's answer may come on it before the response
to its POST does, and then nobody waits for that any longer.
"""

from __future__ import annotations

from typing import Any, Final, final
from urllib.parse import urljoin

import outcome
import trio
from mcp_types import RequestId

from ..jsonrpc._messages import connection_closed, encode, invalid_answer
from ..jsonrpc._outbound import Request
from ._address import Address, parse_address
from ._auth import AuthenticationFailed
from ._connection import RawHeaders
from ._delivery import CutOff, Delivery
from ._dispatcher import HttpDispatcher
from ._events import MANY, SLICE, Event, EventParser
from ._exchange import Exchange
from ._failures import BodyTooLarge, ConnectionBroke, HttpFailure
from ._messages import Answer

_STREAM: Final[RawHeaders] = [(b"accept", b"text/event-stream"), (b"cache-control", b"no-store")]
_POST: Final[RawHeaders] = [(b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")]


@final
class SseDispatcher(HttpDispatcher):
    """The SDK's `Dispatcher` protocol over the SSE transport."""

    transport = "sse"

    _endpoint: Address | None = None
    """Where messages are sent to, as the server has said."""

    @property
    def has_session(self) -> bool:
        return True

    # Requests.

    async def carry(self, request: Request) -> dict[str, Any]:
        self.check_running()
        delivery = Delivery(request)
        posting = _Posting()
        request.out = posting
        failed: Answer | None = None
        with posting.scope:
            try:
                failed = await self._post_request(request, delivery)
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
        if posting.answer is not None:
            return await self.give(request, posting.answer)
        if failed is not None:
            return await self.give(request, failed)
        if self.outbound.closed:
            raise connection_closed()
        posting.posted = True
        return await self.outbound.park(request, lambda _: False)

    async def _post_request(self, request: Request, delivery: Delivery) -> Answer | None:
        """Post it; the answer only where that failed."""
        assert self._endpoint is not None
        response = await self.client.send(b"POST", self._endpoint, _POST, encode(request.message), sending=delivery)
        try:
            if 200 <= response.status < 300:
                await response.discard()
                return None
            return await self.judge(request, response, delivery.written_before)
        finally:
            response.abort()

    def _resolve(self, key: RequestId, answer: Answer) -> bool:
        request = self.outbound.pending.get(key)
        if request is None:
            return False
        posting: _Posting = request.out
        if posting.posted:
            self.inbound.turns.answer(lambda: self.outbound.resolve(key, answer))
        elif posting.answer is None:
            posting.answer = answer
            posting.scope.cancel(reason="the answer has come")
        return True

    async def post(self, data: bytes) -> Exchange:
        assert self._endpoint is not None
        return await self.client.send(b"POST", self._endpoint, _POST, data)

    async def end_session(self, timeout: float) -> None:
        """There is nothing to ask for: the end of the stream is the end of the session."""
        await trio.lowlevel.checkpoint()

    # The stream.

    async def listen(self, nursery: trio.Nursery) -> None:
        """Open the stream and wait until it says where messages go. Raises what keeps it from that."""
        try:
            response = await self.client.send(b"GET", self.client.address, _STREAM, standing=True)
            try:
                reading = await self._open(response)
            except BaseException:
                response.abort()
                raise
        except (HttpFailure, AuthenticationFailed) as exc:
            error = self.failure(exc, False)
            raise error from error.__cause__
        nursery.start_soon(self._read, response, reading)

    async def _open(self, response: Exchange) -> _Stream:
        if response.status != 200 or response.head.media_type != b"text/event-stream":
            raise self.status_error(response, written_before=False)
        reading = _Stream(self, response)
        while self._endpoint is None:
            if not await reading.read_some():
                raise ConnectionBroke("the stream of events ended before it said where to send messages")
        return reading

    async def _read(self, response: Exchange, reading: _Stream) -> None:
        cause: Exception | None = None
        try:
            while await reading.read_some():
                pass
        except HttpFailure as exc:
            cause = exc
        finally:
            response.abort()
        self.link.lost(cause)
        self.inbound.stop()
        self.outbound.close()

    def on_event(self, event: Event) -> None:
        """One event of the stream. Raises `InvalidResultError` for a place to send messages to that is another server's."""
        if event.event == b"endpoint":
            if self._endpoint is None:
                self._endpoint = self._place(event.data)
        else:
            self.messages.read_unasked(event, self, self._resolve)

    def _place(self, data: bytes) -> Address:
        ours = self.client.address
        base = str(ours.origin) + ours.target.decode("ascii", "replace")
        try:
            place = parse_address(urljoin(base, data.decode("utf-8", "replace")))
        except ValueError:
            place = None
        if place is None or place.origin != ours.origin:
            raise invalid_answer(self.link.server, "that names another origin to send messages to")
        return place


class _Posting:
    """A request whose POST is under way, or was accepted."""

    __slots__ = ("answer", "posted", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.answer: outcome.Outcome[dict[str, Any]] | None = None
        """The answer, where it came before the response."""
        self.posted = False


@final
class _Stream:
    """Reads the stream, piece by piece."""

    def __init__(self, dispatcher: SseDispatcher, response: Exchange) -> None:
        self._dispatcher = dispatcher
        self._response = response
        self._parser = EventParser(dispatcher.messages.max_message)

    async def read_some(self) -> bool:
        """Deliver what comes next; `False` at the end of the stream."""
        piece = await self._response.read_piece()
        if piece is None:
            return False
        dispatcher = self._dispatcher
        dispatcher.link.heard()
        for start in range(0, len(piece), SLICE):
            events = self._parser.feed(piece[start : start + SLICE])
            for event in events:
                await event.read_ahead()
                dispatcher.on_event(event)
                if dispatcher.inbound.turns.full:
                    await dispatcher.inbound.turns.wait_room()
            if len(events) > MANY:
                await trio.lowlevel.checkpoint()
        return True
