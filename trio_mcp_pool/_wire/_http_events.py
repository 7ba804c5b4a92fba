"""The server-sent events that answer a request.

The SDK can read them, but not on Trio without leaving its generators behind half read, which Trio reports for every single
call; it knows a broken stream only by a general error; and it closes the connection after each answer, because it does not
read to the end. So the events are read here and delivered to the session directly, and the SDK is told only that the
answer is done.

A stream that breaks is taken up again where it broke off, as the protocol has it, if the server gives its events ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import final

import httpx2
import trio
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter
from pydantic import ValidationError

from .._errors import MessageTooLargeError
from ._http_answers import DONE_BODY, error_body
from ._http_flight import ABANDONED, Flight
from ._http_sse import Event, EventParser, EventTooLarge

# How long the server may take to end a stream after its answer, so that the connection can be used again.
_DRAIN = 0.1
# What the SDK does too: twice, after as long as the server asks for.
_RESUMES = 2
_RESUME_DELAY = 1.0

Resume = Callable[[str], Awaitable[httpx2.Response]]
"""Asks for the events after the one with this id."""
Deliver = Callable[[SessionMessage], Awaitable[None]]


@final
class AnswerStream(httpx2.AsyncByteStream):
    """Reads the events, delivers them, and gives a body that is only for the SDK.

    Nothing is read before the SDK reads, and whatever happens to the stream becomes a body: no error but a cancellation
    comes out.
    """

    def __init__(
        self,
        response: httpx2.Response,
        flight: Flight,
        limit: int | None,
        *,
        metadata: ClientMessageMetadata | None,
        deliver: Deliver,
        resume: Resume,
        land: Callable[[], None],
    ) -> None:
        self._response = response
        self._flight = flight
        self._limit = limit
        self._metadata = metadata
        self._deliver = deliver
        self._resume = resume
        self._land = land
        self._last_id = ""
        self._delay = _RESUME_DELAY
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        self._over = True
        return await self._read()

    async def aclose(self) -> None:
        self._over = True
        self._land()
        await self._response.aclose()

    async def _read(self) -> bytes:
        flight = self._flight
        if flight.abandoned:
            return error_body(flight.request_id, ABANDONED)
        flight.scope = trio.CancelScope()
        with flight.scope:
            trouble = await self._read_all()
            if trouble is None:
                return DONE_BODY
            return error_body(flight.request_id, trouble)
        return error_body(flight.request_id, ABANDONED)

    async def _read_all(self) -> str | None:
        """Read the answer, over several streams if need be; what went wrong, or `None`."""
        attempts = _RESUMES
        while True:
            cause: Exception | None = None
            try:
                if await self._read_one():
                    return None
            except EventTooLarge:
                return self._too_large()
            except httpx2.HTTPError as exc:
                cause = exc
            await self._response.aclose()
            if not self._last_id:
                why = "the connection broke before the answer" if cause else "the stream ended without an answer"
                self._flight.broke(why, cause)
                return why
            # A stream that came to an ordinary end is taken up as often as the server wants it.
            while attempts > 0:
                await trio.sleep(self._delay)
                try:
                    self._response = await self._resume(self._last_id)
                except httpx2.HTTPError as exc:
                    cause = exc
                    attempts -= 1
                else:
                    attempts = _RESUMES
                    break
            else:
                why = "the stream broke and could not be taken up again"
                self._flight.broke(why, cause)
                return why

    async def _read_one(self) -> bool:
        """Deliver the events of one stream; whether the answer was among them."""
        parser = EventParser(self._limit)
        parts = aiter(self._response.aiter_bytes())
        try:
            while (part := await anext(parts, None)) is not None:
                self._flight.link.heard()
                for event in parser.feed(part):
                    if await self._take(event):
                        with trio.move_on_after(_DRAIN):
                            while await anext(parts, None) is not None:
                                pass
                        return True
            return False
        finally:
            await _unwind(parts)

    async def _take(self, event: Event) -> bool:
        """Whether this event was the answer."""
        if event.id and event.id != self._last_id:
            self._last_id = event.id
            if self._metadata is not None and self._metadata.on_resumption_token_update is not None:
                await self._metadata.on_resumption_token_update(event.id)
        if event.retry is not None:
            self._delay = event.retry
        return event.event == "message" and bool(event.data) and await self._deliver_event(event.data)

    async def _deliver_event(self, data: str) -> bool:
        try:
            message = jsonrpc_message_adapter.validate_json(data, by_name=False)
        except ValidationError:
            # The SDK's word for it, which says where the JSON is wrong, quotes from it.
            message = jsonrpc_message_adapter.validate_json(
                error_body(self._flight.request_id, "An event was no JSON-RPC message."), by_name=False
            )
        if not isinstance(message, JSONRPCResponse | JSONRPCError):
            await self._deliver(SessionMessage(message))
            return False
        # The stream belongs to this request, however the server spells its id.
        message.id = self._flight.request_id
        await self._deliver(SessionMessage(message))
        return True

    def _too_large(self) -> str:
        server = self._flight.link.server
        why = f"a server-sent event exceeded {self._limit} bytes"
        self._flight.fail_with(MessageTooLargeError(f"{server}: {why}", server=server, limit=self._limit))
        return why


async def _unwind(parts: AsyncIterator[object]) -> None:
    """Run the generators to their end. Closing only the outermost would leave those inside for the garbage collector."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            while await anext(parts, None) is not None:
                pass
        except httpx2.HTTPError:
            pass
