"""Saying that a message was bad, in bounds: a server that writes nothing but rubbish must not flood the log (R19)."""

from __future__ import annotations

import logging
from typing import Final, final

import trio

from .._link import Link

logger = logging.getLogger("trio_mcp_pool.wire")

PER_SECOND: Final = 10
"""So many warnings about bad messages of one session are logged in a second. The rest are counted."""


@final
class FaultLog:
    """Warnings about the bad messages of one session."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._since = 0.0
        self._logged = 0
        self._counted = 0

    def due(self) -> bool:
        """Whether there is room for one more. Ask before making up its text, which takes longer than to read such a message."""
        now = trio.current_time()
        if now >= self._since + 1:
            self._since, self._logged = now, 0
        if self._logged == PER_SECOND:
            self._counted += 1
            return False
        self._logged += 1
        return True

    def warn(self, what: str) -> None:
        """Log one that is due. `what` must hold nothing of the message's content (R16)."""
        more = f" (and {self._counted} more since the last warning)" if self._counted else ""
        self._counted = 0
        logger.warning("server %s: %s%s", self._link.server, what, more)
