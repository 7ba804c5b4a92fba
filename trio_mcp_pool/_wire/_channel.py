"""Messages over a pair of byte pipes: what is written, what is read, and when the channel is dead.

Writing is synchronous as long as the pipe takes what it is given: no queue, no other task. A message is queued only when
the pipe is full, or when the sender knows that others send at the same time and asks for it (`gather`), and a task of
the channel's own writes the queue, many small messages with one system call. So at any moment at most one message is
partly written, and it is always completed before any other byte; a message that is still wholly queued can be withdrawn
without a trace.

Reading never stops, so the end of the stream is noticed at once, idle or not. The channel dies once, by whatever sign
comes first: end of stream, a broken pipe, an ended process (`end`), or a pipe that accepts no byte for
`write_timeout` while one waits to be written. Whatever had already arrived by then is read first, so that a last
answer is not lost.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, final

import trio

from ._lines import Line, Lines
from ._link import Call, Link

logger = logging.getLogger("trio_mcp_pool.wire")

# So much is gathered from small messages for one system call: what a pipe usually holds.
_PIECE = 65536
# What is still read of a dead peer's pipe: more than any pipe holds, and an end to a survivor that keeps writing.
_LAST_BYTES = 8 * 1024 * 1024


class BytePipe(Protocol):
    """Two byte pipes, one out, one in. Implemented over file descriptors and, for tests, in memory."""

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write what is accepted at once and return how much that was, 0 if nothing. Raises `OSError` when broken."""
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_nowait` may accept something, or would raise."""
        ...

    def receive_nowait(self) -> bytes | None:
        """What has arrived: `None` if nothing, `b""` at the end of the stream. Raises `OSError` when broken."""
        ...

    async def receive(self) -> bytes:
        """Wait for bytes; `b""` at the end of the stream. Raises `OSError` when broken."""
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

    def __init__(
        self,
        pipe: BytePipe,
        link: Link,
        *,
        max_line: int,
        on_line: Callable[[Line], None],
        on_overlong: Callable[[bytes, bytes], None],
        on_death: Callable[[], None],
    ) -> None:
        self.closed = False
        """Whether the channel is dead or closed: nothing is sent or delivered any more."""
        self.ending = False
        """Whether what is being delivered are the last bytes of a dead peer."""
        self._pipe = pipe
        self._link = link
        self._lines = Lines(max_line, on_line, on_overlong)
        self._on_death = on_death
        self._queue: OrderedDict[Out, None] = OrderedDict()
        self._writer: trio.lowlevel.Task | None = None  # the writing task, while it has nothing to write
        self._stall: trio.CancelScope | None = None
        self._scope: trio.CancelScope | None = None
        self._feeding = False

    # Out.

    @trio.lowlevel.enable_ki_protection
    def put(
        self, data: bytes, call: Call | None = None, done: Callable[[bool], None] | None = None, *, gather: bool = False
    ) -> Out | None:
        """Send a message. `None` when the pipe accepted all of it; otherwise what stands in the queue.

        With `gather` it is queued in any case, and goes out in the next tick together with whatever else is queued by then.

        `call.written` becomes true with the last byte. `done` is called only for a message that was queued. Raises
        `trio.ClosedResourceError` when the channel is dead, by this very attempt or before; then nothing, or not all, of
        the message was sent.
        """
        if self.closed:
            raise trio.ClosedResourceError
        sent = 0
        if not self._queue and not gather:
            try:
                sent = self._pipe.send_nowait(data)
            except (OSError, trio.ClosedResourceError) as exc:
                self.end(exc)
                raise trio.ClosedResourceError from exc
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
        while self._queue:
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

        while True:
            due = trio.current_time() + self._link.write_timeout if self._queue else math.inf
            with trio.CancelScope(deadline=due) as self._stall:
                while True:
                    if not self._queue:
                        self._writer = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(abort)
                    else:
                        await self._pipe.wait_writable()
                    self._flush()
            # The last message may have been withdrawn at the very moment of the deadline: then nothing waits any more.
            if self._queue:
                self.end(TimeoutError(f"no byte was accepted for {self._link.write_timeout:g} s"))
                return

    # In.

    def _feed(self, chunk: bytes) -> None:
        self._feeding = True
        try:
            self._lines.feed(chunk)
        except Exception:
            # No line, however strange, may end the session; what handles lines is written not to raise.
            logger.exception("server %s: handling a line failed", self._link.server)
        finally:
            self._feeding = False

    async def _read(self) -> None:
        pipe, link = self._pipe, self._link
        try:
            while True:
                chunk = await pipe.receive()
                if not chunk:
                    break
                link.heard()
                self._feed(chunk)
        except (OSError, trio.ClosedResourceError) as exc:
            self.end(exc)
        else:
            self.end(None)

    # The end.

    @trio.lowlevel.enable_ki_protection
    def end(self, cause: BaseException | None) -> None:
        """The peer is gone: deliver what had already arrived, then report the death and let everybody go. Idempotent."""
        if self.closed or self.ending:
            return
        self.ending = True
        if not self._feeding:
            self._read_the_rest()
        self.closed = True
        self._link.lost(cause)
        self._let_go()

    def _read_the_rest(self) -> None:
        read = 0
        try:
            while read < _LAST_BYTES and (chunk := self._pipe.receive_nowait()):
                read += len(chunk)
                self._feed(chunk)
        except (OSError, trio.ClosedResourceError):
            pass
        self._feeding = True
        try:
            self._lines.end()
        except Exception:
            logger.exception("server %s: handling the last line failed", self._link.server)
        finally:
            self._feeding = False

    def _let_go(self) -> None:
        queue, self._queue = self._queue, OrderedDict()
        for out in queue:
            if out.done is not None:
                out.done(False)
        self._on_death()
        if self._scope is not None:
            self._scope.cancel(reason="the session is over")

    async def run(self, nursery: trio.Nursery) -> None:
        """Read and write until the channel dies or the caller is cancelled; then cancel `nursery`, which holds all that
        depends on the channel."""
        self._scope = nursery.cancel_scope
        try:
            if not self.closed:
                nursery.start_soon(self._write)
                await self._read()
        finally:
            if not self.closed:  # cancelled from outside: an orderly end, no death
                self.closed = True
                self._let_go()
