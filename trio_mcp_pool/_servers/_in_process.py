"""A server object in this program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import mcp

from .._arguments import explain_timeout
from .._policy import PoolPolicy
from .._wire._link import Link
from ._base import ClientOptions, Configure, Server


@final
@explain_timeout
@dataclass(frozen=True, repr=False)
class InProcessServer(ClientOptions, Server):
    """A server object in this program: an SDK `MCPServer` or low-level `Server`. No process, no bytes.

    In the modern era its handlers run in the caller's own task, so a handler that never awaits cannot be cancelled.

    Raises `TypeError` on construction, naming the field.
    """

    server: Any
    """The SDK's `MCPServer` or low-level `Server`. Compared by identity."""
    _: KW_ONLY
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    configure: Configure | None = None
    """An async function of the new `Session`, run before the session is first lent. Default `None`."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        from mcp.server import MCPServer
        from mcp.server import Server as LowLevelServer

        if not isinstance(self.server, MCPServer | LowLevelServer):
            raise TypeError(
                f"InProcessServer.server must be an mcp MCPServer or low-level Server, not {type(self.server).__name__}"
            )
        self._check()

    def __repr__(self) -> str:
        return f"<InProcessServer {getattr(self.server, 'name', '?')!r}>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase = "handshake"
        link.tells_written = False
        async with mcp.Client(self.server, **self._client_options(link)) as client:
            yield client
