"""A JSON-RPC dispatcher straight on a pair of byte pipes.

It satisfies the SDK's `Dispatcher` protocol, which is what the SDK's session drives, and stands in for the SDK's
`JSONRPCDispatcher`. Between the caller and the pipe there is nothing: the caller writes its request itself, and reads the
answer itself if nobody else waits for one, or parks, and whoever reads the answer wakes it. No memory channels, no task per
message, at most two task switches per call.

Two promises beyond the protocol's:

- `Call.written` becomes true exactly when the last byte of one of that call's requests was accepted (R13).
- A cancelled caller leaves at once, whatever the pipe does. If its request was not sent, nothing is; if it was, a
  cancelled notice follows; a partly sent one is completed first.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import anyio
import anyio.abc
import outcome
import trio
from mcp_types import RequestId

from ..._errors import MessageTooLargeError
from .._link import Link
from .._seam import TransportContext
from ..jsonrpc._faults import FaultLog
from ..jsonrpc._inbound import Inbound
from ..jsonrpc._limits import too_many_values
from ..jsonrpc._long import Cut, cut_long_strings
from ..jsonrpc._messages import (
    as_request_id,
    coerce_request_id,
    connection_closed,
    decode,
    encode,
    invalid_answer,
    read_answer,
)
from ..jsonrpc._outbound import Outbound, Request
from ..jsonrpc._tolerant import ENDS, Unreadable, decode_tolerantly, describe, id_of_answer
from ._channel import Channel
from ._lines import Line, Overlong
from ._pipe import BytePipe

if TYPE_CHECKING:
    from .._seam import CallOptions, OnNotify, OnNotifyIntercept, OnRequest

logger = logging.getLogger("trio_mcp_pool.wire")

StreamObserver: TypeAlias = Callable[[Exception], Awaitable[None]]

_CROWD: Final = 5
"""With so many requests under way, others probably send in the same tick; one system call for all is worth a task switch."""


@final
class Dispatcher:
    """The SDK's `Dispatcher` protocol over a pair of byte pipes. Runs once."""

    def __init__(
        self,
        pipe: BytePipe,
        link: Link,
        *,
        max_message: int,
        max_values: int,
        on_stream_exception: StreamObserver | None = None,
        settle: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """`settle` waits, when the peer is gone, for what is worth knowing about its end; bounded."""
        self.on_stream_exception = on_stream_exception
        """Is told, in a task of its own, of every line that was no message."""
        self.link = link
        self._max_message = max_message
        self._max_values = max_values
        self._faults = FaultLog(link)
        self._outbound = Outbound(link, self)
        self._inbound = Inbound(
            link, TransportContext(kind="stdio", can_send_request=True), self._outbound.pending.get, max_message
        )
        self._turns = self._inbound.turns
        self._settle = settle
        self.channel: Final = Channel(pipe, link, self, max_message=max_message)
        self._running = False

    def __repr__(self) -> str:
        out, in_ = len(self._outbound.pending), len(self._inbound.in_flight)
        return f"<Dispatcher of {self.link.server!r}: {out} out, {in_} in>"

    # Out.

    def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> CoroutineType[Any, Any, dict[str, Any]]:
        """Send a request and wait for its result; see `Outbound.send_raw_request`.

        Raises also `MessageTooLargeError` when the answer exceeded the limit, and `RuntimeError` before `run`.
        """
        # No coroutine of its own: every call comes through here, and a frame more costs all of them.
        return self._outbound.send_raw_request(method, params, opts)  # type: ignore[return-value]

    async def carry(self, request: Request) -> dict[str, Any]:
        """Write a request in its caller's task and wait for the answer (`Carrier`)."""
        if not self._running:
            raise RuntimeError("send_raw_request was called before run()")
        data = encode(request.message) + b"\n"

        def written(all_of_it: bool) -> None:
            request.out = None
            if all_of_it:
                request.start_clock()

        try:
            gather = len(self._outbound.pending) >= _CROWD
            request.out = self.channel.put(data, request.call, written, gather=gather)
        except trio.ClosedResourceError:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise connection_closed() from None
        if request.out is None:
            request.start_clock()
            if len(self._outbound.pending) == 1 and self.channel.can_lend:
                answer = await self._outbound.read(request, self.channel)
                if answer is not None:
                    return answer.unwrap()
        return await self._outbound.park(request, self._withdraw)

    def _withdraw(self, request: Request) -> bool:
        return request.out is not None and self.channel.withdraw(request.out)

    def abandoned(self, request: Request, why: str) -> None:
        """Send the cancelled notice (`Carrier`)."""
        notice = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": request.id, "reason": why},
        }
        try:
            self.channel.put(encode(notice) + b"\n")
        except trio.ClosedResourceError:
            logger.debug("server %s: dropped a cancelled notice: connection closed", self.link.server)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification and wait until the pipe has taken it. Dropped in silence on a dead connection. Checkpoints."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self.reply(encode(message))

    async def reply(self, data: bytes) -> None:
        """Send what has no answer: a notification, or the answer to a request of the server (`Back`)."""
        await trio.lowlevel.checkpoint_if_cancelled()
        out = None
        if not self.link.leaving:
            task = trio.lowlevel.current_task()

            def done(_: bool) -> None:
                trio.lowlevel.reschedule(task)

            try:
                out = self.channel.put(data + b"\n", None, done)
            except trio.ClosedResourceError:
                logger.debug("server %s: dropped a message: connection closed", self.link.server)
        if out is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        waiting = out

        def abort(_: object) -> trio.lowlevel.Abort:
            if not self.channel.withdraw(waiting):
                waiting.done = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    # What arrives (`Receiver`). Everything here but the waiting is synchronous and runs in the reading task.

    async def on_long_line(self, line: Line) -> None:
        """The same of a long one, with pauses. They cannot be cancelled."""
        self.on_line(line, await cut_long_strings(line, trio.lowlevel.cancel_shielded_checkpoint))

    @trio.lowlevel.enable_ki_protection
    def on_line(self, line: Line, cut: Cut | None = None) -> None:
        """Read one line, and deliver what it says."""
        if len(line) > self._max_values and too_many_values(cut.rest if cut else line, self._max_values):
            self._too_large(line[:ENDS], line[-ENDS:], self._max_values, "JSON values")
            return
        try:
            message = decode(line, cut)
        except ValueError:
            try:
                message, fault = decode_tolerantly(line)
            except Unreadable as exc:
                self._unreadable(line, str(exc))
                return
            self._report(fault, line, message)
        if type(message) is dict:
            key, result = message.get("id"), message.get("result")
            if len(message) == 3 and type(key) is int and type(result) is dict and message.get("jsonrpc") == "2.0":
                # What nearly every line is, with nothing besides that could be wrong.
                self._turns.answer(self._resolve, key, outcome.Value(result))
            else:
                self._on_message(message, line, len(line))
        elif type(message) is list and message:
            # A batch, as protocol version 2025-03-26 had them.
            for one in message:
                if type(one) is dict:
                    self._on_message(one, line, len(line) // len(message))
                else:
                    self._report("is a batch that holds something which is no JSON-RPC message", line)
        else:
            self._report("is no JSON-RPC message", line)

    def _on_message(self, message: dict[str, Any], line: Line, size: int) -> None:
        if message.get("jsonrpc") != "2.0":
            # What it means is clear all the same.
            self._report("does not say that it is JSON-RPC 2.0", line, message)
        if message.get("method") is None:
            self._on_response(message, line)
        elif fault := self._inbound.receive(message, size, self):
            self._report(fault, line, message)

    def _on_response(self, message: dict[str, Any], line: Line) -> None:
        request_id = as_request_id(message.get("id"))
        if request_id is None:
            self._report("is a response without a proper id", line, message)
            return
        answer = read_answer(message, self.link.server)
        self._turns.answer(self._resolve, coerce_request_id(request_id), answer)

    def _resolve(self, key: RequestId, answer: outcome.Outcome[Any]) -> None:
        if not self._outbound.resolve(key, answer):
            logger.debug("server %s: dropped a response to an unknown or abandoned id", self.link.server)

    def _unreadable(self, line: Line, fault: str) -> None:
        self._report(fault, line)
        key = id_of_answer(line[:ENDS], line[-ENDS:])
        if key is not None:
            error = invalid_answer(self.link.server, f"that cannot be read: its line {fault}")
            self._turns.answer(self._resolve, key, outcome.Error(error))

    @trio.lowlevel.enable_ki_protection
    def on_overlong(self, line: Overlong) -> None:
        """Tell the caller whose answer was too long, if it is known."""
        self._too_large(line.head, line.tail, self._max_message, "bytes")

    @property
    def full(self) -> bool:
        """Whether reading should stop until callbacks have begun or ended."""
        return self._turns.full

    async def wait_room(self) -> None:
        """Wait until reading may go on. Bounded, even where callbacks block for ever."""
        await self._turns.wait_room()

    def on_end(self) -> None:
        """The peer is gone. Its last bytes are searched for answers only: handlers could not answer any more."""
        self._inbound.stop()

    async def settle(self) -> None:
        """Wait a moment for what is worth knowing about the peer's end."""
        await self._settle()

    def on_death(self) -> None:
        """The session is over, and the link knows: let everybody go."""
        self._inbound.stop()  # also where the session was left and nobody died
        self._outbound.close()

    def _too_large(self, head: bytes | bytearray, tail: bytes | bytearray, limit: int, unit: str) -> None:
        key = id_of_answer(head, tail)
        if key is not None and key in self._outbound.pending:
            error = MessageTooLargeError(
                f"server {self.link.server!r} sent an answer of more than {limit} {unit}",
                server=self.link.server,
                outcome="answered",
                limit=limit,
            )
            self._turns.answer(self._resolve, key, outcome.Error(error))
        else:
            self._report(f"has more than {limit} {unit} and was skipped", None)

    def _report(self, fault: str, line: Line | None, message: dict[str, Any] | None = None) -> None:
        """Say that a line was bad, without anything of its content (R16)."""
        if self.on_stream_exception is None and not self._faults.due():
            return
        text = f"a line {fault}" if line is None else f"a line {fault} ({describe(line, message)})"
        if self.on_stream_exception is None:
            self._faults.warn(text)
        else:
            logger.debug("server %s: %s", self.link.server, text)
            self._inbound.observe(self.on_stream_exception, ValueError(text))

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
        if self._running:
            raise RuntimeError("a dispatcher runs only once")
        async with trio.open_nursery() as nursery:
            self._inbound.start(nursery, on_request, on_notify, on_notify_intercept)
            self._running = True
            task_status.started()
            await self.channel.run(nursery)
