"""A TCP connection whose bytes can be sent, received and looked at without awaiting.

Trio's `SocketStream` checkpoints around every operation. A call over HTTP sends once and receives once, so those
checkpoints are a large part of its cost; and a cancelled call must close its connection synchronously. This is a
`trio.abc.Stream` all the same, so that Trio's TLS runs on it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final, final

import trio

RECEIVE_SIZE: Final = 65536
_FIRST_BYTES: Final = 16


@final
class TcpStream(trio.abc.Stream):
    """A connected, non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.bytes_sent = 0
        """How many bytes the operating system has accepted, over the life of the connection."""
        self.send_error: OSError | None = None
        """Why something was not sent by TLS that was said to be; see `send_all`."""
        self.first_bytes = b""
        """The first bytes that were received, by which plain HTTP is told from TLS."""
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send what is accepted at once, and return how much that was. Raises `OSError`."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return 0
        self.bytes_sent += sent
        return sent

    def receive_nowait(self) -> bytes | None:
        """What has arrived: `None` if nothing, `b""` at the end of the stream. Raises `OSError`."""
        try:
            return self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None

    def is_quiet(self) -> bool:
        """Whether nothing has arrived, the end of the stream included: what an idle connection must be to be used again."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._sock)

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._sock)

    async def receive(self) -> bytes:
        """Wait for bytes; `b""` at the end of the stream. Raises `OSError` or `trio.ClosedResourceError`."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:  # pragma: no cover - the kernel dropped what it had announced
                pass

    def close(self) -> None:
        """Close at once. Whoever waits for it gets `trio.ClosedResourceError`. Idempotent."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    # As Trio's TLS sees it.

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        try:
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    count = self.send_nowait(view[sent:])
                    sent += count
                    if not count:
                        await trio.lowlevel.wait_writable(self._sock)
        except OSError as exc:
            if self.is_quiet():
                raise trio.BrokenResourceError(type(exc).__name__) from None
            # Trio's TLS reads nothing any more after a failure to send. But the alert that says why may have arrived, or
            # an early answer. So the reading goes on, and whoever has sent looks here.
            self.send_error = exc

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = await self.receive()
        except OSError as exc:
            raise trio.BrokenResourceError(type(exc).__name__) from None
        if not self.first_bytes:
            self.first_bytes = data[:_FIRST_BYTES]
        return data

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()
