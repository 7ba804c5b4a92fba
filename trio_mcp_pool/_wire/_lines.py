"""Lines out of chunks, in linear time and bounded memory.

A JSON-RPC message over stdio is one line. Chunks end wherever the operating system likes, so a line is collected
until its newline comes. A line longer than the limit is not collected: only its two ends are kept, because one of
them may name the request that the line answers, and the rest is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

END_KEPT = 4096
"""How many bytes of each end of an overlong line are kept."""

Line: TypeAlias = bytes | bytearray


@final
class Lines:
    """Collects chunks into lines. Synchronous; calls back once per line, in order, within `feed`."""

    __slots__ = ("_head", "_limit", "_on_line", "_on_overlong", "_part", "_tail")

    def __init__(
        self, limit: int, on_line: Callable[[Line], None], on_overlong: Callable[[bytes, bytes], None]
    ) -> None:
        self._limit = limit
        self._on_line = on_line
        self._on_overlong = on_overlong
        self._part = bytearray()
        self._head: bytes | None = None  # not None: the rest of an overlong line is being skipped
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk. The usual one is a whole line and is handed on as it is, its newline included."""
        if not self._part and self._head is None and chunk.find(b"\n") == len(chunk) - 1 <= self._limit:
            if chunk != b"\n":
                self._on_line(chunk)
            return
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._add(piece)
            self._finish()
        if rest:
            self._add(rest)

    def end(self) -> None:
        """The stream has ended: what stands there without a newline may still be a whole message."""
        if self._part or self._head is not None:
            self._finish()

    def _add(self, piece: bytes) -> None:
        if self._head is not None:
            self._tail = (self._tail + piece[-END_KEPT:])[-END_KEPT:]
            return
        self._part += piece
        if len(self._part) > self._limit:
            self._head = bytes(self._part[:END_KEPT])
            self._tail = bytes(self._part[-END_KEPT:])
            self._part = bytearray()

    def _finish(self) -> None:
        if self._head is not None:
            head, tail = self._head, self._tail
            self._head, self._tail = None, b""
            self._on_overlong(head, tail)
        elif self._part:
            line, self._part = self._part, bytearray()
            if not line.isspace():
                self._on_line(line)
