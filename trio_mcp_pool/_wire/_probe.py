"""Is anybody there? The question put in the way of each protocol era.

The handshake era has `ping`. The modern era has none, and its cheapest question is `server/discover`, which every modern
server answers without looking at any state.
"""

from __future__ import annotations

from typing import Final

import anyio
import mcp
import trio
from mcp import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ._link import Call, Link, current_call

# What comes out of a transport that cannot send any more. It is no answer, and not every transport says it otherwise.
_CANNOT_SEND: Final = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


async def probe(client: mcp.Client, link: Link, timeout: float) -> bool:
    """Whether the server answers anything within `timeout` seconds. An error is an answer, unless the wire made it."""
    with trio.move_on_after(timeout) as scope:
        call = Call(scope, link)
        token = current_call.set(call)
        try:
            if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                await client.session.send_discover(client.protocol_version)
            else:
                await client.session.send_ping()
        except MCPError as exc:
            return call.failure is None and not _made_here(exc)
        except _CANNOT_SEND:
            return False
        except Exception:
            # A malformed answer is an answer, too; whether the wire is whole it says itself.
            return call.failure is None
        finally:
            current_call.reset(token)
        return True
    return False


def _made_here(error: MCPError) -> bool:
    """Whether the SDK raised this itself, for want of an answer: connection closed, or its own timeout."""
    from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

    return error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT)
