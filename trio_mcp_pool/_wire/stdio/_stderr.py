"""What a child writes to stderr: its end is kept for errors; the rest is logged, passed on or dropped.

The logger is `trio_mcp_pool.stderr`, the level INFO, the server's name comes first. Known secrets are masked there and in the
end that is kept. What is passed on goes to this program's stderr as it comes: a chunk may end in the middle of a secret.

Reading and logging are two steps, because a chunk may hold thousands of lines, and logging one may take long (R19): lines are
logged a few at a time, and nothing more is read until all are. So a child that writes faster than this program logs has to
wait, and the program goes on. This program's own stderr may be a full pipe, so it is written in a thread.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from contextlib import suppress
from time import perf_counter
from typing import Final, Literal, TypeAlias, final

import trio

from .._link import Link

logger = logging.getLogger("trio_mcp_pool.stderr")

StderrMode: TypeAlias = Literal["log", "inherit", "discard"]
"""To the logger, to this program's stderr, or nowhere."""

KEPT: Final = 64 * 1024
"""How many bytes of the end are kept."""
_READS: Final = 16  # chunks; a full pipe
_SLICE: Final = 0.002
_LAST_LINES: Final = 0.25
_LONGEST_LINE: Final = 16 * 1024
_SHOWN: Final = 2000


@final
class Stderr:
    """Reads one child's stderr until it ends or is closed. Owns the file descriptor."""

    def __init__(self, link: Link, fd: int, mode: StderrMode = "log") -> None:
        if os.name == "posix":
            os.set_blocking(fd, False)
        self._link = link
        self._fd = fd
        self._mode = mode
        self._tail = b""
        self._waiting: deque[bytes] = deque()  # whole lines that are not logged yet, or chunks that are not passed on
        self._rest = b""  # the last line, which has not ended
        self._one_thread = trio.CapacityLimiter(1)
        self._closed = trio.CancelScope(shield=True)

    async def run(self) -> None:
        """Read for ever. Shielded, because the reasons for an end are often written while everything is cancelled."""
        if os.name != "posix":
            await self._run_in_thread()
            return
        with self._closed:
            while self._fd >= 0:
                await trio.lowlevel.wait_readable(self._fd)
                more = self._read(1)
                await self._use()
                if not more:
                    return

    async def _run_in_thread(self) -> None:
        """Where a pipe cannot be waited for: a thread reads it, and closes it, even when nobody waits for the thread."""
        fd, self._fd = self._fd, -1

        async def take(chunk: bytes) -> None:
            self._take(chunk)
            await self._use()

        def read() -> None:
            try:
                while chunk := os.read(fd, 65536):
                    trio.from_thread.run(take, chunk)
            finally:
                os.close(fd)

        await trio.to_thread.run_sync(read, abandon_on_cancel=True)

    def read_now(self) -> None:
        """Take what is there, for the tail; it is logged later."""
        if os.name == "posix":
            self._read(_READS)

    def _read(self, times: int) -> bool:
        """Take what is there, in so many chunks at most. `False` at the end of the stream."""
        for _ in range(times):
            if self._fd < 0:
                return False
            try:
                chunk = os.read(self._fd, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not chunk:
                return False
            self._take(chunk)
        return True

    def _take(self, chunk: bytes) -> None:
        tail = self._tail + chunk
        if len(tail) > KEPT:
            # Begin at a whole line: half a secret would not be recognised. Where there is none, mask before cutting.
            start = tail.find(b"\n", len(tail) - KEPT) + 1
            tail = tail[start:] if start else self._link.mask(tail.decode("utf-8", "replace")).encode()[-KEPT:]
        self._tail = tail
        self._link.set_stderr(tail)
        if self._mode == "inherit":
            self._waiting.append(chunk)
        if self._mode != "log" or not logger.isEnabledFor(logging.INFO):
            return
        first, *others = chunk.split(b"\n")
        self._rest += first[: max(0, _LONGEST_LINE - len(self._rest))]
        for line in others:
            self._waiting.append(self._rest)
            self._rest = line[:_LONGEST_LINE]

    async def _use(self, until: float = math.inf) -> None:
        """Log or pass on what waits, with pauses for others; until such a time on Trio's clock."""
        pause_at = perf_counter() + _SLICE
        while self._waiting and trio.current_time() < until:
            if self._mode == "inherit":
                chunk = self._waiting.popleft()
                with trio.CancelScope(deadline=until), suppress(RuntimeError):  # no thread to be had
                    await trio.to_thread.run_sync(_pass_on, chunk, abandon_on_cancel=True, limiter=self._one_thread)
                continue
            self._log(self._waiting.popleft())
            if perf_counter() > pause_at:
                await trio.lowlevel.checkpoint()
                pause_at = perf_counter() + _SLICE

    def _log(self, line: bytes) -> None:
        text = self._link.mask(line.decode("utf-8", "replace")).rstrip()
        if text:
            logger.info("%s: %s", self._link.server, text[:_SHOWN])

    async def finish(self) -> None:
        """Take and log what is still there, for at most `_LAST_LINES` seconds, and close. Shielded."""
        if self._fd < 0:
            return
        self.read_now()
        self.close()
        if self._rest:
            self._waiting.append(self._rest)
            self._rest = b""
        with trio.CancelScope(shield=True):
            await self._use(trio.current_time() + _LAST_LINES)
        if self._waiting and self._mode == "log":
            logger.info("%s: (%d more lines)", self._link.server, len(self._waiting))

    def close(self) -> None:
        """Stop reading and close the descriptor. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._closed.cancel()
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def _pass_on(chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[os.write(2, rest) :]
    except OSError:
        pass  # this program has closed its stderr, or nobody reads it: the child is not to suffer from that
