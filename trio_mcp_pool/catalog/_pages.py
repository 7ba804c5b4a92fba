"""Listing one kind of one server: every page, within bounds.

The rule: a server that pages for ever, or in a circle, is found out; what it listed until then is not taken for the whole.
"""

from __future__ import annotations

import math
from typing import Any, Final

import trio
from mcp import MCPError
from mcp_types import METHOD_NOT_FOUND

from ._source import Kind, ListResult, Source

MOST_PAGES: Final = 1_000
MOST_ENTRIES: Final = 100_000


class EndlessListingError(RuntimeError):
    """The server's list has no end, as far as anybody would look."""


async def list_all(source: Source, server: str, kind: Kind) -> tuple[tuple[Any, ...], float]:
    """All pages, and the time on Trio's clock until which the server says they hold (`-inf`: it does not say).

    A server that knows no such method has nothing of the kind. Raises what the pool's verb raises, `EndlessListingError`.
    """
    found: list[Any] = []
    fresh_until = math.inf
    cursor: str | None = None
    cursors: set[str] = set()
    for _ in range(MOST_PAGES):
        try:
            page: ListResult = await source.list_page(server, kind, cursor)
        except MCPError as why:
            if why.error.code == METHOD_NOT_FOUND and cursor is None:
                return (), -math.inf
            raise
        found.extend(getattr(page, kind))
        hint = trio.current_time() + page.ttl_ms / 1000 if page.ttl_ms else -math.inf
        fresh_until = min(fresh_until, hint)
        cursor = page.next_cursor
        if cursor is None:
            return tuple(found), fresh_until
        if cursor in cursors or len(found) > MOST_ENTRIES:
            break
        cursors.add(cursor)
    raise EndlessListingError(f"server {server!r} lists {kind.replace('_', ' ')} without end")
