"""Whose functions a connection's client calls, and for whom: those declared beforehand, and those that a call brings along.

What a client can be asked is said in the handshake, so a function must have been declared before: for the scope, the server
or the pool. A call may then bring another one for the questions about itself. It is found by the call that a question
belongs to; where the transport does not say which that is, the declared function is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from .._callbacks import Callbacks, Caller, Elicit, Progress, ProgressFnT, client_callbacks, progress_in_context
from .._wire._link import Call, Link

if TYPE_CHECKING:
    import mcp_types as types


def callback_options(link: Link, options: Mapping[str, Any], callbacks: Callbacks | None) -> dict[str, Any]:
    """A client's options with the callbacks that know who asks: those of the scope, of the server, of the pool, in this order.

    A plain callback of `mcp.Client` among the options is the server's, too.
    """

    def caller() -> Caller:
        return caller_of(link, link.current_call())

    def elicit() -> Elicit | None:
        call = link.current_call()
        return None if call is None else call.elicit

    def made(declared: Callbacks | None) -> dict[str, Any]:
        return {} if declared is None else client_callbacks(declared, caller, elicit)

    of_scope, of_pool = link.callbacks
    own = {name: value for name, value in options.items() if value is not None}
    told = made(of_pool) | own | made(callbacks) | made(of_scope)
    link.elicits = "elicitation_callback" in told and told["elicitation_callback"] is not own.get(
        "elicitation_callback"
    )
    return {**options, **told}


def caller_of(link: Link, call: Call | None) -> Caller:
    """Who asks on this connection, on behalf of `call` where that is known. Its context is the current one then."""
    return Caller(
        server=link.server,
        scope=link.scope,
        session=link.number,
        tool=None if call is None else call.tool,
        context=None if call is None else copy_context(),
    )


@final
@dataclass(frozen=True, slots=True)
class OwnCallbacks:
    """What one call brings along: progress, and questions that are about it, are for these and nobody else."""

    elicit: Elicit | None
    progress: Progress | None

    def install(self, call: Call, link: Link, progress_callback: ProgressFnT | None) -> ProgressFnT | None:
        """Have the call answered by these. Returns its progress callback. Raises `ValueError`; nothing is sent then."""
        if self.elicit is not None:
            if not link.elicits:
                raise ValueError(
                    f"on_elicit: server {link.server!r} was not told that anybody can be asked, because that is said in the "
                    "handshake; give callbacks=Callbacks(elicit=...) to the pool, the scope or the server"
                )
            call.elicit = self.elicit
        if self.progress is None:
            return progress_callback
        if progress_callback is not None:
            raise ValueError("give on_progress or progress_callback, not both")
        return progress_in_context(partial(self.progress, caller_of(link, call)), link.server)


_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


def call_options(
    input_responses: types.InputResponses | None,
    request_state: str | None,
    meta: types.RequestParamsMeta | None,
    on_elicit: Elicit | None,
    on_progress: Progress | None,
) -> Mapping[str, Any]:
    """What is given of these as keyword arguments of a tool call, for `run`; the two functions as `own`. Raises `TypeError`."""
    if on_elicit is None and on_progress is None:
        if input_responses is None and request_state is None and meta is None:
            return _NONE
        own = None
    else:
        own = OwnCallbacks(on_elicit, on_progress)
    for name, function in (("on_elicit", on_elicit), ("on_progress", on_progress)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be an async function or None, not {type(function).__name__}")
    options = {"input_responses": input_responses, "request_state": request_state, "meta": meta, "own": own}
    return {name: value for name, value in options.items() if value is not None}
