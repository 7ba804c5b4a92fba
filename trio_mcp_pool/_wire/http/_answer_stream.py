"""Reading the answer to one request from a stream of events, over several connections where it breaks and is resumed."""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import Final, final

import trio

from ..jsonrpc._outbound import Request
from ._dispatcher import HttpDispatcher
from ._events import MANY, SLICE, EventParser
from ._exchange import Exchange
from ._messages import Answer

_RESUME_DELAY: Final = 1.0
"""Seconds before a broken stream is resumed, unless the server asks for another delay."""
_SHORTEST_DELAY: Final = 0.01


@final
class AnswerStream:
    """The state of reading one answer from a stream, over several connections."""

    def __init__(self, dispatcher: HttpDispatcher, request: Request) -> None:
        self.last_id = b""
        self.delay = _RESUME_DELAY
        self._dispatcher = dispatcher
        self._request = request
        self._context: Context = copy_context()
        self._on_token = request.options.get("on_resumption_token")

    async def read(self, response: Exchange) -> Answer | None:
        """The answer, or `None` when the stream ends without it."""
        dispatcher, request = self._dispatcher, self._request
        messages, inbound, link = dispatcher.messages, dispatcher.inbound, dispatcher.link
        parser = EventParser(messages.max_message)
        while (piece := await response.read_piece()) is not None:
            link.heard()
            for start in range(0, len(piece), SLICE):
                events = parser.feed(piece[start : start + SLICE] if len(piece) > SLICE else piece)
                for event in events:
                    await event.read_ahead()
                    if event.retry is not None:
                        self.delay = max(event.retry, _SHORTEST_DELAY)
                    answer = messages.read_event(event, request, dispatcher, self._context)
                    if event.id and event.id != self.last_id:
                        self.last_id = event.id
                        if self._on_token is not None:
                            await self._on_token(event.id.decode("utf-8", "replace"))
                    if answer is not None:
                        return answer
                    if inbound.turns.full:
                        await inbound.turns.wait_room()
                if len(events) > MANY:
                    await trio.lowlevel.checkpoint()
        return None
