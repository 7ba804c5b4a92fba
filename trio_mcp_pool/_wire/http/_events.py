"""A parser of server-sent events that is fed bytes and holds no generator.

A generator that reads events from a connection cannot be left in the middle on Trio without a complaint, and an answer is
the middle: the stream goes on after it.
"""

from __future__ import annotations

from typing import Final, final

import trio

from ..jsonrpc._long import LONG, Cut, cut_long_strings

MAX_RETRY: Final = 60.0
"""The longest delay that a server may ask for with `retry:`, in seconds."""
SLICE: Final = 4096
"""So many bytes are parsed at a time before what they hold is delivered: a thousand empty events fit in."""
MANY: Final = 50
"""After a slice with more events than that others get their turn (R19)."""
ENDS: Final = 4096
"""How much is kept of either end of an event over the limit, by which its id may be found."""
_LONGEST_NUMBER: Final = 12
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_OVERHEAD: Final = 64
"""What a line of an event counts beside its bytes, for a million empty `data:` lines take more memory than their bytes."""


@final
class Event:
    """One event. `id` is that of the last event that had one."""

    __slots__ = ("cut", "data", "event", "id", "retry", "tail")

    def __init__(self, event: bytes, data: bytes, id: bytes, retry: float | None, tail: bytes | None = None) -> None:
        self.event = event
        self.data = data
        self.id = id
        self.retry = retry
        """Seconds to wait before a broken stream is resumed."""
        self.tail = tail
        """Not `None` for an event over the limit: its end. Its `data` is then its beginning; the rest was skipped."""
        self.cut: Cut | None = None
        """Its data without the long strings, if it is long; see `read_ahead`."""

    async def read_ahead(self) -> None:
        """Take the time that long data need, with pauses, before they are read. Checkpoints for such data only."""
        if len(self.data) >= LONG:
            await trio.lowlevel.checkpoint()  # putting it together has taken a while already
            self.cut = await cut_long_strings(self.data, trio.lowlevel.checkpoint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and all(getattr(self, name) == getattr(other, name) for name in Event.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Event {self.event!r}, {len(self.data)} bytes>"


@final
class EventParser:
    """Bytes in, events out, in time that grows with their number only. `limit` is the longest event in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._at_start = True
        self._event = b""
        self._data: list[bytes] = []
        self._id = b""
        self._retry: float | None = None
        self._begun = False
        self._too_long = False
        self._tail = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        if self._at_start:
            data = self._strip_byte_order_mark(data)
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data[-1:] == b"\r"
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            ended = line[-1:] in b"\r\n"
            if ended:
                line = line.rstrip(b"\r\n")
            self._size += len(line)
            if self._size > self._limit and not self._too_long:
                self._skip(line)
            if self._too_long:
                self._tail = (self._tail + line)[-ENDS:]
            if not ended:
                if not self._too_long:
                    self._line.append(line)
                elif line:
                    # Only whether the line is empty matters from here on.
                    self._line = [b"x"]
                continue
            pieces, self._line = [*self._line, line], []
            if any(pieces):
                if not self._too_long:
                    self._field(pieces)
            elif (event := self._finish()) is not None:
                events.append(event)
        return events

    def _strip_byte_order_mark(self, data: bytes) -> bytes:
        # It may come in pieces, like everything else.
        data = b"".join(self._line) + data
        self._line.clear()
        self._size = 0
        if len(data) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(data):
            self._line.append(data)
            return b""
        self._at_start = False
        return data.removeprefix(_BYTE_ORDER_MARK)

    def _skip(self, line: bytes) -> None:
        """The event is over the limit: keep where it began, by which its id may be found, and let go of the rest."""
        begun = b"\n".join(self._data) or b"".join([*self._line, line]).removeprefix(b"data:").lstrip(b" ")
        self._data = [begun[:ENDS]]
        self._line.clear()
        self._too_long = True
        self._begun = True

    def _field(self, pieces: list[bytes]) -> None:
        """One line, in pieces: a long one is copied only once."""
        name, _, head = pieces[0].partition(b":")
        if len(pieces) > 1 and not head:
            # The colon, or the blank behind it, is in a later piece.
            name, _, head = b"".join(pieces).partition(b":")
            del pieces[1:]
        head = head.removeprefix(b" ")
        value = b"".join([head, *pieces[1:]]) if len(pieces) > 1 else head
        if name == b"data":
            self._data.append(value)
            self._size += _LINE_OVERHEAD
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" in value:
                return
            self._id = value
        elif name == b"retry":
            if not value.isdigit() or len(value) > _LONGEST_NUMBER:
                return
            self._retry = min(int(value) / 1000, MAX_RETRY)
        else:
            # A comment, which keeps the connection alive, or a field of another's.
            self._size -= sum(map(len, pieces))
            return
        self._begun = True

    def _finish(self) -> Event | None:
        event = None
        if self._begun:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            event = Event(
                self._event or b"message", data, self._id, self._retry, self._tail if self._too_long else None
            )
        self._event = b""
        self._data = []
        self._retry = None
        self._begun = False
        self._too_long = False
        self._tail = b""
        self._size = 0
        return event
