"""Lines out of chunks, in linear time and bounded memory.

A JSON-RPC message over stdio is one line. Chunks end wherever the operating system likes, so a line is collected
until its newline comes. A line longer than the limit is not collected: only its two ends are kept, because one of
them may name the request that the line answers, and the rest is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, final

from ..jsonrpc._tolerant import ENDS

Line: TypeAlias = bytes | bytearray


@final
class Overlong:
    """What is kept of a line over the limit: its two ends."""

    __slots__ = ("head", "tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail


@final
class Lines:
    """Collects chunks into lines. Synchronous, and in the hand of its caller how fast: it gives one line at a time."""

    __slots__ = ("_head", "_limit", "_part", "_tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._part = bytearray()
        self._head: bytes | None = None  # not None: the rest of an overlong line is being skipped
        self._tail = b""

    def is_line(self, chunk: bytes) -> bool:
        """Whether a chunk is one whole line, and not blank. The usual one is: then it may be used as it is, and `feed` not
        be called."""
        return (
            not self._part
            and self._head is None
            and 0 < chunk.find(b"\n") == len(chunk) - 1 <= self._limit
            and not chunk.isspace()
        )

    def feed(self, chunk: bytes) -> Iterator[Line | Overlong]:
        """The lines that end in the next chunk, in order, without the blank ones. To be read to its end."""
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._add(piece)
            yield from self._finish()
        if rest:
            self._add(rest)

    def end(self) -> Iterator[Line | Overlong]:
        """The stream has ended: what stands there without a newline may still be a whole message."""
        return self._finish()

    def _add(self, piece: bytes) -> None:
        if self._head is not None:
            self._tail = (self._tail + piece[-ENDS:])[-ENDS:]
            return
        self._part += piece
        if len(self._part) > self._limit:
            self._head = bytes(self._part[:ENDS])
            self._tail = bytes(self._part[-ENDS:])
            self._part = bytearray()

    def _finish(self) -> Iterator[Line | Overlong]:
        if self._head is not None:
            overlong = Overlong(self._head, self._tail)
            self._head, self._tail = None, b""
            yield overlong
        elif self._part:
            line, self._part = self._part, bytearray()
            if not line.isspace():
                yield line
