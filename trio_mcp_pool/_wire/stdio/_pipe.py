"""A pair of byte pipes: what the channel needs of one, and the one of a child process."""

from __future__ import annotations

import os
from typing import Final, Protocol, final

import trio

CHUNK: Final = 65536
"""How much is read at a time."""


class BytePipe(Protocol):
    """Two byte pipes, one out, one in. Implemented over file descriptors and, for tests, in memory."""

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write what is accepted at once and return how much that was, 0 if nothing. Raises `OSError` when broken."""
        ...

    async def wait_writable(self) -> None:
        """Wait until `send_nowait` may accept something, or would raise."""
        ...

    def receive_nowait(self) -> bytes | None:
        """What has arrived, at most `CHUNK`: `None` if nothing, `b""` at the end of the stream. Raises `OSError` when
        broken."""
        ...

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` may give something, or would raise, or until `stop_waiting`. Checkpoints."""
        ...

    def stop_waiting(self) -> None:
        """Whoever is in `wait_readable` goes on."""
        ...


@final
class FdPipe:
    """The byte pipe of a child: its stdin and stdout, non-blocking."""

    __slots__ = ("_stdin", "_stdout")

    def __init__(self, stdin: int, stdout: int) -> None:
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self._stdin = stdin
        self._stdout = stdout

    def send_nowait(self, data: bytes | memoryview) -> int:
        if self._stdin < 0:
            raise trio.ClosedResourceError
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        if self._stdin < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._stdin)

    def receive_nowait(self) -> bytes | None:
        if self._stdout < 0:
            raise trio.ClosedResourceError
        try:
            return os.read(self._stdout, CHUNK)
        except BlockingIOError:
            return None

    async def wait_readable(self) -> None:
        if self._stdout < 0:
            raise trio.ClosedResourceError
        try:
            await trio.lowlevel.wait_readable(self._stdout)
        except trio.ClosedResourceError:
            if self._stdout < 0:
                raise

    def stop_waiting(self) -> None:
        if self._stdout >= 0:
            trio.lowlevel.notify_closing(self._stdout)

    def close_stdin(self) -> None:
        if self._stdin >= 0:
            fd, self._stdin = self._stdin, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def close(self) -> None:
        self.close_stdin()
        if self._stdout >= 0:
            fd, self._stdout = self._stdout, -1
            trio.lowlevel.notify_closing(fd)
            os.close(fd)
