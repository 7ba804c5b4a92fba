"""The one place that touches what the MCP SDK does not publish.

Three things have no public way:

- to give `mcp.Client` a dispatcher of ours. It always puts the SDK's own on a transport. The attribute `Client._connect`, a
  callable `(exit_stack, mode, raise_exceptions)` that returns a dispatcher, has stood unchanged since mcp 2.0, and is set here.
  Where it should have moved, the client gets an ordinary transport instead: slower, but public.
- to send a request as `ClientSession` would without its validating the answer twice (`_tool_call.py`): `ClientSession._stamp`,
  which adds the era's metadata and headers, and `ClientSession._tool_output_schemas`, what is known of the tools. Where they
  should have moved, calls go the public way.
- to type all that: the dispatcher's protocol is not documented, and what is imported of it is imported here.

A test fails when one of them moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final, get_args

import mcp
from mcp import ClientSession
from mcp.shared.exceptions import NoBackChannelError as NoBackChannelError
from mcp.shared.transport_context import TransportContext as TransportContext
from mcp_types import methods
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS
from pydantic import BaseModel

if TYPE_CHECKING:
    from mcp.shared.dispatcher import (
        CallOptions as CallOptions,
    )
    from mcp.shared.dispatcher import (
        Dispatcher as Dispatcher,
    )
    from mcp.shared.dispatcher import (
        OnNotify as OnNotify,
    )
    from mcp.shared.dispatcher import (
        OnNotifyIntercept as OnNotifyIntercept,
    )
    from mcp.shared.dispatcher import (
        OnRequest as OnRequest,
    )
    from mcp.shared.dispatcher import (
        ProgressFnT as ProgressFnT,
    )

_ATTRIBUTE: Final = "_connect"
_STAMP: Final = "_stamp"
_SCHEMAS: Final = "_tool_output_schemas"


def seam_stands() -> bool:
    """Whether this version of the SDK still has the attribute."""
    return any(field.name == _ATTRIBUTE and not field.init for field in dataclasses.fields(mcp.Client))


def client_with_dispatcher(
    dispatcher_factory: Callable[[], Dispatcher[Any]], fallback: Any, options: Mapping[str, Any]
) -> mcp.Client:
    """An `mcp.Client`, not yet entered, that drives a dispatcher of ours.

    `fallback` is a transport for an SDK that has no such seam; its type, `Transport`, is not public. `options` are what
    `mcp.Client` takes beside its server. Raises what it raises for them.
    """
    client = mcp.Client(fallback, **options)
    if seam_stands() and callable(getattr(client, _ATTRIBUTE, None)):

        async def connect(*_: Any) -> Dispatcher[Any]:
            return dispatcher_factory()

        setattr(client, _ATTRIBUTE, connect)
    return client


def tool_calls_stand(session: ClientSession) -> bool:
    """Whether this version of the SDK has what `SessionInside` needs."""
    return callable(getattr(session, _STAMP, None)) and isinstance(getattr(session, _SCHEMAS, None), dict)


@final
class SessionInside:
    """The inside of a client's session, as far as a tool call needs it. The attributes are looked up every time: a session
    that negotiates anew, or lists its tools, replaces them."""

    __slots__ = ("_metadata", "_stamp", "session")

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self._stamp: object = None
        self._metadata: dict[str, Any] | None = None

    def stamp(self, data: dict[str, Any], options: CallOptions) -> None:
        """Add to a request's data and options what the negotiated version wants: metadata, headers, the log level."""
        getattr(self.session, _STAMP)(data, options)

    def metadata(self) -> dict[str, Any] | None:
        """What `stamp` adds to the metadata of a tool call, which is the same for all of them. Not to be mutated."""
        stamp = getattr(self.session, _STAMP)
        if stamp is not self._stamp:
            params: dict[str, Any] = {}
            stamp({"method": "tools/call", "params": params}, {})
            self._stamp, self._metadata = stamp, params.get("_meta")
        return self._metadata

    @property
    def output_schemas(self) -> Mapping[str, dict[str, Any] | None]:
        """The output schema of every tool that was listed; `None` for one that has none."""
        schemas: dict[str, dict[str, Any] | None] = getattr(self.session, _SCHEMAS)
        return schemas


@cache
def later_fields(method: str, version: str) -> frozenset[str]:
    """The keys of a result that only a later version of the protocol than this one declares. The SDK drops them."""
    current = methods.SERVER_RESULTS.get((method, version))
    if current is None or version not in KNOWN_PROTOCOL_VERSIONS:
        return frozenset()
    later: set[str] = set()
    for newer in KNOWN_PROTOCOL_VERSIONS[KNOWN_PROTOCOL_VERSIONS.index(version) + 1 :]:
        row = methods.SERVER_RESULTS.get((method, newer))
        if row is not None:
            later |= _fields(row)
    return frozenset(later - _fields(current))


def _fields(row: Any) -> set[str]:
    models = [one for one in (get_args(row) or (row,)) if isinstance(one, type) and issubclass(one, BaseModel)]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}
