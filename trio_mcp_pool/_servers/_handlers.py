"""The user's callbacks that answer a question of the server: sampling, elicitation, roots.

The server waits for their answer, and often a call waits for the server. So while such a callback runs, the pool knows that
its task is a handler (`current_handler`): where it would wait for the very session that it holds up, it gets an error
instead (R4). And what a callback raises is the user's own, which the call must not take for a fault of the server's answer.

All wires and both protocol eras call them through the client, so they are wrapped here, once, and not in each wire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final

import trio

from .._wire._link import Handler, Link, current_handler

HANDLERS: Final = ("sampling_callback", "elicitation_callback", "list_roots_callback")
"""The options of `mcp.Client` that are such callbacks."""


def as_handlers(link: Link, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a client with these callbacks wrapped, for one connection."""
    return {
        name: _as_handler(link, value) if name in HANDLERS and value is not None else value
        for name, value in options.items()
    }


def _as_handler(link: Link, callback: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(callback)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        token = current_handler.set(Handler(link, trio.lowlevel.current_task()))
        try:
            return await callback(*args, **kwargs)
        except Exception as exc:
            call = link.current_call()
            if call is not None:
                call.user_error = exc
            raise
        finally:
            current_handler.reset(token)

    return handle
