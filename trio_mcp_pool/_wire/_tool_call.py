"""The fast path of `call_tool`: the request goes past the SDK's session, and the answer is validated once.

The SDK validates every result against the version's own schema, dumps that, throws the dump away, and validates again against
its version-free model. Here the second validation stands alone wherever a look at the result shows that the first must
succeed. That is so for the everyday shapes: text, images, audio and resources without annotations, with or without structured
content.

Whatever is unusual is handed back to the SDK's own `Client.call_tool`, together with the answer that has come: it builds the
same request, and the dispatcher that it sees gives it that answer instead of sending anything (`HandDispatcher`). So nothing
is sent twice, and rounds of input, claimed results, a header mismatch and every error stay the SDK's own code. Calls with
`meta`, `input_responses` or `request_state` go there from the start.

Listing the tools, which the SDK does after the answer to a tool that it does not know, never costs the caller that answer
(R18), and fifty first callers share one listing: `_listing.py`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import anyio.abc
import mcp
import mcp_types as types
from mcp_types import HEADER_MISMATCH
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from ._link import Link
from ._listing import Listings, share_listings
from ._seam import SessionInside, later_fields, tool_calls_stand

if TYPE_CHECKING:
    from ._seam import CallOptions, Dispatcher, OnNotify, OnNotifyIntercept, OnRequest, ProgressFnT

_METHOD: Final = "tools/call"
_PLAIN: Final[dict[str, type[types.ContentBlock]]] = {
    "text": types.TextContent,
    "image": types.ImageContent,
    "audio": types.AudioContent,
    "resource": types.EmbeddedResource,
    "resource_link": types.ResourceLink,
}
"""The kinds of content, and the model of each: the models' `type` says the same, but a union tries one after the other."""

_NOT_LISTED: Final[Any] = object()
_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None)})
"""Types of argument values that need no look: a `float` may be no number, and containers hold anything."""


Rest: TypeAlias = "partial[Coroutine[Any, Any, types.CallToolResult]]"
"""What is left of a call."""


def tool_caller(
    client: mcp.Client, dispatcher: HandDispatcher, link: Link, *, with_headers: bool = True
) -> ToolCaller | None:
    """`Client.call_tool` of a client whose handshake is done, but faster; `None` where the SDK does not allow it.

    Without `with_headers`, the headers are left out that only HTTP sends. In any case the session's own listing of tools is
    bounded from now on (`_listing.py`).
    """
    listings = share_listings(client.session, link)
    if not dispatcher.running or not tool_calls_stand(client.session):
        return None
    return ToolCaller(client, dispatcher, listings, with_headers)


@final
class ToolCaller:
    """Calls tools through one session."""

    def __init__(self, client: mcp.Client, dispatcher: HandDispatcher, listings: Listings, with_headers: bool) -> None:
        self.fast = 0
        """How many answers came past the SDK's session."""
        self.slow = 0
        """How many calls the SDK has finished."""
        self._timeout = client.read_timeout_seconds
        self._session = client.session
        self._inside = SessionInside(client.session)
        self._listings = listings
        self._send = dispatcher.inner.send_raw_request
        self._call_tool = client.call_tool
        self._with_headers = with_headers

    async def __call__(self, *args: Any, **kwargs: Any) -> types.CallToolResult:
        """As `mcp.Client.call_tool`."""
        result = await self.begin(*args, **kwargs)
        return await result() if isinstance(result, partial) else result

    async def begin(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: ProgressFnT | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
    ) -> types.CallToolResult | Rest:
        """The result, or what has to be awaited for it if one parked request was not enough."""
        if meta is not None or input_responses is not None or request_state is not None:
            self.slow += 1
            return partial(
                self._call_tool,
                name,
                arguments,
                read_timeout_seconds,
                progress_callback,
                input_responses=input_responses,
                request_state=request_state,
                meta=meta,
            )
        data = request_data(name, arguments)
        params = data["params"]
        options: CallOptions = {}
        inside = self._inside
        if self._with_headers:
            inside.stamp(data, options)
        elif (metadata := inside.metadata()) is not None:
            params["_meta"] = metadata
        timeout = self._timeout if read_timeout_seconds is None else read_timeout_seconds
        if timeout is not None:
            options["timeout"] = timeout
        if progress_callback is not None:
            options["on_progress"] = progress_callback
        try:
            raw = await self._send(_METHOD, params, options)
        except mcp.MCPError as error:
            if error.code != HEADER_MISMATCH:
                self.fast += 1
                raise
            hand = Hand(error=error)
        else:
            result = self._read(raw)
            if result is not None:
                self.fast += 1
                # A tool without an output schema needs no check.
                if result.is_error or inside.output_schemas.get(name, _NOT_LISTED) is None:
                    return result
                if name not in inside.output_schemas:
                    # Its request is cut with this call's connection, so that it ends then, too.
                    await self._listings.wait_shared()
                    if inside.output_schemas.get(name, _NOT_LISTED) is None:
                        return result
                return partial(self._check, name, result)
            hand = Hand(raw)
        self.slow += 1
        return partial(self._hand_over, hand, name, arguments, read_timeout_seconds, progress_callback)

    async def _check(self, name: str, result: types.CallToolResult) -> types.CallToolResult:
        """The result, checked against the tool's own schema."""
        inside = self._inside
        if name not in inside.output_schemas:
            await self._listings.list_for_check()
        # Nor does a tool need a check that the server does not list.
        if inside.output_schemas.get(name) is not None:
            await self._session.validate_tool_result(name, result)
        return result

    async def _hand_over(self, hand: Hand, *args: Any) -> types.CallToolResult:
        """The SDK's own `Client.call_tool`, with the answer that has come."""
        token = _hand.set(hand)
        try:
            return await self._call_tool(*args)
        finally:
            _hand.reset(token)

    def _read(self, raw: dict[str, Any]) -> types.CallToolResult | None:
        """The result, validated; `None` where the SDK should have a look at it."""
        version = self._session.protocol_version
        if version is None or not is_plain(raw, version):
            return None
        if not (later := later_fields(_METHOD, version)).isdisjoint(raw):
            raw = {key: value for key, value in raw.items() if key not in later}
        try:
            blocks = [_PLAIN[block["type"]].model_validate(block, by_name=False) for block in raw["content"]]
            return types.CallToolResult.model_validate({**raw, "content": blocks}, by_name=False)
        except ValidationError:
            return None


