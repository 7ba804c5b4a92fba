"""A server behind a factory of the user's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from typing import final

import mcp

from .._arguments import explain_timeout
from .._policy import PoolPolicy
from .._wire._link import Link
from ._base import Configure, Server


@final
@explain_timeout
@dataclass(frozen=True, repr=False)
class CustomServer(Server):
    """Anything else: a factory of async context managers that give an `mcp.Client`.

    The factory is called for every dial, in the owner task. The pool cannot see what such a client does, so it learns
    that a session is dead when a call fails, and takes every request as written once its verb was called.

    Raises `TypeError` on construction, naming the field.
    """

    factory: Callable[[], AbstractAsyncContextManager[mcp.Client]]
    """Returns a context manager that gives a connected `mcp.Client`. Compared by identity."""
    _: KW_ONLY
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    configure: Configure | None = None
    """An async function of the new `Session`, run before the session is first lent. Default `None`."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise TypeError(f"CustomServer.factory must be callable, not {type(self.factory).__name__}")
        self._check()

    def __repr__(self) -> str:
        return f"<CustomServer {getattr(self.factory, '__qualname__', type(self.factory).__name__)}>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase = "connect"
        link.tells_written = False
        async with self.factory() as client:
            if not isinstance(client, mcp.Client):
                raise TypeError(f"CustomServer.factory must give an mcp.Client, not {type(client).__name__}")
            yield client
