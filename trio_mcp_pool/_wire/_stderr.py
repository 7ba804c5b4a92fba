"""What a child says on stderr: its end is kept for errors, its lines go to a logger.

The logger is `trio_mcp_pool.stderr`, the level INFO, the server's name comes first. Known secrets are masked in both.
"""

from __future__ import annotations

import logging
import os
from typing import Final, final

import trio

from ._link import Link

logger = logging.getLogger("trio_mcp_pool.stderr")

KEPT: Final = 64 * 1024
"""How many bytes of the end are kept."""
_LONGEST_LINE: Final = 16 * 1024
_SHOWN: Final = 2000


@final
class Stderr:
    """Reads one child's stderr until it ends or is closed. Owns the file descriptor."""

    def __init__(self, link: Link, fd: int) -> None:
        if os.name == "posix":
            os.set_blocking(fd, False)
        self._link = link
        self._fd = fd
        self._tail = b""
        self._line = bytearray()
        self._closed = trio.CancelScope(shield=True)

    async def run(self) -> None:
        """Read for ever. Shielded, because the reasons for an end are often written while everything is cancelled."""
        if os.name != "posix":
            await self._run_in_thread()
            return
        with self._closed:
            while self._fd >= 0:
                await trio.lowlevel.wait_readable(self._fd)
                if not self.read_now():
                    return

    async def _run_in_thread(self) -> None:
        """Where a pipe cannot be waited for: a thread reads it, and closes it, even when nobody waits for the thread."""
        fd, self._fd = self._fd, -1

        def read() -> None:
            try:
                while chunk := os.read(fd, 65536):
                    trio.from_thread.run_sync(self._take, chunk)
            finally:
                os.close(fd)

        await trio.to_thread.run_sync(read, abandon_on_cancel=True)

    def read_now(self) -> bool:
        """Take what is there. `False` at the end of the stream."""
        if os.name != "posix":
            return False
        for _ in range(32):  # a bound, so that a child that never stops talking does not hold the loop
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
        if not logger.isEnabledFor(logging.INFO):
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._line += line[:_LONGEST_LINE]
            self._log()
        self._line += rest[: max(0, _LONGEST_LINE - len(self._line))]

    def _log(self) -> None:
        line, self._line = self._line, bytearray()
        text = self._link.mask(line.decode("utf-8", "replace")).rstrip()
        if text:
            logger.info("%s: %s", self._link.server, text[:_SHOWN])

    def close(self) -> None:
        """Take what is still there and close."""
        if self._fd < 0:
            return
        self.read_now()
        self._log()
        fd, self._fd = self._fd, -1
        self._closed.cancel()
        trio.lowlevel.notify_closing(fd)
        os.close(fd)
