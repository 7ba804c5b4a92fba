"""`log_level=` in the handshake eras: the server is asked once for each session.

In the modern era the SDK asks with every request. In the older ones it leaves the asking to the program, which would have to do
it again for each new session, and know the era first.
"""

from __future__ import annotations

import logging
import warnings
from typing import Final

import mcp
import trio
from mcp import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError

logger = logging.getLogger("trio_mcp_pool.wire")

TIMEOUT: Final = 5.0
"""Seconds that a server has to answer. Messages are no reason to do without a session."""


def must_ask_for_log_messages(client: mcp.Client) -> bool:
    """Whether the client wants a log level, in an era in which a request of its own asks for it."""
    return (
        client.log_level is not None
        and client.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        and client.server_capabilities.logging is not None
    )


async def ask_for_log_messages(client: mcp.Client, server: str) -> None:
    """Ask for what the client's `log_level` says. Bounded.

    A server that refuses or does not answer is logged; raises what a lost session raises.
    """
    level = client.log_level
    assert level is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK calls the protocol's logging deprecated; the user asked for it
        asked = client.session.set_logging_level(level)
    with trio.move_on_after(TIMEOUT) as scope:
        try:
            await asked
        except (MCPError, ValidationError) as exc:
            logger.warning("server %s: it does not take the log level %r (%s)", server, level, type(exc).__name__)
    if scope.cancelled_caught:
        logger.warning("server %s: it did not take the log level %r within %g s", server, level, TIMEOUT)
