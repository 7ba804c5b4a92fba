"""The pool's own stdio wire: a child process, its pipes, a dispatcher on them, and an `mcp.Client` on that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import mcp
import trio

from ..._groups import sole_error
from .._link import Link
from .._seam import client_with_dispatcher
from .._tool_call import HandDispatcher, tool_caller
from ._dispatcher import Dispatcher
from ._process import Child, open_child
from ._stderr import StderrMode
from ._transport import ChannelTransport

# How long a child whose stdout has ended is given to exit before its session is reported as lost, so that every error can tell
# its status and its last words, whichever of the two signs came first. Death must be noticed within 0.2 s (R12).
_LAST_WORDS = 0.1


@asynccontextmanager
async def connect_stdio(
    link: Link,
    command: str,
    args: Sequence[str],
    env: dict[str, str],
    cwd: str | None,
    *,
    stderr: StderrMode = "log",
    max_message: int,
    max_values: int,
    client_options: dict[str, Any],
) -> AsyncIterator[mcp.Client]:
    """Start a server and shake hands with it; gives the client. POSIX only.

    `env` comes on top of the SDK's short list of harmless variables; what the child writes to stderr is logged, goes where
    this program's own stderr goes, or is discarded. `max_message` is the longest line in bytes, `max_values` the most JSON
    values in one. Raises `OSError` of a command that cannot be started
    as it is, and the handshake's error bare. Entered and left by one task.
    """
    link.phase = "spawn"
    async with open_child(link, command, args, env, cwd, stderr) as child:
        link.phase = "handshake"
        settle = partial(child.settle, _LAST_WORDS)
        dispatcher = Dispatcher(
            child.pipe,
            link,
            max_message=max_message,
            max_values=max_values,
            on_stream_exception=client_options.get("message_handler"),
            settle=settle,
        )
        transport = ChannelTransport(child.pipe, link, max_message=max_message, settle=settle)

        def on_exit() -> None:
            # Only one of them was ever started.
            dispatcher.channel.end(None)
            transport.channel.end(None)

        child.on_exit = on_exit
        hand = HandDispatcher(dispatcher)
        client = client_with_dispatcher(lambda: hand, transport, client_options)
        try:
            await client.__aenter__()
        except BaseException as exc:
            bare = sole_error(exc)
            await _tell(link, child, bare)
            if bare is exc:
                raise
            raise bare from None
        caller = tool_caller(client, hand, link, with_headers=False)
        if caller is not None:
            link.call_tool, link.begin_tool_call = caller, caller.begin
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
        with trio.CancelScope(shield=True):
            await child.settle(_LAST_WORDS)
    link.failing(why)
