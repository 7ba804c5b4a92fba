"""What the server sends of its own accord: its requests, its notifications, and the progress of our requests.

A wire hands over parsed messages, in the order of their arrival, each with the way back to the server; this module knows
nothing of pipes and connections. Every callback runs in a task of its own, so that one which blocks holds up nothing, and
they begin in the order of arrival, before an answer that came after them.

Nothing that the server or a callback does harms the reading (R11): a malformed message costs that message, a raising
callback that one delivery. And nothing floods the program (R19): see `_turns.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, final

import trio
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, RequestId

from .._link import Link
from ._context import Back, InboundContext
from ._messages import as_request_id, coerce_request_id, encode, error_of_handler, progress_token
from ._turns import Turns

if TYPE_CHECKING:
    from .._seam import OnNotify, OnNotifyIntercept, OnRequest, TransportContext
    from ._outbound import Request

logger = logging.getLogger("trio_mcp_pool.wire")

MAX_PROGRESS: Final = 256
"""How many progress items of one request may wait for its callback. Beyond that the newest replaces the one before it."""
MAX_PROGRESS_BYTES: Final = 1024 * 1024
"""The same in bytes, roughly."""


@final
class Inbound:
    """Delivers what the server sends of its own accord. All methods are synchronous."""

    def __init__(
        self, link: Link, transport: TransportContext, find: Callable[[RequestId], Request | None], max_held: int
    ) -> None:
        """`find` gives the request of ours with such an id; `max_held` is how many bytes of messages may wait at a time."""
        self.link = link
        self.in_flight: Final[dict[RequestId, InboundContext]] = {}
        """The server's requests that are not answered yet."""
        self._transport = transport
        self._find = find
        self.turns: Final = Turns(link, max_held)
        """Whose turn it is: callbacks and answers in the order of arrival, and whether the wire should stop reading."""
        self._on_request: OnRequest | None = None
        self._on_notify: OnNotify | None = None
        self._intercept: OnNotifyIntercept | None = None

    def start(
        self,
        nursery: trio.Nursery,
        on_request: OnRequest,
        on_notify: OnNotify,
        intercept: OnNotifyIntercept | None = None,
    ) -> None:
        """From now on deliver, in tasks of `nursery`, whose owner cancels them."""
        self._on_request = on_request
        self._on_notify = on_notify
        self._intercept = intercept
        self.turns.start(nursery)

    def stop(self) -> None:
        """The peer is gone: nothing begins any more, and answers that waited for their turn are given. Idempotent."""
        self.turns.stop()
        self.in_flight.clear()  # those that run take care of themselves

    # What arrives.

    def receive(self, message: Mapping[str, Any], size: int, back: Back, context: Context | None = None) -> str | None:
        """Take a message that has a method: a request or a notification. `size` is its length in bytes.

        `context` holds the context variables in which its handler is to run; without it they are the wire's own. Returns
        what is wrong with the message, where something is: in words, without anything of its content.
        """
        method, params = message.get("method"), message.get("params")
        if type(method) is not str or (params is not None and type(params) is not dict):
            bad_id = as_request_id(message.get("id"))
            if bad_id is not None:
                self.turns.callback(
                    size, context, self._reply_error, back, bad_id, INVALID_REQUEST, "Malformed request"
                )
            return "has a malformed method or malformed params"
        if "id" not in message:
            self._on_notification(method, params, size, back, context)
            return None
        request_id = as_request_id(message["id"])
        if request_id is None:
            return "is a request without a proper id"
        handler = InboundContext(back, self._transport, request_id, progress_token(params))
        self.in_flight[coerce_request_id(request_id)] = handler

        def refuse() -> tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]:
            self._settle(request_id, handler)
            return self._reply_error, (back, request_id, INTERNAL_ERROR, "Too many requests wait")

        self.turns.callback(size, context, self._serve, handler, back, request_id, method, params, refuse=refuse)
        return None

    def observe(self, observer: Callable[[Exception], Awaitable[None]], fault: Exception) -> None:
        """Tell an observer of a message that was none, in its turn."""
        self.turns.callback(0, None, self._observe, observer, fault)

    def _on_notification(
        self, method: str, params: dict[str, Any] | None, size: int, back: Back, context: Context | None
    ) -> None:
        if method == "notifications/cancelled":
            cancelled = as_request_id(params.get("requestId")) if params else None
            handler = None if cancelled is None else self.in_flight.get(coerce_request_id(cancelled))
            if handler is not None:
                handler.cancel_requested.set()
                handler.scope.cancel(reason="the server cancelled its request")
        elif method == "notifications/progress" and params is not None:
            self._on_progress(params, size)
        if self._intercepted(method, params) or self.turns.stopped:
            return
        self.turns.callback(size, context, self._deliver, back, method, params)

    def _intercepted(self, method: str, params: dict[str, Any] | None) -> bool:
        """Whether the SDK's session consumes it at once. It is shown every notification in the order of arrival."""
        if self._intercept is None:
            return False
        try:
            return self._intercept(method, params)
        except Exception:
            logger.exception("server %s: the intercept of notification %r raised", self.link.server, method)
            return False

    def _on_progress(self, params: dict[str, Any], size: int) -> None:
        token = as_request_id(params.get("progressToken"))
        progress = params.get("progress")
        if token is None or isinstance(progress, bool) or not isinstance(progress, int | float):
            return
        request = self._find(coerce_request_id(token))
        if request is None or request.on_progress is None:
            return
        total, message = params.get("total"), params.get("message")
        item = (
            size,
            float(progress),
            float(total) if isinstance(total, int | float) else None,
            message if isinstance(message, str) else None,
        )
        waiting = request.progress
        if len(waiting) >= MAX_PROGRESS or (waiting and request.progress_bytes + size > MAX_PROGRESS_BYTES):
            # The callback is slower than the server. The newest item says most, so it takes the place of the last.
            request.progress_bytes -= waiting.pop()[0]
        waiting.append(item)
        request.progress_bytes += size
        if not request.delivering:
            # One task per request, so that its progress arrives in order; a blocking callback stalls only itself.
            request.delivering = self.turns.spawn(request.context, self._deliver_progress, request)

    # What runs in tasks of its own.

    async def _serve(
        self, handler: InboundContext, back: Back, request_id: RequestId, method: str, params: dict[str, Any] | None
    ) -> None:
        """Run the handler of one inbound request and answer it, unless the server has cancelled it."""
        assert self._on_request is not None
        result: dict[str, Any] = {}
        error: tuple[int, str, Any] | None = None
        try:
            with handler.scope:
                if not handler.was_cancelled:  # not while it waited for its turn
                    result = await self._on_request(handler, method, params)
        except Exception as exc:
            error = error_of_handler(exc)
            if error is None:
                logger.exception("server %s: the handler of %r raised", self.link.server, method)
                error = INTERNAL_ERROR, "The client's handler failed", None
        finally:
            self._settle(request_id, handler)
        if handler.was_cancelled:
            return
        if error is None:
            try:
                data = encode({"jsonrpc": "2.0", "id": request_id, "result": result})
            except ValueError:
                logger.exception("server %s: the result of %r is not JSON", self.link.server, method)
                error = INTERNAL_ERROR, "The client's handler gave a result that is not JSON", None
            else:
                await self._reply(back, data)
        if error is not None:
            await self._reply_error(back, request_id, *error)

    def _settle(self, request_id: RequestId, handler: InboundContext) -> None:
        handler.close()
        key = coerce_request_id(request_id)
        if self.in_flight.get(key) is handler:
            del self.in_flight[key]

    async def _reply_error(self, back: Back, request_id: RequestId, code: int, message: str, data: Any = None) -> None:
        error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            try:
                encode({"data": data})
            except ValueError:
                logger.warning("server %s: the data of an error for the server is not JSON", self.link.server)
            else:
                error["data"] = data
        await self._reply(back, encode({"jsonrpc": "2.0", "id": request_id, "error": error}))

    async def _reply(self, back: Back, data: bytes) -> None:
        self.turns.replying += 1
        try:
            await back.reply(data)
        finally:
            self.turns.replying -= 1

    async def _deliver(self, back: Back, method: str, params: dict[str, Any] | None) -> None:
        assert self._on_notify is not None
        try:
            await self._on_notify(InboundContext(back, self._transport, None, None), method, params)
        except Exception:
            logger.exception("server %s: the handler of notification %r raised", self.link.server, method)

    async def _deliver_progress(self, request: Request) -> None:
        assert request.on_progress is not None
        try:
            while request.progress:
                size, progress, total, message = request.progress.popleft()
                request.progress_bytes -= size
                try:
                    await request.on_progress(progress, total, message)
                except Exception:
                    logger.exception("server %s: a progress callback raised", self.link.server)
        finally:
            request.delivering = False

    async def _observe(self, observer: Callable[[Exception], Awaitable[None]], fault: Exception) -> None:
        try:
            await observer(fault)
        except Exception:
            logger.exception("server %s: the observer of bad lines raised", self.link.server)
