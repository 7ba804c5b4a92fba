"""Which of many exceptions is the one to tell.

The SDK's transports are nested task groups, so what comes out of them is a group of groups: the refused connection, the
`Connection closed` of everyone who waited on it, cancellations.
"""

from __future__ import annotations

import httpx2
import mcp
import trio

from ._bare import leaves


def _weight(exc: BaseException) -> int:
    """How much an exception says about the cause."""
    if isinstance(exc, mcp.MCPError):
        return 0  # mostly an echo of the cause
    if isinstance(exc, httpx2.HTTPError):
        return 2
    return 1


def decisive(exc: BaseException) -> BaseException:
    """The one exception within `exc` that says what went wrong.

    A group stays whole if it holds what is no `Exception`, such as a `KeyboardInterrupt`, or nothing but cancellations.
    """
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    every = list(leaves(exc))
    telling = [leaf for leaf in every if not isinstance(leaf, trio.Cancelled)]
    if not telling or any(not isinstance(leaf, Exception) for leaf in telling):
        return exc
    if len(telling) < len(every):
        return exc  # a cancelled scope further out must find its own among them
    return max(telling, key=_weight)
