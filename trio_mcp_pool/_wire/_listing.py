"""The listing of tools that the SDK makes by itself, after the answer of a tool that it does not know.

The SDK asks for it to check the answer against the tool's schema, once for every caller, without a bound, and when it fails the
answer is lost. Here it is shared by those who want it at the same time, bounded, and its failure is no failure of the call
(R15, R18): the result is then not checked, as with a tool that is not listed.

Two public methods of the one session are replaced for that: `validate_tool_result`, inside which it happens, and `list_tools`.
"""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, final

import mcp_types as types
import trio

from ._link import Link

if TYPE_CHECKING:
    from mcp import ClientSession

logger = logging.getLogger("trio_mcp_pool.wire")

TIMEOUT: Final = 5.0
"""Seconds that a caller whose answer is there waits for the listing that says how to check it."""
PAUSE: Final = 60.0
"""Seconds after a failed listing in which no other is made for that purpose."""

_checking: ContextVar[bool] = ContextVar("trio_mcp_pool_checking", default=False)


def share_listings(session: ClientSession, link: Link) -> Listings:
    """From now on this session's own listings are shared and bounded. Idempotent."""
    known = getattr(session.list_tools, "__self__", None)
    if isinstance(known, Listings):
        return known
    listings = Listings(session, link)
    session.list_tools = listings.list_tools  # type: ignore[method-assign]
    session.validate_tool_result = listings.validate_tool_result  # type: ignore[method-assign]
    return listings


@final
class _Listing:
    """One that is under way, of the first page."""

    def __init__(self, *, bounded: bool) -> None:
        self.ended = trio.Event()
        self.succeeded = False
        self.bounded = bounded
        """Whether it ends after `TIMEOUT` at the latest."""


@final
class Listings:
    """The listings of tools of one session."""

    def __init__(self, session: ClientSession, link: Link) -> None:
        self._list_tools = session.list_tools
        self._validate_tool_result = session.validate_tool_result
        self._link = link
        self._running: _Listing | None = None
        self._not_before = -math.inf

    async def validate_tool_result(self, name: str, result: types.CallToolResult) -> None:
        """As `ClientSession.validate_tool_result`."""
        token = _checking.set(True)
        try:
            await self._validate_tool_result(name, result)
        finally:
            _checking.reset(token)

    async def list_tools(self, *, params: types.PaginatedRequestParams | None = None) -> types.ListToolsResult:
        """As `ClientSession.list_tools`."""
        if _checking.get():
            await self.list_for_check()
            # The SDK looks at what the session has noted of the tools, not at this.
            return types.ListToolsResult(tools=[])
        if (params is None or params.cursor is None) and self._running is None:
            return await self._list_shared(params, bounded=False)
        return await self._list_tools(params=params)

    async def _list_shared(
        self, params: types.PaginatedRequestParams | None, *, bounded: bool
    ) -> types.ListToolsResult:
        listing = self._running = _Listing(bounded=bounded)
        try:
            result = await self._list_tools(params=params)
            listing.succeeded = True
            self._not_before = -math.inf
            return result
        finally:
            self._running = None
            listing.ended.set()

    async def wait_shared(self) -> None:
        """Wait for the listing that runs, if it ends by itself: so a session's many first callers need no deadline each."""
        if self._running is not None and self._running.bounded:
            await self._running.ended.wait()

    async def list_for_check(self) -> None:
        """Have the tools listed, by this caller or by another one that wants the same. Bounded; raises no `Exception`."""
        listing = self._running
        if listing is not None and listing.bounded:
            await listing.ended.wait()
            if listing.succeeded:
                return
        with trio.move_on_after(TIMEOUT) as scope:
            while (listing := self._running) is not None:
                await listing.ended.wait()
                if listing.succeeded:
                    return
            if trio.current_time() >= self._not_before:
                try:
                    await self._list_shared(None, bounded=True)
                except Exception as exc:
                    self._failed(f"failed ({type(exc).__name__})")
        if scope.cancelled_caught:
            self._failed(f"took more than {TIMEOUT:g} s")

    def _failed(self, how: str) -> None:
        self._not_before = trio.current_time() + PAUSE
        logger.warning(
            "server %s: listing its tools %s, so that results are not checked against the tools' schemas for now",
            self._link.server,
            how,
        )
