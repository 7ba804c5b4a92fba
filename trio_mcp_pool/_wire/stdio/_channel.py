"""Messages over a pair of byte pipes: what is written, what is read, and when the channel is dead.

Writing is synchronous as long as the pipe takes what it is given: no queue, no other task. A message is queued only when
the pipe is full, or when the sender knows that others send at the same time and asks for it (`gather`), and a task of
the channel's own writes the queue, many small messages with one system call. So at any moment at most one message is
partly written, and it is always completed before any other byte; a message that is still wholly queued can be withdrawn
without a trace.

Reading goes on all the time, so the end of the stream is noticed at once, idle or not; but never for longer than two
milliseconds without a pause for others, and not while the receiver is full (R19). A task of the channel's own reads, unless
a caller that waits for the only answer does it in its place (`read_once`, `_readable.py`). The channel dies once, by
whatever sign comes first: end of stream, a broken pipe, an ended process (`end`), or a pipe that accepts no byte for
`write_timeout` while one waits to be written. Whatever had already arrived by then is read first, so that a last answer is
not lost; then the receiver has a moment to learn how the process ended; then the link is told, and everybody is let go. Who
calls in between waits with the others, so that all are told the same.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from time import perf_counter
from typing import Final, Protocol, final

import trio

from .._link import Call, Link
from ..jsonrpc._long import LONG
from ._lines import Line, Lines, Overlong
from ._pipe import CHUNK, BytePipe
from ._readable import ReadableWait

logger = logging.getLogger("trio_mcp_pool.wire")

# So much is gathered from small messages for one system call: what a pipe usually holds.
_PIECE = 65536
# What is still read of a dead peer's pipe: what a pipe holds at most, and an end to a survivor that keeps writing.
_LAST_BYTES = 1024 * 1024
_SLICE: Final = 0.002
"""Seconds of reading after which other tasks have a turn."""


class Receiver(Protocol):
    """Who gets what the channel reads. All but `wait_room` and `settle` is called synchronously, in the reading task."""

    def on_line(self, line: Line) -> None:
        """A line has arrived, with or without its newline."""
        ...

    async def on_long_line(self, line: Line) -> None:
        """The same, for a line of `LONG` bytes or more: it may pause, which cannot be cancelled."""
        ...

    def on_overlong(self, line: Overlong) -> None:
        """A line over the limit was skipped."""
        ...

    @property
    def full(self) -> bool:
        """Whether reading should stop, because what was read has not been used yet."""
        ...

    async def wait_room(self) -> None:
        """Wait until reading may go on."""
        ...

    def on_end(self) -> None:
        """The peer is gone: only its last bytes follow."""
        ...

    async def settle(self) -> None:
        """The last bytes are read: wait a moment for what is worth knowing about the peer's end."""
        ...

    def on_death(self) -> None:
        """The channel is dead or closed, and the link knows."""
        ...


@final
class Out:
    """A message on its way out that was not accepted at once."""

    __slots__ = ("call", "data", "done", "sent")

    def __init__(self, data: bytes, sent: int, call: Call | None, done: Callable[[bool], None] | None) -> None:
        self.data = data
        self.sent = sent
        """How many of its bytes the pipe has accepted."""
        self.call = call
        self.done = done
        """Called once, synchronously: `True` when the last byte was accepted, `False` when it never will be."""


