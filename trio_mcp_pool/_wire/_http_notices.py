"""Notices, and answers to what the server asked, over HTTP.

The SDK sends them one after the other, before anything else, so a slow one would hold up every caller, and a failing one
end the session. So the SDK is told at once that they were taken, and they go out in the background.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

import httpx2
import trio
from mcp_types import JSONRPCMessage, JSONRPCNotification

from ._http_answers import SESSION_ID, accepted

if TYPE_CHECKING:
    from ._http_client import WireClient

logger = logging.getLogger("trio_mcp_pool.http")

_CANCEL_TIMEOUT = 5.0
# Cancel notices on their way at once; a thousand cancelled callers must not open a thousand connections.
_CANCELS = 8


@final
class NoticeSender:
    """Sends what has no answer."""

    def __init__(self, http: WireClient) -> None:
        self._http = http
        self._cancels = trio.CapacityLimiter(_CANCELS)

    def send(self, request: httpx2.Request, message: JSONRPCMessage | None) -> httpx2.Response:
        """Send it in the background. A cancel notice also ends the request that it names."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            if self._http.requests.abandon((message.params or {}).get("requestId")):
                self._http.background.start_soon(self._post_cancel, request)
        else:
            self._http.background.start_soon(self._post, request)
        return accepted(request)

    async def _post_cancel(self, request: httpx2.Request) -> None:
        with trio.move_on_after(_CANCEL_TIMEOUT) as scope:
            async with self._cancels:
                await self._post(request)
        if scope.cancelled_caught:
            logger.debug("%s: a cancel notice took longer than %g s", self._http.link.server, _CANCEL_TIMEOUT)

    async def _post(self, request: httpx2.Request) -> None:
        server = self._http.link.server
        try:
            response = await self._http.plain(request, {})
        except Exception as exc:
            logger.debug("%s: a notice failed with %s", server, type(exc).__name__)
            return
        if response.status_code == 404 and SESSION_ID in request.headers and self._http.ready:
            self._http.session_lost()
        elif response.status_code >= 300:
            logger.debug("%s: a notice was answered with HTTP %d", server, response.status_code)
