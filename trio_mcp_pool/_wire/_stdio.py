"""The pool's own stdio wire: a child process, its pipes, a dispatcher on them, and an `mcp.Client` on that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import mcp

from ._bare import essence
from ._dispatcher import Dispatcher
from ._link import Link
from ._process import Child, open_child
from ._seam import client_with_dispatcher

# How long a child whose stdout has ended is given to exit, so that an error can tell its status and its last words.
_LAST_WORDS = 0.2


@asynccontextmanager
async def connect_stdio(
    link: Link,
    command: str,
    args: Sequence[str],
    env: dict[str, str],
    cwd: str | None,
    max_line: int,
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Start a server and shake hands with it; gives the client. POSIX only.

    `env` comes on top of the SDK's short list of harmless variables. Raises `OSError` of a command that cannot be started
    as it is, and the handshake's error bare. Entered and left by one task.
    """
    link.phase = "spawn"
    async with open_child(link, command, args, env, cwd) as child:
        link.phase = "handshake"
        dispatcher = Dispatcher(
            child.pipe, link, max_line=max_line, on_stream_exception=client_options.get("message_handler")
        )
        child.on_exit = lambda: dispatcher.channel.end(None)
        client = client_with_dispatcher(lambda: dispatcher, client_options)
        try:
            await client.__aenter__()
        except BaseException as exc:
            bare = essence(exc)
            await _tell(link, child, bare)
            if bare is exc:
                raise
            raise bare from None
        raised: BaseException | None = None
        try:
            yield client
        except BaseException as exc:
            # Not shown to the client's own task group, which would wrap it.
            raised = exc
        child.leave()
        await client.__aexit__(None, None, None)
        if raised is not None:
            raise raised


async def _tell(link: Link, child: Child, why: BaseException) -> None:
    """The handshake has failed: say so before the clean-up, which may take seconds, and with what is worth knowing."""
    if not isinstance(why, Exception):
        return
    if link.is_lost:
        await child.settle(_LAST_WORDS)
    link.failing(why)