def request_data(name: str, arguments: dict[str, Any] | None) -> dict[str, Any]:
    """The request for a call, as the SDK makes it. Raises what the SDK raises for arguments that cannot be sent."""
    if arguments is None and type(name) is str:
        return {"method": _METHOD, "params": {"name": name}}
    if type(name) is str and type(arguments) is dict:
        for key, value in arguments.items():
            if type(key) is not str or type(value) not in _AS_THEY_ARE:
                break
        else:
            return {"method": _METHOD, "params": {"name": name, "arguments": arguments.copy()}}
    request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=arguments))
    return request.model_dump(by_alias=True, mode="json", exclude_none=True)


def is_plain(raw: Mapping[str, Any], version: str) -> bool:
    """Whether a result that fits the SDK's version-free model must fit the schema of `version` too."""
    if version in MODERN_PROTOCOL_VERSIONS:
        if raw.get("resultType") != "complete" or "inputRequests" in raw or "requestState" in raw:
            return False
    elif type(raw.get("structuredContent", raw)) is not dict and raw["structuredContent"] is not None:
        return False
    if "ttlMs" in raw:
        return False
    content = raw.get("content")
    if type(content) is not list:
        return False
    for block in content:
        if type(block) is not dict or "annotations" in block or "icons" in block:
            return False
        kind = block.get("type")
        if type(kind) is not str or kind not in _PLAIN:
            return False
    return True


# The answer that has come, handed to the SDK.


@final
class Hand:
    """An answer that has come, for the SDK's next `tools/call` of this task."""

    __slots__ = ("error", "raw", "taken")

    def __init__(self, raw: dict[str, Any] | None = None, *, error: mcp.MCPError | None = None) -> None:
        self.raw = raw
        self.error = error
        self.taken = False

    def take(self) -> dict[str, Any]:
        self.taken = True
        if self.error is not None:
            raise self.error
        assert self.raw is not None
        return self.raw


_hand: ContextVar[Hand | None] = ContextVar("trio_mcp_pool_hand", default=None)


@final
class HandDispatcher:
    """A dispatcher of ours as the SDK's session sees it: its first `tools/call` may be answered from the hand."""

    def __init__(self, inner: Dispatcher[Any]) -> None:
        self.inner = inner
        """What sends, and what the fast path uses by itself."""
        self.running = False
        """Whether the SDK drives it at all: not where it was given a transport instead."""

    def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> CoroutineType[Any, Any, dict[str, Any]]:
        """Send a request, unless its answer has come already."""
        hand = _hand.get()
        if hand is None or hand.taken or method != _METHOD:
            return self.inner.send_raw_request(method, params, opts)  # type: ignore[return-value]
        return self._from_hand(hand)  # type: ignore[return-value]

    async def _from_hand(self, hand: Hand) -> dict[str, Any]:
        # No checkpoint: the caller had them all when the answer came, and must not lose it to a cancellation here.
        return hand.take()

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification."""
        await self.inner.notify(method, params, opts)

    async def run(  # noqa: ASYNC128 (the dispatcher inside calls it)
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Drive the connection."""
        self.running = True
        await self.inner.run(on_request, on_notify, on_notify_intercept, task_status=task_status)
