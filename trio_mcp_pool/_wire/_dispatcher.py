"""A JSON-RPC dispatcher written straight on Trio.

It satisfies `mcp.shared.dispatcher.Dispatcher`, which is what the MCP SDK's session drives, and stands in for the
SDK's `JSONRPCDispatcher`. Between the caller and the pipe there is nothing: the caller writes its request itself,
parks, and the reading task reschedules it with the answer. No memory channels, no task per message, two task switches
per call.

Three promises beyond the protocol's:

- `Call.written` becomes true exactly when the last byte of one of that call's requests was accepted.
- A cancelled caller leaves at once, whatever the pipe does. If its request was not sent, nothing is; if it was, a
  cancelled notice follows; a partly sent one is completed first.
- Nothing that the server or a callback does harms the reading: a bad line costs that line, a raising callback that
  one message.

Callbacks run in tasks of their own, so that one which blocks holds up nothing, and begin in the order in which their
messages arrived, before the answer that came after them.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, final

import anyio
import anyio.abc
import mcp
import outcome
import trio
from mcp.shared.dispatcher import (
    CallOptions,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    ProgressFnT,
    as_request_id,
    coerce_request_id,
    run_notify_intercept,
)
from mcp.shared.jsonrpc_dispatcher import (
    cancelled_request_id_from_params,
    handler_exception_to_error_data,
    progress_token_from_params,
)
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST, REQUEST_TIMEOUT, RequestId
from pydantic_core import from_json, to_json

from .._errors import MessageTooLargeError
from ._channel import BytePipe, Channel, Out
from ._context import InboundContext
from ._lines import Line
from ._link import Link
from ._tracing import client_span, tracer_if_configured

logger = logging.getLogger("trio_mcp_pool.wire")

StreamObserver = Callable[[Exception], Awaitable[None]]

_SHOWN: Final = 200
"""How much of a bad line is shown."""

_CROWD: Final = 4
"""With so many requests under way, others probably send in the same tick; one system call for all is worth a task switch."""

_LARGEST_SHARED_ID: Final = 2**52

_V = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_ID = rb'"id"\s*:\s*(-?\d{1,18}|"[^"\\]{0,200}")'
# The id of an overlong response, found only where it is surely the message's own: at its very start or its very end.
_ID_FIRST = re.compile(rb"\s*\{\s*" + _V + _ID + rb"\s*,\s*" + _V + rb'"(?:result|error)"\s*:')
_RESULT_FIRST = re.compile(rb"\s*\{\s*" + _V + rb'"(?:result|error)"\s*:')
_ID_LAST = re.compile(_ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line. Raises `ValueError` for what JSON cannot say."""
    return to_json(message, inf_nan_mode="null") + b"\n"


def _nothing() -> None:
    pass


def _closed() -> mcp.MCPError:
    return mcp.MCPError(code=CONNECTION_CLOSED, message="Connection closed")


@final
class _Pending:
    """A request that waits for its answer."""

    __slots__ = ("delivering", "key", "on_progress", "out", "progress", "scope", "task", "timeout", "withdrawn")

    def __init__(self, key: RequestId, on_progress: ProgressFnT | None, timeout: float | None) -> None:
        self.key = key
        self.on_progress = on_progress
        self.timeout = timeout
        self.task: trio.lowlevel.Task | None = None
        self.out: Out | None = None  # while it is queued
        self.scope: trio.CancelScope | None = None
        self.progress: list[tuple[float, float | None, str | None]] = []
        self.delivering = False
        self.withdrawn = False  # cancelled before a byte of it had left

    def start_clock(self) -> None:
        if self.scope is not None and self.timeout is not None:
            self.scope.deadline = trio.current_time() + self.timeout

    def written(self, all_of_it: bool) -> None:
        self.out = None
        if all_of_it:
            self.start_clock()


