"""Requests to the server: their ids, their progress tokens, their timeouts, and what follows when nobody waits any more.

A request is carried by the wire, in the caller's own task. Two task switches make a call: the caller parks, and whoever
reads the answer wakes it; or none, where the caller can read it itself. There is no memory channel and no task per request
in between.

Promises kept here (R11, R13, R15): a cancelled caller leaves at once, whatever the wire does; the server is told, unless it
never heard of the request; an id is never given twice while an answer to it may still come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import mcp
import outcome
import trio
from mcp_types import REQUEST_TIMEOUT, RequestId

from .._link import Call, Link
from ._messages import coerce_request_id, connection_closed
from ._tracing import client_span, tracer_if_configured

if TYPE_CHECKING:
    from .._seam import CallOptions, ProgressFnT

_LARGEST_SHARED_ID: Final = 2**52

NO_OPTIONS: Final[CallOptions] = {}


@final
class Request:
    """A request that waits for its answer."""

    __slots__ = (
        "answer", "call", "context", "delivering", "id", "key", "message", "method", "on_progress", "options", "out",
        "outbound", "progress", "progress_bytes", "reader", "scope", "task", "timeout", "withdraw", "withdrawn",
    )  # fmt: skip

    def __init__(
        self,
        key: RequestId,
        request_id: RequestId,
        method: str,
        params: Mapping[str, Any] | None,
        options: CallOptions,
        call: Call | None,
    ) -> None:
        self.key = key
        """What an answer's id is compared with."""
        self.id = request_id
        """The id as it stands on the wire."""
        self.method = method
        self.options = options
        self.call = call
        """The call of the pool that it belongs to. The wire marks it as written with the request's last byte."""
        self.timeout: float | None = None
        self.scope: trio.CancelScope | None = None
        self.task: trio.lowlevel.Task | None = None
        """The caller's, while it is parked."""
        self.outbound: Outbound
        self.withdraw: Withdraw
        self.reader: Reader | None = None
        """What the caller reads, while it does."""
        self.answer: outcome.Outcome[dict[str, Any]] | None = None
        """What it has read, or why it need not read any longer."""
        self.withdrawn = False
        """Whether it was taken back before a byte of it had left, so that the server never hears of it."""
        self.out: Any = None
        """The wire's own note of it."""
        self.on_progress: ProgressFnT | None = None
        self.context: Context | None = None
        """The caller's context variables, for its progress callback."""
        self.message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if options:
            self.timeout = options.get("timeout")
            on_progress = options.get("on_progress")
            if on_progress is not None:
                self.on_progress = on_progress
                self.context = copy_context()
                self.progress: deque[tuple[int, float, float | None, str | None]] = deque()
                self.progress_bytes = 0
                self.delivering = False
                params = {**(params or {})}
                params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        if params:
            self.message["params"] = params

    def unpark(self) -> None:
        self.task = None
        if self.call is not None:
            self.call.parked = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The caller is cancelled: an answer or a free pipe in the same instant finds nothing any more."""
        del self.outbound.pending[self.key]
        self.unpark()
        self.withdrawn = self.withdraw(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def cut(self) -> None:
        """Let its caller go (`Parked`)."""
        if self.task is not None:
            self.withdrawn = self.withdraw(self)
        self.outbound.resolve(self.key, outcome.Error(connection_closed()))

    def start_clock(self) -> None:
        """Its last byte has left: from now on the timeout counts."""
        if self.scope is not None and self.timeout is not None:
            self.scope.deadline = trio.current_time() + self.timeout


class Carrier(Protocol):
    """What a wire does for a request."""

    async def carry(self, request: Request) -> dict[str, Any]:
        """Send it and return its result, or raise the server's error. Runs in the caller's task, which may be cancelled.

        Calls `request.start_clock` when the last byte has left, and sets `request.call.written`. `Outbound.park` is there
        to wait. Raises `ValueError` for what JSON cannot say, before anything is sent.
        """
        ...

    def abandoned(self, request: Request, why: str) -> None:
        """Nobody waits for the answer any more: tell the server. Synchronous, never blocks, never raises."""
        ...


@final
class Outbound:
    """The requests of one session that wait for an answer."""

    def __init__(self, link: Link, carrier: Carrier) -> None:
        self.link = link
        self.pending: Final[dict[RequestId, Request]] = {}
        """By the key of their ids."""
        self.closed = False
        """Whether no answer can come any more."""
        self._carrier = carrier
        self._last_id = 0

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result, as the SDK's `Dispatcher` promises it.

        Raises `mcp.MCPError` for the server's error, a timeout (`REQUEST_TIMEOUT`) or a dead connection
        (`CONNECTION_CLOSED`), `ValueError` for a request id in use or for what JSON cannot say, and the pool's errors where a
        wire has them. Checkpoints.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self.link.leaving:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise connection_closed()
        # No checkpoint from here until the request waits: the id is free and stays so.
        request_id, key = self._mint(opts)
        tracer = tracer_if_configured()
        if tracer is None:
            return await self._carry(request_id, key, method, params, opts)
        with client_span(tracer, method, params, request_id) as span:
            return await self._carry(request_id, key, method, span.params, opts)

    def _mint(self, opts: CallOptions | None) -> tuple[RequestId, RequestId]:
        given = opts.get("request_id") if opts else None
        if given is None:
            self._last_id += 1
            while self._last_id in self.pending:
                self._last_id += 1
            return self._last_id, self._last_id
        key = coerce_request_id(given)
        if key in self.pending:
            raise ValueError(f"request id {given!r} is already in flight")
        if isinstance(key, int) and self._last_id < key < _LARGEST_SHARED_ID:
            # So that a late answer to a given id never meets a minted one.
            self._last_id = key
        return given, key

    async def _carry(
        self,
        request_id: RequestId,
        key: RequestId,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None,
    ) -> dict[str, Any]:
        request = Request(key, request_id, method, params, opts or NO_OPTIONS, self.link.current_call())
        self.pending[key] = request
        try:
            if request.timeout is None:
                return await self._wait(request)
            with trio.CancelScope() as request.scope:
                return await self._wait(request)
        finally:
            if self.pending.get(key) is request:
                del self.pending[key]
        raise mcp.MCPError(code=REQUEST_TIMEOUT, message=f"Request {method!r} timed out")

    async def _wait(self, request: Request) -> dict[str, Any]:
        try:
            result = await self._carrier.carry(request)
        except trio.Cancelled:
            over = self.closed or self.link.leaving
            if not request.withdrawn and not over and request.options.get("cancel_on_abandon", True):
                late = request.scope is not None and request.scope.cancel_called
                self._carrier.abandoned(
                    request, f"timed out after {request.timeout:g}s" if late else "caller cancelled"
                )
            raise
        if (call := request.call) is not None:
            call.answers += 1
            call.answer = result
        return result

    async def read(self, request: Request, reader: Reader) -> outcome.Outcome[dict[str, Any]] | None:
        """Read what arrives next in the caller's task. Its answer; `None` where something else has arrived, or nothing that
        the reader lets others have. Not for a request that can be withdrawn. Checkpoints."""
        request.outbound, request.reader = self, reader
        if request.call is not None:
            request.call.parked = request
        try:
            await reader.read_once()
        finally:
            request.reader = None
            request.unpark()
        return request.answer

    async def park(self, request: Request, withdraw: Withdraw) -> dict[str, Any]:
        """Wait until `resolve` gives the answer. `withdraw(request)`, synchronous with a cancellation, takes the request
        back and says whether not a byte of it had left."""

        request.task = trio.lowlevel.current_task()
        request.outbound, request.withdraw = self, withdraw
        if request.call is not None:
            request.call.parked = request
        result: dict[str, Any] = await trio.lowlevel.wait_task_rescheduled(request.abort)
        return result

    def resolve(self, key: RequestId, result: outcome.Outcome[Any]) -> bool:
        """Give a parked request its answer. `False` where nobody waits for it. Synchronous."""
        request = self.pending.get(key)
        if request is None:
            return False
        if request.task is not None:
            trio.lowlevel.reschedule(request.task, result)
            request.unpark()
        elif request.reader is not None:
            request.answer = result
            request.reader.stop_reading()
        else:
            return False
        del self.pending[key]
        return True

    def close(self) -> None:
        """No answer can come any more: everybody who is parked gets `CONNECTION_CLOSED`. Synchronous, idempotent."""
        self.closed = True
        for key in list(self.pending):
            self.resolve(key, outcome.Error(connection_closed()))


class Reader(Protocol):
    """What a caller can read itself."""

    async def read_once(self) -> None:
        """Wait until something has arrived, and deliver it."""
        ...

    def stop_reading(self) -> None:
        """Whoever is in `read_once` goes on."""
        ...


class Withdraw(Protocol):
    def __call__(self, request: Request, /) -> bool: ...
