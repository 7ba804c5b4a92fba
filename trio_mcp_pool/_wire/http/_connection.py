"""One HTTP/1.1 connection: requests and responses, one after the other, parsed by h11.

Whoever makes a request sends it and reads its response in its own task. Informational responses are passed over,
trailers ignored. Where the bytes come in a thousand tiny chunks, other tasks get their turn in between.
"""

from __future__ import annotations

import ssl
from typing import Final, final

import h11
import trio

from ._dialling import is_certificate_refusal, tls_reason
from ._failures import BadResponse, CertificateRefused, ConnectionBroke, refusal
from ._tcp import TcpStream

MAX_HEAD: Final = 65536
"""The longest head of a response, in bytes."""
_TURN: Final = 1000
"""How many pieces are read from what has arrived before others get their turn; each costs about 5 us."""

RawHeaders = list[tuple[bytes, bytes]]


@final
class Head:
    """The head of a response."""

    __slots__ = ("headers", "raw", "status")

    def __init__(self, status: int, raw: RawHeaders) -> None:
        self.status = status
        self.raw = raw
        """As they were sent, in their order."""
        self.headers: dict[bytes, bytes] = {name.lower(): value for name, value in reversed(raw)}
        """By their names in lower case; of several with one name, the first."""

    def get(self, name: bytes) -> str:
        """A header's value, or the empty string."""
        value = self.headers.get(name)
        return "" if value is None else value.decode("latin-1")

    @property
    def media_type(self) -> bytes:
        """The media type, without its parameters."""
        value = self.headers.get(b"content-type", b"")
        return value.partition(b";")[0].strip().lower()


@final
class Connection:
    """A connection that is used by one exchange at a time."""

    def __init__(self, tcp: TcpStream, tls: trio.SSLStream[TcpStream] | None) -> None:
        self.tcp: Final = tcp
        self.tls: Final = tls
        self.closed = False
        self.counted = True
        """Whether it takes one of the places of its pool."""
        self.idle_since = 0.0
        self.idle_limit = 0.0
        self.uses = 0
        """How many requests were sent on it."""
        self.unsent = False
        """Whether a request did not leave whole, so that the connection cannot be used again."""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._pieces = 0
        self._ended = True
        self._close_delimited = False

    def __repr__(self) -> str:
        return f"<Connection {'closed' if self.closed else 'open'}, {self.uses} uses>"

    def close(self) -> None:
        """Close at once, whoever uses it. Idempotent."""
        if not self.closed:
            self.closed = True
            self.tcp.close()

    # Sending.

    def frame(self, method: bytes, target: bytes, headers: RawHeaders, body: bytes) -> bytes:
        """The bytes of a request. Raises `ValueError` for a header that HTTP cannot carry; its value is not quoted."""
        self._ended = False
        self._close_delimited = False
        self.uses += 1
        connection = self._h11
        try:
            head = connection.send(h11.Request(method=method, target=target, headers=headers))
            if body:
                connection.send_with_data_passthrough(h11.Data(data=body))
            connection.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            self.close()
            raise ValueError("a header or the path of the request cannot be carried by HTTP") from None
        return head + body

    # Receiving.

    async def read_head(self) -> Head:
        """The head of the response. Raises `BadResponse` or `ConnectionBroke`."""
        while True:
            event = await self._next_event()
            if type(event) is h11.Response:
                head = Head(event.status_code, event.headers.raw_items())
                self._close_delimited = (
                    b"content-length" not in head.headers and b"transfer-encoding" not in head.headers
                )
                return head
            if type(event) is h11.InformationalResponse:
                if event.status_code == 101:
                    raise BadResponse(
                        "the server wants to change to another protocol (HTTP 101), which nobody asked for"
                    )
            elif type(event) is h11.ConnectionClosed:
                raise ConnectionBroke("the server closed the connection without an answer")

    async def read_piece(self) -> bytes | None:
        """The next piece of the body as it was sent, or `None` at its end."""
        while not self._ended:
            event = await self._next_event()
            if type(event) is h11.Data:
                return event.data
            if type(event) is h11.EndOfMessage:
                self._ended = True
            elif type(event) is h11.ConnectionClosed:
                raise ConnectionBroke("the server closed the connection in the middle of its answer")
        return None

    async def _next_event(self) -> object:
        connection = self._h11
        while True:
            event = self._parse()
            if event is not h11.NEED_DATA:
                self._pieces += 1
                if self._pieces >= _TURN:
                    self._pieces = 0
                    await trio.lowlevel.checkpoint()
                return event
            data = await self.receive()
            self._pieces = 0
            connection.receive_data(data)

    def _parse(self) -> object:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            text = str(exc)
            if "event type ConnectionClosed" in text:
                raise ConnectionBroke("the server closed the connection without an answer") from None
            if "unexpectedly closed" in text or "closed connection without" in text:
                raise ConnectionBroke("the server closed the connection in the middle of its answer") from None
            if self._h11.trailing_data[0][:1] in (b"\x15", b"\x16"):
                raise BadResponse("the other side speaks TLS; is it an https:// address?") from None
            raise BadResponse(f"the answer is no HTTP response that can be read: {refusal(exc)}") from None
        except Exception:
            # Whatever else a parser stumbles over, such as a length of five thousand digits.
            raise BadResponse("the answer is no HTTP response that can be read") from None
        if event is h11.PAUSED:
            raise BadResponse("the server sent more than its answer")
        return event

    async def receive(self) -> bytes:
        """Bytes from the server, `b""` at the end of the stream. Raises `ConnectionBroke`."""
        try:
            if self.tls is None:
                return await self.tcp.receive()
            return bytes(await self.tls.receive_some())
        except OSError as exc:
            raise ConnectionBroke(f"the connection failed ({type(exc).__name__})") from None
        except trio.ClosedResourceError:
            raise ConnectionBroke("the connection was closed") from None
        except trio.BrokenResourceError as exc:
            if not isinstance(exc.__cause__, ssl.SSLError):
                raise ConnectionBroke("the connection failed") from None
            kind = CertificateRefused if is_certificate_refusal(exc.__cause__) else ConnectionBroke
            raise kind(f"TLS failed: {tls_reason(exc.__cause__)}") from None

    # After a response.

    def finish(self) -> bool | None:
        """Whether the response has ended and the connection can be used again; `None` while that is not known.
        Synchronous, so that a response whose last chunk comes in a packet of its own costs no waiting."""
        if self.closed or self.unsent:
            return False
        try:
            for _ in range(_TURN):
                if self._ended:
                    break
                event = self._parse()
                if event is h11.NEED_DATA:
                    if self.tls is not None:
                        return None
                    data = self.tcp.receive_nowait()
                    if data is None:
                        return None
                    self._h11.receive_data(data)
                elif type(event) is h11.EndOfMessage:
                    self._ended = True
                elif type(event) is h11.ConnectionClosed:
                    return False
            else:
                return False  # a server that goes on sending is not waited for
            if self._close_delimited or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                return False
            if self._h11.trailing_data != (b"", False):
                return False
            self._h11.start_next_cycle()
        except (OSError, BadResponse, ConnectionBroke, h11.LocalProtocolError):
            return False
        return True

    def is_usable(self, now: float) -> bool:
        """Whether an idle connection can take a request: it has not lain idle too long, and nothing came on it
        meanwhile."""
        return not self.closed and now - self.idle_since < self.idle_limit and self.tcp.is_quiet()
