"""A parser of server-sent events that is fed bytes and holds no generator.

A generator that reads events from a connection cannot be left in the middle on Trio without a complaint, and an answer is
the middle: the stream goes on after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `id` is that of the last event that had one."""

    event: str
    data: str
    id: str
    retry: float | None
    """Seconds to wait before taking up a broken stream again."""


class EventTooLarge(Exception):
    """An event exceeds the limit, finished or not."""


@final
class EventParser:
    """Bytes in, events out, in time that grows with their number only. `limit` is the longest event in bytes."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._line: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._retry: float | None = None
        self._begun = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            EventTooLarge: the event that is being read is over the limit.
        """
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data[-1:] == b"\r"
        events = []
        for line in data.splitlines(keepends=True):
            ended = line[-1:] in (b"\r", b"\n")
            line = line.rstrip(b"\r\n")
            self._size += len(line)
            if self._limit is not None and self._size > self._limit:
                raise EventTooLarge
            self._line.append(line)
            if ended:
                line = b"".join(self._line)
                self._line.clear()
                if line:
                    self._take(line)
                elif (event := self._finish()) is not None:
                    events.append(event)
        return events

    def _take(self, line: bytes) -> None:
        name, _, rest = line.partition(b":")
        value = rest.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and "\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdecimal():
            self._retry = int(value) / 1000
        else:
            if not name:
                self._size -= len(line)  # a comment, sent to keep the connection alive
            return
        self._begun = True

    def _finish(self) -> Event | None:
        event = Event(self._event or "message", "\n".join(self._data), self._id, self._retry) if self._begun else None
        self._event = ""
        self._data = []
        self._retry = None
        self._begun = False
        self._size = 0
        return event