@final
class Channel:
    """Sends whole messages and delivers whole lines. All methods but `run` are synchronous."""

    def __init__(self, pipe: BytePipe, link: Link, receiver: Receiver, *, max_message: int) -> None:
        self.closed = False
        """Whether the channel is dead or closed: nothing is sent or delivered any more."""
        self.ending = False
        """Whether the peer is gone: what is being delivered are its last bytes, and nothing is sent any more."""
        self._pipe = pipe
        self._link = link
        self._receiver = receiver
        self._lines = Lines(max_message)
        self._cause: BaseException | None = None
        self._queue: OrderedDict[Out, None] = OrderedDict()
        self._writer: trio.lowlevel.Task | None = None  # the writing task, while it has nothing to write
        self._stall: trio.CancelScope | None = None
        self._scope: trio.CancelScope | None = None
        self._reading: trio.CancelScope | None = None
        self._pause_at = 0.0
        self._wait = ReadableWait(pipe)
        self._left: bytes | None = None  # what a caller has read and not delivered
        self._context = Context()

    # Out.

    @trio.lowlevel.enable_ki_protection
    def put(
        self, data: bytes, call: Call | None = None, done: Callable[[bool], None] | None = None, *, gather: bool = False
    ) -> Out | None:
        """Send a message. `None` when the pipe accepted all of it; otherwise what stands in the queue.

        With `gather` it is queued in any case, and goes out in the next tick together with whatever else is queued by then.

        `call.written` becomes true with the last byte. `done` is called only for a message that was queued. When the peer is
        gone, by this very attempt or before, the message is queued and never sent. Raises `trio.ClosedResourceError` when the
        channel is closed.
        """
        if self.closed:
            raise trio.ClosedResourceError
        sent = 0
        if not self._queue and not gather and not self.ending:
            try:
                sent = self._pipe.send_nowait(data)
            except (OSError, trio.ClosedResourceError) as exc:
                self.end(exc)
            else:
                if sent == len(data):
                    if call is not None:
                        call.written = True
                    return None
                self._patience(trio.current_time() + self._link.write_timeout)
        out = Out(data, sent, call, done)
        self._queue[out] = None
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)
        return out

    @trio.lowlevel.enable_ki_protection
    def withdraw(self, out: Out) -> bool:
        """Take a message back if not one byte of it has left. `False` when it is too late."""
        if out.sent or out not in self._queue:
            return False
        del self._queue[out]
        if not self._queue:
            self._patience(math.inf)
        return True

    @trio.lowlevel.enable_ki_protection
    def _flush(self) -> None:
        """Write from the queue what the pipe accepts now."""
        while self._queue and not self.ending:
            data = self._next_bytes()
            try:
                accepted = self._pipe.send_nowait(data)
            except (OSError, trio.ClosedResourceError) as exc:
                self.end(exc)
                return
            self._accepted(accepted)
            if accepted < len(data):
                if accepted or self._stall is None or self._stall.deadline == math.inf:
                    self._patience(trio.current_time() + self._link.write_timeout)
                return
        self._patience(math.inf)

    def _next_bytes(self) -> bytes | memoryview:
        """The front of the queue: one large message, or several small ones in one piece, which costs one system call."""
        first = next(iter(self._queue))
        if first.sent or len(self._queue) == 1 or len(first.data) >= _PIECE:
            return memoryview(first.data)[first.sent :]
        piece: list[bytes] = []
        size = 0
        for out in self._queue:
            piece.append(out.data)
            size += len(out.data)
            if size >= _PIECE:
                break
        return b"".join(piece)

    def _accepted(self, count: int) -> None:
        """So many bytes of the front of the queue have left."""
        while count:
            out = next(iter(self._queue))
            part = min(count, len(out.data) - out.sent)
            out.sent += part
            count -= part
            if out.sent < len(out.data):
                return
            del self._queue[out]
            if out.call is not None:
                out.call.written = True
            if out.done is not None:
                out.done(True)

    def _patience(self, until: float) -> None:
        if self._stall is not None and self._stall.deadline != until:
            self._stall.deadline = until

    async def _write(self) -> None:
        """Write the queue whenever there is one."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while not self.ending:
            due = trio.current_time() + self._link.write_timeout if self._queue else math.inf
            with trio.CancelScope(deadline=due) as self._stall:
                while not self.ending:
                    if not self._queue:
                        self._writer = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(abort)
                    else:
                        await self._pipe.wait_writable()
                    self._flush()
            # The last message may have been withdrawn at the very moment of the deadline: then nothing waits any more.
            if self._queue:
                self.end(TimeoutError(f"no byte was accepted for {self._link.write_timeout:g} s"))

    # In.

    async def _read(self) -> None:
        """Read until the end of the stream."""
        pipe, receiver = self._pipe, self._receiver
        more = False
        while True:  # noqa: ASYNC913 (it yields after so many bytes, and where there is nothing to read it waits)
            if receiver.full:
                await receiver.wait_room()
            chunk = pipe.receive_nowait() if more else None
            if chunk is None:
                chunk = await self._wait_chunk()
                self._pause_at = perf_counter() + _SLICE
                if chunk is None:
                    more = False
                    continue
            if not chunk:
                return
            self._link.heard()
            if self._lines.is_line(chunk):
                self._handle(chunk)
            else:
                await self._feed(self._lines.feed(chunk))
            # A full chunk means that more is probably there. Anything shorter emptied the pipe: asking again would be in vain.
            more = len(chunk) == CHUNK
            if more and perf_counter() > self._pause_at:
                # Many chunks may make one line.
                await trio.lowlevel.checkpoint()
                self._pause_at = perf_counter() + _SLICE

    async def _wait_chunk(self) -> bytes | None:
        """What has arrived, or what a caller has left. `None` where that one has delivered it, or nothing has come."""
        await self._wait.wait()
        chunk, self._left = self._left, None
        return chunk if chunk is not None else self._pipe.receive_nowait()

    @property
    def can_lend(self) -> bool:
        """Whether another task may read (`read_once`)."""
        return self._wait.replaceable and self._left is None and not self.ending

    @trio.lowlevel.enable_ki_protection
    async def read_once(self) -> None:
        """Read in place of the channel's own task, until something has arrived or `stop_reading`. Deliver it if it is a single
        line, else leave it to that task. Checkpoints; when cancelled, nothing has been read.

        Only where `can_lend`.
        """
        try:
            await self._wait.wait_instead()
            chunk = None if self.ending else self._pipe.receive_nowait()
        except (OSError, trio.ClosedResourceError):
            return  # the channel's own task finds that, too, and the end of the stream
        if not chunk:
            return
        if self._lines.is_line(chunk):
            self._link.heard()
            # What is not an answer is not this task's affair: it must not find the task's context variables.
            self._context.run(self._handle, chunk)
        else:
            self._left = chunk

    def stop_reading(self) -> None:
        """Whoever is in `read_once` goes on."""
        self._wait.interrupt()

    async def _feed(self, lines: Iterable[Line | Overlong]) -> None:
        """Deliver lines, with pauses. The pauses cannot be cancelled, for the rest of a chunk would be lost; they are short."""
        for line in lines:
            if isinstance(line, Overlong) or len(line) < LONG:
                self._handle(line)
            else:
                await self._handle_long(line)
            if perf_counter() > self._pause_at:
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._pause_at = perf_counter() + _SLICE

    async def _handle_long(self, line: Line) -> None:
        try:
            await self._receiver.on_long_line(line)
        except Exception:
            self._failed()

    def _handle(self, line: Line | Overlong) -> None:
        try:
            if isinstance(line, Overlong):
                self._receiver.on_overlong(line)
            else:
                self._receiver.on_line(line)
        except Exception:
            self._failed()

    def _failed(self) -> None:
        # No line, however strange, may end the session; what handles lines is written not to raise.
        logger.exception("server %s: handling a line failed", self._link.server)

    # The end.

    @trio.lowlevel.enable_ki_protection
    def end(self, cause: BaseException | None) -> None:
        """The peer is gone. What had already arrived is delivered, then the death is reported and everybody let go, by the
        reading task. Idempotent."""
        if self.closed or self.ending:
            return
        self.ending = True
        self._cause = cause
        if self._reading is not None:
            self._reading.cancel(reason="the peer is gone")
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    async def _read_the_rest(self) -> None:
        read = 0
        try:
            while read < _LAST_BYTES and (chunk := self._pipe.receive_nowait()):
                read += len(chunk)
                await self._feed(self._lines.feed(chunk))
        except (OSError, trio.ClosedResourceError):
            pass
        await self._feed(self._lines.end())

    @trio.lowlevel.enable_ki_protection
    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.ending:  # or else the session was left: an orderly end, no death
            self._link.lost(self._cause)
        queue, self._queue = self._queue, OrderedDict()
        for out in queue:
            if out.done is not None:
                out.done(False)
        self._receiver.on_death()
        if self._scope is not None:
            self._scope.cancel(reason="the session is over")

    async def run(self, nursery: trio.Nursery) -> None:
        """Read and write until the channel dies or the caller is cancelled; then cancel `nursery`, which holds all that
        depends on the channel."""
        self._scope = nursery.cancel_scope
        self._context = copy_context()
        try:
            nursery.start_soon(self._write)
            with trio.CancelScope() as self._reading:
                if self.ending:
                    self._reading.cancel(reason="the peer is gone")
                try:
                    await self._read()
                except (OSError, trio.ClosedResourceError) as exc:
                    self.end(exc)
                else:
                    self.end(None)
            self._receiver.on_end()
            await self._read_the_rest()
            await self._receiver.settle()
        finally:
            self._close()
