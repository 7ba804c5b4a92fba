"""The standing GET stream of the handshake eras, on which the server sends what nobody has asked for.

It comes and goes: servers and proxies end it, and it is opened again, with the id of the last event where there was
one. Its end is no death; a server that answers 404 to the session's id, where it had streams before, has forgotten the
session.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol, final

import trio
from mcp_types import RequestId

from ._dispatcher import HttpDispatcher
from ._events import MANY, SLICE, EventParser
from ._exchange import Exchange
from ._failures import HttpFailure
from ._messages import Answer

logger = logging.getLogger("trio_mcp_pool.wire")

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 30.0
_SHORTEST_DELAY: Final = 0.01
_SOUND: Final = 10.0
"""A stream that stood for so many seconds was a good one: the next delay is the first again."""


class StreamOwner(Protocol):
    """What the stream needs of the transport that opens it."""

    async def open_stream(self, last_id: bytes) -> Exchange:
        """A GET for a stream of events, from the one after that id on."""

    def resolve_unasked(self, key: RequestId, answer: Answer) -> bool:
        """A response came on the stream. Returns whether a request waits for it."""

    def standing_ended(self) -> None:
        """The stream will not come back."""


@final
class StandingStream:
    """Opened by a task of the session's own, which runs until the server has no such stream, or the session ends."""

    def __init__(self, dispatcher: HttpDispatcher, owner: StreamOwner, tried: trio.Event) -> None:
        """`tried` is set when the first attempt has come to an end, one way or the other."""
        self.is_open = False
        """Whether it stands, or is about to stand again."""
        self._dispatcher = dispatcher
        self._owner = owner
        self._tried = tried
        self._last_id = b""
        self._retry: float | None = None
        self._had_one = False
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Close it for good. Synchronous."""
        self._scope.cancel(reason="the session is left")

    async def run(self) -> None:
        """Keep the stream open. Raises nothing but a cancellation."""
        with self._scope:
            await self._run()

    async def _run(self) -> None:
        link = self._dispatcher.link
        delay = _FIRST_DELAY
        try:
            while not link.is_lost:
                began = trio.current_time()
                broke = True
                try:
                    response = await self._owner.open_stream(self._last_id)
                except Exception as exc:
                    logger.debug("server %s: its standing stream failed with %s", link.server, type(exc).__name__)
                else:
                    try:
                        if not self._is_stream(response):
                            return
                        self._tried.set()
                        broke = not await self._read(response)
                    finally:
                        response.abort()
                self._tried.set()
                lived = trio.current_time() - began
                if lived >= _SOUND:
                    delay = _FIRST_DELAY
                    if broke:
                        # A server that has died under it is found out by the next request, so that is made at once.
                        continue
                await trio.sleep(delay if self._retry is None else max(self._retry, _SHORTEST_DELAY))
                delay = min(_LONGEST_DELAY, delay * 2)
        finally:
            self.is_open = False
            self._tried.set()
            self._owner.standing_ended()

    def _is_stream(self, response: Exchange) -> bool:
        """Whether the server has opened one. Where not, it is not asked again, unless it is only out of order."""
        status = response.status
        if status == 200 and response.head.media_type == b"text/event-stream":
            self._had_one = self.is_open = True
            return True
        if status == 404 and self._had_one:
            # Without a stream before, it may as well be a server that has no streams.
            self._dispatcher.session_lost()
            return False
        if self._had_one and status >= 400 and status != 405:
            self._dispatcher.suspect(status)
        logger.debug("server %s: it has no standing stream (HTTP %d)", self._dispatcher.link.server, status)
        return self._had_one and status >= 500

    async def _read(self, response: Exchange) -> bool:
        """Deliver its events; whether it came to an orderly end."""
        if response.status != 200:
            return False
        dispatcher = self._dispatcher
        parser = EventParser(dispatcher.messages.max_message)
        try:
            while (piece := await response.read_piece()) is not None:
                dispatcher.link.heard()
                for start in range(0, len(piece), SLICE):
                    events = parser.feed(piece[start : start + SLICE])
                    for event in events:
                        await event.read_ahead()
                        if event.id:
                            self._last_id = event.id
                        if event.retry is not None:
                            self._retry = event.retry
                        dispatcher.messages.read_unasked(event, dispatcher, self._owner.resolve_unasked)
                        if dispatcher.inbound.turns.full:
                            await dispatcher.inbound.turns.wait_room()
                    if len(events) > MANY:
                        await trio.lowlevel.checkpoint()
        except HttpFailure:
            return False
        return True
