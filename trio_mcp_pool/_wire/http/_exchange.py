"""One HTTP request and its response, in the task of whoever makes it.

What matters to a caller is how much of its request has left (R13). A request of which not one byte was accepted, on a
connection that was used before, is sent again: servers close idle connections, and this is how that looks. One of which
a part was accepted is not sent again, though it has not run. While a large body is being sent, the other direction is
watched: a server that refuses it says so early and then stops reading, and its answer is worth more than the broken
pipe that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, final

import trio

from ._connection import Connection, Head, RawHeaders
from ._connections import Connections
from ._decoding import Decoder, decoder_for
from ._failures import BodyTooLarge, CertificateRefused, HttpFailure

REFUSED: Final = frozenset({400, 401, 403, 404, 405, 406, 413, 415, 429})
"""The statuses by which a server says that it has not run a request (R18)."""
_DISCARD: Final = 65536
"""So much of a body that nobody wants is read, so that its connection can be used again."""
_LARGE: Final = 262144
"""After a decoded piece of such a size others get their turn."""


@final
class NotSent(HttpFailure):
    """The request did not leave whole: it has not run."""

    stalled = False
    """Whether nothing is broken, and the server merely takes no more."""


class Sending(Protocol):
    """Whoever wants to know how far a request has come. All methods are synchronous."""

    def begins(self) -> None:
        """It is about to be sent. May raise, and then it is not."""
        ...

    def written(self) -> None:
        """Its last byte was accepted by the operating system."""
        ...

    def refused(self) -> None:
        """It was refused for want of credentials, and has not run; it is sent again with others, or fails."""
        ...


@final
class Exchange:
    """A request that was sent and a response whose head was read. `close` ends it; until then the connection is its own."""

    __slots__ = ("_connections", "_decoder", "_ended", "_inflating", "body", "connection", "head")

    def __init__(self, connections: Connections, connection: Connection, head: Head) -> None:
        self._connections = connections
        self._ended = False
        self.connection = connection
        self.head: Final = head
        self.body: bytes | None = None
        """The whole body, once it was read, decoded."""
        self._inflating: Iterator[bytes] | None = None
        encoding = head.headers.get(b"content-encoding")
        try:
            self._decoder: Decoder | None = None if encoding is None else decoder_for(encoding.decode("latin-1"))
        except BaseException:
            self.abort()
            raise

    @property
    def status(self) -> int:
        return self.head.status

    def abort(self) -> None:
        """Close the connection in the middle of the response. Synchronous, idempotent."""
        if not self._ended:
            self._ended = True
            self._connections.discard(self.connection)

    def release(self) -> None:
        """The answer was read, or its end is near: the connection may be used again. Synchronous, idempotent."""
        if not self._ended:
            self._ended = True
            self._connections.release(self.connection, self.head)

    async def read(self, limit: int) -> bytes:
        """The whole body, decoded, and the connection released. Raises `BodyTooLarge` or `HttpFailure`."""
        if self.body is not None:
            return self.body
        try:
            body = await self._read(limit)
        except BaseException:
            self.abort()
            raise
        self.body = body
        self.release()
        return body

    async def _read(self, limit: int) -> bytes:
        length = self.head.headers.get(b"content-length")
        if self._decoder is None and length is not None and int(length) > limit:
            raise BodyTooLarge
        first = await self.read_piece()
        if first is None:
            return b""
        second = await self.read_piece()
        if second is None and len(first) <= limit:
            return bytes(first)
        whole = bytearray(first)
        while second is not None and len(whole) <= limit:
            whole += second
            second = await self.read_piece()
        if len(whole) > limit:
            raise BodyTooLarge
        return bytes(whole)

    async def read_piece(self) -> bytes | None:
        """The next piece of the body, decoded, or `None` at its end. Raises `HttpFailure`."""
        if self._decoder is None:
            return await self.connection.read_piece()
        while True:
            if self._inflating is not None:
                piece = next(self._inflating, None)
                if piece is not None:
                    if len(piece) >= _LARGE:
                        await trio.lowlevel.checkpoint()
                    return piece
                self._inflating = None
            raw = await self.connection.read_piece()
            if raw is None:
                return None
            self._inflating = self._decoder.decode(raw)

    async def discard(self) -> None:
        """The body is not wanted. Raises nothing but a cancellation."""
        if self.body is not None:
            return
        try:
            await self.read(_DISCARD)
        except (BodyTooLarge, HttpFailure):
            pass


async def exchange(
    connections: Connections,
    method: bytes,
    target: bytes,
    headers: RawHeaders,
    body: bytes,
    *,
    sending: Sending | None = None,
    write_timeout: float,
    standing: bool = False,
) -> Exchange:
    """Send a request and read the head of its response.

    A `standing` one takes none of the places and its connection is not kept. Raises `ConnectFailed` and `NotSent`,
    where it has not run, and `ConnectionBroke` and `BadResponse`.
    """
    while True:
        connection = await (connections.dial() if standing else connections.acquire())
        reused = connection.uses > 0
        try:
            data = connection.frame(method, target, headers, body)
            if sending is not None:
                sending.begins()
            before = connection.tcp.bytes_sent
            try:
                early = await _send(connection, data, write_timeout)
            except NotSent:
                if reused and connection.tcp.bytes_sent == before:
                    connections.discard(connection)
                    continue
                raise
            if connection.tcp.send_error is not None:
                early = await _read_unsent(connection)
            if sending is not None and (early is None or early.status not in REFUSED):
                sending.written()
            return Exchange(connections, connection, early or await connection.read_head())
        except BaseException:
            connections.discard(connection)
            raise


async def _send(connection: Connection, data: bytes, timeout: float) -> Head | None:
    """Send all of it; the head of a response that came before that, if it is a refusal. Raises `NotSent`."""
    sent = 0
    if connection.tls is None:
        try:
            sent = connection.tcp.send_nowait(data)
        except OSError as exc:
            raise NotSent(f"the request was not sent: the connection failed ({type(exc).__name__})") from None
        if sent == len(data):
            return None
    return await _send_watching(connection, memoryview(data)[sent:], timeout)


async def _send_watching(connection: Connection, rest: memoryview, timeout: float) -> Head | None:
    """Send the rest, and read meanwhile what the server has to say to it."""
    early: Head | None = None
    failure: NotSent | None = None
    watching = connection.tls is None or len(rest) > _LARGE

    async def watch() -> None:
        nonlocal early
        try:
            early = await connection.read_head()
        except HttpFailure:
            return  # whoever sends finds out, too
        if early.status >= 300:
            nursery.cancel_scope.cancel(reason="the server has refused the request")

    async with trio.open_nursery() as nursery:
        if watching:
            nursery.start_soon(watch)
        try:
            if connection.tls is None:
                await _send_plain(connection, rest, timeout)
            else:
                await _send_tls(connection, rest, timeout)
        except NotSent as exc:
            failure = exc
        nursery.cancel_scope.cancel(reason="the request was sent, or cannot be")
    if failure is not None and early is None and not failure.stalled:
        # What the server said before it stopped reading may still lie in the buffers of a broken connection.
        with trio.move_on_after(1):
            try:
                early = await connection.read_head()
            except HttpFailure:
                pass
    if failure is not None and (early is None or early.status < 300):
        raise failure
    if early is not None and early.status >= 300:
        connection.unsent = True
    return early


def _stalled(timeout: float) -> NotSent:
    error = NotSent(f"the request was not sent: no byte was accepted for {timeout:g} s")
    error.stalled = True
    return error


async def _read_unsent(connection: Connection) -> Head:
    """What the server said before TLS could not send the request. Raises `NotSent`, or what the server said by an alert."""
    connection.unsent = True
    try:
        return await connection.read_head()
    except CertificateRefused:
        raise
    except HttpFailure:
        raise NotSent("the request was not sent: the connection failed") from None


async def _send_plain(connection: Connection, rest: memoryview, timeout: float) -> None:
    try:
        while rest:
            with trio.move_on_after(timeout) as scope:
                await connection.tcp.wait_writable()
            if scope.cancelled_caught:
                raise _stalled(timeout)
            rest = rest[connection.tcp.send_nowait(rest) :]
    except (OSError, trio.ClosedResourceError) as exc:
        if isinstance(exc, NotSent):
            raise
        raise NotSent(f"the request was not sent: the connection failed ({type(exc).__name__})") from None


async def _send_tls(connection: Connection, rest: memoryview, timeout: float) -> None:
    assert connection.tls is not None
    try:
        for start in range(0, len(rest), _LARGE):
            with trio.move_on_after(timeout) as scope:
                await connection.tls.send_all(rest[start : start + _LARGE])
            if scope.cancelled_caught:
                raise _stalled(timeout)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise NotSent("the request was not sent: the connection failed") from None
