"""The public way, for an SDK that has no seam for a dispatcher: a transport with two streams, on the same HTTP
requests.

The SDK's own dispatcher writes messages and reads messages. A request that it writes is carried by a task here, and its
result, or its error, put among what it reads. What the pool's own errors say beyond a JSON-RPC error is left on the
call.
"""

from __future__ import annotations

import logging
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Final, final

import mcp
import trio
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import CONNECTION_CLOSED, JSONRPCNotification, JSONRPCRequest, RequestId, jsonrpc_message_adapter

from ..._errors import PoolError
from .._streams import ReadStream, Stream
from ..jsonrpc._messages import coerce_request_id
from ._dispatcher import HttpDispatcher

logger = logging.getLogger("trio_mcp_pool.wire")

_WAITING: Final = 256


@final
class RelayTransport:
    """Structurally the SDK's `Transport`, whose type is not public."""

    def __init__(self, dispatcher: HttpDispatcher) -> None:
        self._dispatcher = dispatcher

    async def __aenter__(self) -> tuple[_Reading, _Writing]:
        self._send, receive = trio.open_memory_channel[tuple[Context, SessionMessage]](_WAITING)
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        self._nursery = nursery
        try:
            await nursery.start(self._dispatcher.run, self._on_request, self._on_notify)
        except BaseException as exc:
            nursery.cancel_scope.cancel(reason="the dial has failed")
            await self._manager.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return _Reading(receive), _Writing(self, nursery)

    async def _on_request(self, context: Any, method: str, params: Any) -> dict[str, Any]:
        """Hand a request of the server on, and wait for what the SDK answers."""
        request_id = context.request_id
        answers: dict[RequestId, trio.MemorySendChannel[dict[str, Any]]] = self.answers
        put, get = trio.open_memory_channel[dict[str, Any]](1)
        answers[coerce_request_id(request_id)] = put
        try:
            await self.deliver({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
            answer = await get.receive()
        finally:
            answers.pop(coerce_request_id(request_id), None)
        if "error" in answer:
            error = answer["error"]
            raise mcp.MCPError(error["code"], error["message"], error.get("data"))
        result: dict[str, Any] = answer["result"]
        return result

    async def _on_notify(self, context: Any, method: str, params: Any) -> None:
        await self.deliver({"jsonrpc": "2.0", "method": method, "params": params})

    @property
    def answers(self) -> dict[RequestId, trio.MemorySendChannel[dict[str, Any]]]:
        """The server's requests that the SDK is working at."""
        found: dict[RequestId, trio.MemorySendChannel[dict[str, Any]]] = self.__dict__.setdefault("_answers", {})
        return found

    async def deliver(self, message: dict[str, Any]) -> None:
        """Put a message among what the SDK reads."""
        if message.get("params", 0) is None:
            del message["params"]
        try:
            parsed = jsonrpc_message_adapter.validate_python(message, by_name=False)
            await self._send.send((copy_context(), SessionMessage(parsed)))
        except (ValueError, trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("server %s: a message could not be handed on", self._dispatcher.link.server)

    async def carry(self, item: SessionMessage) -> None:
        """Send one request of the SDK's."""
        message = item.message
        assert isinstance(message, JSONRPCRequest)
        options: Any = {"request_id": message.id, "cancel_on_abandon": False}
        if isinstance(item.metadata, ClientMessageMetadata) and item.metadata.headers:
            options["headers"] = item.metadata.headers
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message.id}
        try:
            answer["result"] = await self._dispatcher.send_raw_request(message.method, message.params, options)
        except mcp.MCPError as exc:
            answer["error"] = exc.error.model_dump(exclude_none=True)
        except Exception as exc:
            call = self._dispatcher.link.current_call()
            if call is not None and isinstance(exc, PoolError) and call.failure is None:
                call.failure = exc
            answer["error"] = {"code": CONNECTION_CLOSED, "message": type(exc).__name__}
        await self.deliver(answer)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._nursery.cancel_scope.cancel(reason="the session is left")
        self._send.close()
        return await self._manager.__aexit__(kind, exc, traceback)


@final
class _Reading(ReadStream):
    def __init__(self, receive: trio.MemoryReceiveChannel[tuple[Context, SessionMessage]]) -> None:
        self._receive = receive
        self.last_context: Context | None = None

    async def receive(self) -> SessionMessage | Exception:
        self.last_context, message = await self._receive.receive()
        return message


@final
class _Writing(Stream):
    def __init__(self, transport: RelayTransport, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._nursery = nursery
        self._scopes: dict[RequestId, trio.CancelScope] = {}

    async def send(self, item: SessionMessage, /) -> None:
        await trio.lowlevel.checkpoint()
        message = item.message
        if isinstance(message, JSONRPCRequest):
            scope = self._scopes[message.id] = trio.CancelScope()
            self._nursery.start_soon(self._carry, item, message.id, scope)
            return
        if not isinstance(message, JSONRPCNotification):
            answer = message.model_dump(by_alias=True, exclude_unset=True)
            waiting = self._transport.answers.get(coerce_request_id(answer["id"]))
            if waiting is not None:
                waiting.send_nowait(answer)
            return
        dispatcher = self._transport._dispatcher
        if message.method == "notifications/cancelled":
            scope_of = self._scopes.get((message.params or {}).get("requestId", ""))
            if scope_of is not None:
                scope_of.cancel(reason="the caller has gone")
            if not dispatcher.cancels_by_notice:
                return
        await dispatcher.notify(message.method, message.params)

    async def _carry(self, item: SessionMessage, request_id: RequestId, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._transport.carry(item)
        finally:
            self._scopes.pop(request_id, None)