@final
class Dispatcher:
    """The SDK's `Dispatcher` protocol over a pair of byte pipes. Runs once."""

    def __init__(
        self, pipe: BytePipe, link: Link, *, max_line: int, on_stream_exception: StreamObserver | None = None
    ) -> None:
        self.on_stream_exception = on_stream_exception
        """Is told, in a task of its own, of every line that was no message."""
        self.link = link
        self._max_line = max_line
        self.channel: Final = Channel(
            pipe,
            link,
            max_line=max_line,
            on_line=self._on_line,
            on_overlong=self._on_overlong,
            on_death=self._on_death,
        )
        self._next_id = 0
        self._pending: dict[RequestId, _Pending] = {}
        self._in_flight: dict[RequestId, InboundContext] = {}
        self._turns: deque[Callable[[], object]] = deque()
        self._nursery: trio.Nursery | None = None
        self._relayed: Callable[[Line], None] | None = None
        self._relay_ended: Callable[[], None] | None = None
        self._on_request: OnRequest | None = None
        self._on_notify: OnNotify | None = None
        self._intercept: OnNotifyIntercept | None = None

    def __repr__(self) -> str:
        return f"<Dispatcher of {self.link.server!r}: {len(self._pending)} out, {len(self._in_flight)} in>"

    # Requests.

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result.

        Raises `mcp.MCPError` for the server's error, a timeout (`REQUEST_TIMEOUT`) or a dead connection
        (`CONNECTION_CLOSED`), `MessageTooLargeError` when the answer exceeded the limit, `ValueError` for a request id in
        use or for what JSON cannot say, `RuntimeError` before `run`. Checkpoints.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.channel.closed or self.link.leaving:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise _closed()
        if self._nursery is None:
            raise RuntimeError("send_raw_request was called before run()")
        given = opts.get("request_id") if opts else None
        if given is None:
            self._next_id += 1
            while self._next_id in self._pending:
                self._next_id += 1
            request_id: RequestId = self._next_id
            key: RequestId = request_id
        else:
            request_id = given
            key = coerce_request_id(given)
            if key in self._pending:
                raise ValueError(f"request id {given!r} is already in flight")
            if isinstance(key, int) and self._next_id < key < _LARGEST_SHARED_ID:
                # So that a late answer to a given id never meets a minted one.
                self._next_id = key
        tracer = tracer_if_configured()
        if tracer is None:
            return await self._request(request_id, key, method, params, opts)
        with client_span(tracer, method, params, request_id) as span:
            return await self._request(request_id, key, method, span.params, opts)

    async def _request(
        self,
        request_id: RequestId,
        key: RequestId,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None,
    ) -> dict[str, Any]:
        # No checkpoint from here to the parking: the id is free and stays so.
        timeout = on_progress = None
        if opts:
            timeout = opts.get("timeout")
            on_progress = opts.get("on_progress")
            if on_progress is not None:
                params = {**(params or {})}
                params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params:
            message["params"] = params
        pending = _Pending(key, on_progress, timeout)
        data = encode(message)
        try:
            gather = len(self._pending) >= _CROWD
            pending.out = self.channel.put(data, self.link.current_call(), pending.written, gather=gather)
        except trio.ClosedResourceError:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise _closed() from None
        self._pending[key] = pending
        quietly = opts is not None and opts.get("cancel_on_abandon") is False
        if timeout is None:
            try:
                return await self._park(pending)
            except trio.Cancelled:
                self._abandoned(pending, request_id, "caller cancelled", quietly)
                raise
        with trio.CancelScope() as pending.scope:
            if pending.out is None:
                pending.start_clock()
            try:
                return await self._park(pending)
            except trio.Cancelled:
                late = pending.scope.cancel_called
                why = f"timed out after {timeout:g}s" if late else "caller cancelled"
                self._abandoned(pending, request_id, why, quietly)
                raise
        raise mcp.MCPError(code=REQUEST_TIMEOUT, message=f"Request {method!r} timed out")

    async def _park(self, pending: _Pending) -> dict[str, Any]:
        def abort(_: object) -> trio.lowlevel.Abort:
            # Synchronous with the cancellation: a response or a free pipe in the same instant finds nothing any more.
            del self._pending[pending.key]
            pending.task = None
            pending.withdrawn = pending.out is not None and self.channel.withdraw(pending.out)
            return trio.lowlevel.Abort.SUCCEEDED

        pending.task = trio.lowlevel.current_task()
        result: dict[str, Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def _abandoned(self, pending: _Pending, request_id: RequestId, why: str, quietly: bool) -> None:
        """Nobody waits for the answer any more. Tell the server, unless it never heard of the request."""
        if pending.withdrawn or quietly or self.link.leaving or self.channel.closed:
            return
        notice = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": request_id, "reason": why},
        }
        try:
            self.channel.put(encode(notice))
        except trio.ClosedResourceError:
            logger.debug("server %s: dropped a cancelled notice: connection closed", self.link.server)

    def _resolve(self, key: RequestId, result: outcome.Outcome[Any]) -> None:
        pending = self._pending.pop(key, None)
        if pending is None or pending.task is None:
            logger.debug("server %s: dropped a response to an unknown or abandoned id", self.link.server)
            return
        trio.lowlevel.reschedule(pending.task, result)
        pending.task = None

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification and wait until the pipe has taken it. Dropped in silence on a dead connection. Checkpoints."""
        await trio.lowlevel.checkpoint_if_cancelled()
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        if self.link.leaving:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        await self._post(encode(message))

    async def _post(self, data: bytes) -> None:
        """Send what has no answer."""
        task = trio.lowlevel.current_task()

        def done(_: bool) -> None:
            trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            if out is not None and not self.channel.withdraw(out):
                out.done = None
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            out = self.channel.put(data, None, done)
        except trio.ClosedResourceError:
            out = None
        if out is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await trio.lowlevel.wait_task_rescheduled(abort)

    # What arrives. Everything here is synchronous and runs in the reading task.

    @trio.lowlevel.enable_ki_protection
    def _on_line(self, line: Line) -> None:
        if self._relayed is not None:
            self._relayed(line)
            return
        try:
            message = from_json(line)
        except ValueError as exc:
            message = self._second_reading(line, exc)
            if message is None:
                return
        if type(message) is dict:
            self._on_message(message, line)
        elif type(message) is list and message:
            # A batch, as protocol version 2025-03-26 had them.
            for one in message:
                if type(one) is dict:
                    self._on_message(one, line)
                else:
                    self._report("a batch holds something that is no JSON-RPC message", line)
        else:
            self._report("a line is no JSON-RPC message", line)

    def _second_reading(self, line: Line, why: ValueError) -> Any:
        """Read a line whose only fault may be its encoding; `None` if it is no JSON at all."""
        try:
            line.decode()
        except UnicodeDecodeError:
            try:
                message = from_json(line.decode("utf-8", "replace"))
            except ValueError:
                message = None
            self._report("a line is not valid UTF-8", line)
            return message
        self._report(f"a line is not JSON ({str(why)[:80]})", line)
        return None

    def _on_message(self, message: dict[str, Any], line: Line) -> None:
        method = message.get("method")
        if message.get("jsonrpc") != "2.0":
            self._report("a message does not say that it is JSON-RPC 2.0", line)
        elif method is None:
            self._on_response(message, line)
        elif type(method) is not str or ((params := message.get("params")) is not None and type(params) is not dict):
            self._report("a message has a malformed method or params", line)
            if (bad_id := as_request_id(message.get("id"))) is not None:
                self._spawn(self._answer_error, bad_id, INVALID_REQUEST, "Malformed request", None)
        elif "id" not in message:
            self._on_notification(method, params)
        elif (request_id := as_request_id(message["id"])) is None:
            self._report("a request has no proper id", line)
        else:
            context = InboundContext(self, request_id, progress_token_from_params(params))
            if self._spawn(self._serve, context, request_id, method, params):
                self._in_flight[coerce_request_id(request_id)] = context

    def _on_response(self, message: dict[str, Any], line: Line) -> None:
        request_id = as_request_id(message.get("id"))
        if request_id is None:
            self._report("a response has no proper id", line)
            return
        key = coerce_request_id(request_id)
        result = message.get("result")
        if type(result) is dict:
            self._answered(key, outcome.Value(result))
            return
        error = message.get("error")
        if type(error) is dict and type(error.get("code")) is int and type(error.get("message")) is str:
            self._answered(key, outcome.Error(mcp.MCPError(error["code"], error["message"], error.get("data"))))
            return
        self._report("a response has neither a result object nor a proper error", line)
        self._answered(key, outcome.Error(mcp.MCPError(INTERNAL_ERROR, "The server sent a malformed response")))

    def _answered(self, key: RequestId, result: outcome.Outcome[Any]) -> None:
        if self._turns:
            self._turns.append(partial(self._resolve, key, result))
        else:
            self._resolve(key, result)

    def _on_notification(self, method: str, params: dict[str, Any] | None) -> None:
        if method == "notifications/cancelled":
            cancelled = cancelled_request_id_from_params(params)
            if cancelled is not None and (context := self._in_flight.get(coerce_request_id(cancelled))) is not None:
                context.cancel_requested.set()
                context.scope.cancel(reason="the server cancelled its request")
        elif method == "notifications/progress" and params is not None:
            self._on_progress(params)
        if run_notify_intercept(self._intercept, method, params) or self.channel.ending:
            return
        self._turns.append(partial(self._spawn, self._deliver, method, params))
        if len(self._turns) == 1:
            self._spawn(self._take_turns)

    def _on_progress(self, params: dict[str, Any]) -> None:
        token = as_request_id(params.get("progressToken"))
        progress = params.get("progress")
        if token is None or isinstance(progress, bool) or not isinstance(progress, int | float):
            return
        pending = self._pending.get(coerce_request_id(token))
        if pending is None or pending.on_progress is None:
            return
        total, message = params.get("total"), params.get("message")
        pending.progress.append(
            (
                float(progress),
                float(total) if isinstance(total, int | float) else None,
                message if isinstance(message, str) else None,
            )
        )
        if not pending.delivering:
            # One task per request, so that its progress arrives in order; a blocking callback stalls only itself.
            pending.delivering = True
            self._spawn(self._deliver_progress, pending, pending.on_progress)

    def _on_overlong(self, head: bytes, tail: bytes) -> None:
        found = _ID_FIRST.match(head) or (_RESULT_FIRST.match(head) and _ID_LAST.search(tail))
        if found:
            key = coerce_request_id(from_json(found.group(1)))
            if key in self._pending:
                error = MessageTooLargeError(
                    f"server {self.link.server!r} sent an answer of more than {self._max_line} bytes",
                    server=self.link.server,
                    limit=self._max_line,
                )
                self._resolve(key, outcome.Error(error))
                return
        self._report(f"a line of more than {self._max_line} bytes was skipped", head)

    def _report(self, what: str, line: Line) -> None:
        """Say that a line was no message, without showing more of it than a glance needs."""
        shown = self.link.mask(bytes(line[: 4 * _SHOWN]).decode("utf-8", "replace"))[:_SHOWN]
        if self.on_stream_exception is None:
            logger.warning("server %s: %s: %r", self.link.server, what, shown)
        else:
            logger.debug("server %s: %s: %r", self.link.server, what, shown)
            self._spawn(self._observe, self.on_stream_exception, ValueError(f"{what}: {shown!r}"))

    # What runs in tasks of its own.

    def _spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> bool:
        # The last bytes of a dead server are searched for answers only: handlers could not answer any more.
        if self._nursery is None or self.channel.ending:
            return False
        self._nursery.start_soon(function, *args)
        return True

    async def _take_turns(self) -> None:
        """Begin one callback per tick: Trio runs the tasks of one tick in any order. An answer that finds no callback
        ahead of it does not come this way."""
        turns = self._turns
        while turns:
            # Its place is kept until it has begun, so that what arrives meanwhile lines up behind it; but it is not begun
            # again if the session is left in that tick.
            turn, turns[0] = turns[0], _nothing
            turn()
            await trio.lowlevel.checkpoint()
            if turns:
                turns.popleft()

    async def _serve(
        self, context: InboundContext, request_id: RequestId, method: str, params: dict[str, Any] | None
    ) -> None:
        """Run the handler of one inbound request and answer it, unless the server has cancelled it."""
        assert self._on_request is not None
        result: dict[str, Any] = {}
        error: tuple[int, str, Any] | None = None
        try:
            with context.scope:
                result = await self._on_request(context, method, params)
        except Exception as exc:
            known = handler_exception_to_error_data(exc)
            if known is None:
                logger.exception("server %s: the handler of %r raised", self.link.server, method)
                error = INTERNAL_ERROR, "The client's handler failed", None
            else:
                error = known.code, known.message, known.data
        finally:
            context.close()
            key = coerce_request_id(request_id)
            if self._in_flight.get(key) is context:
                del self._in_flight[key]
        if context.was_cancelled:
            return
        if error is None:
            try:
                data = encode({"jsonrpc": "2.0", "id": request_id, "result": result})
            except ValueError:
                logger.exception("server %s: the result of %r is not JSON", self.link.server, method)
                error = INTERNAL_ERROR, "The client's handler gave a result that is not JSON", None
            else:
                if not self.link.leaving:
                    await self._post(data)
        if error is not None:
            await self._answer_error(request_id, *error)

    async def _answer_error(self, request_id: RequestId, code: int, message: str, data: Any) -> None:
        error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            error["data"] = data
        if not self.link.leaving:
            try:
                line = encode({"jsonrpc": "2.0", "id": request_id, "error": error})
            except ValueError:
                line = encode({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})
            await self._post(line)

    async def _deliver(self, method: str, params: dict[str, Any] | None) -> None:
        assert self._on_notify is not None
        try:
            await self._on_notify(InboundContext(self, None, None), method, params)
        except Exception:
            logger.exception("server %s: the handler of notification %r raised", self.link.server, method)

    async def _deliver_progress(self, pending: _Pending, on_progress: ProgressFnT) -> None:
        try:
            while pending.progress:
                try:
                    await on_progress(*pending.progress.pop(0))
                except Exception:
                    logger.exception("server %s: a progress callback raised", self.link.server)
        finally:
            pending.delivering = False

    async def _observe(self, observer: StreamObserver, exc: Exception) -> None:
        try:
            await observer(exc)
        except Exception:
            logger.exception("server %s: the observer of bad lines raised", self.link.server)

    # Life.

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Drive the channel until it dies or the caller is cancelled. Handlers that still run then are cancelled."""
        if self._nursery is not None:
            raise RuntimeError("a dispatcher runs only once")
        self._on_request = on_request
        self._on_notify = on_notify
        self._intercept = on_notify_intercept
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self.channel.run(nursery)

    def relay(self, on_line: Callable[[Line], None], on_death: Callable[[], None]) -> None:
        """Hand every line on as it is and leave the protocol to somebody else, who runs the channel."""
        self._relayed = on_line
        self._relay_ended = on_death

    def _on_death(self) -> None:
        if self._relay_ended is not None:
            self._relay_ended()
        while self._turns:
            self._turns.popleft()()  # answers that had arrived; nothing else begins any more
        for key in list(self._pending):
            self._resolve(key, outcome.Error(_closed()))
