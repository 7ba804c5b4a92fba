"""Reading a long message in steps, between which other tasks have their turns (R19).

No JSON parser at hand stops halfway, and one of 60 MB holds everybody up for a sixth of a second. But what makes a message
long is nearly always a few long strings: a screenshot, a file. So these are cut out first, by their quotes, and decoded piece
by piece; the parser gets the short rest, with a mark where each of them stood, and they are put back into what it makes of
that. A message that is long for another reason is read in one step, as a short one is: the number of its values has a limit
(`_limits.py`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, final

from pydantic_core import from_json

LONG: Final = 2 * 1024 * 1024
"""Bytes from which on a message is read in steps."""
_LONG_STRING: Final = 16 * 1024
"""Bytes from which on a string is cut out."""
_PIECE: Final = 256 * 1024
"""Bytes of a string with escapes that are decoded at a time."""
_MOST_STRINGS: Final = 20_000
"""So many are looked at: the time that each takes is lost where there are more."""
_SLICE: Final = 0.002
"""Seconds after which there is a pause."""

_MARK: Final = secrets.token_hex(16)
"""What stands for a string that was cut out. No server knows it."""

# As many whole characters and escapes as there are: the quote that ends the string follows, or the end of the piece. The halves
# of a surrogate pair belong together.
_INSIDE: Final = re.compile(
    rb'[^"\\]*(?:\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?![dD][89abAB])[0-9a-fA-F]{4}|[^u])[^"\\]*)*',
    re.DOTALL,
)


@final
class Cut:
    """A long message without its long strings."""

    __slots__ = ("_strings", "rest")

    def __init__(self, rest: bytes, strings: list[str]) -> None:
        self.rest: bytes = rest
        """The message as JSON, with marks instead of the strings."""
        self._strings = strings

    def put_back(self, value: Any) -> Any:
        """What the parser has made of the rest, with the strings in their places."""
        if type(value) is str:
            return self._strings[int(value[len(_MARK) :])] if value.startswith(_MARK) else value
        if type(value) is list:
            return [self.put_back(one) for one in value]
        if type(value) is dict:
            return {self.put_back(key): self.put_back(one) for key, one in value.items()}
        return value


async def cut_long_strings(data: bytes | bytearray, pause: Callable[[], Awaitable[None]]) -> Cut | None:
    """Cut the long strings out of a message; `None` where that would not help: it is short, it has none, or too many strings.

    Awaits `pause` every two milliseconds. Raises nothing of its own: what is wrong with the message, its next reader says.
    """
    if len(data) < LONG:
        return None
    strings: list[str] = []
    rest: list[bytes] = []
    kept_from = at = 0
    pause_at = perf_counter() + _SLICE
    for _ in range(_MOST_STRINGS):
        opening = data.find(b'"', at)
        if opening < 0:
            break
        start = opening + 1
        end = data.find(b'"', start)
        if perf_counter() > pause_at:
            await pause()
            pause_at = perf_counter() + _SLICE
        try:
            if end >= 0 and data.find(b"\\", start, end) < 0:
                text = str(memoryview(data)[start:end], "utf-8") if end - start >= _LONG_STRING else None
            else:
                pieces = []
                end = start
                while end < len(data) and data[end] != b'"'[0]:
                    piece = _piece(data, end)
                    if not piece:
                        return None  # a bad escape
                    pieces.append(from_json(b'"%b"' % piece))
                    end += len(piece)
                    if perf_counter() > pause_at:
                        await pause()
                        pause_at = perf_counter() + _SLICE
                text = "".join(pieces) if end - start >= _LONG_STRING else None
        except ValueError:
            return None
        if text is not None:
            rest.append(b'%b"%b%d' % (bytes(data[kept_from:opening]), _MARK.encode(), len(strings)))
            strings.append(text)
            kept_from = end
        at = end + 1
    else:
        return None
    return Cut(b"".join(rest) + data[kept_from:], strings) if strings else None


def _piece(data: bytes | bytearray, start: int) -> bytes:
    """The next part of a string: whole characters and whole escapes; nothing where an escape is wrong."""
    stop = min(start + _PIECE, len(data))
    while stop < len(data) and data[stop] & 0xC0 == 0x80:
        stop -= 1  # inside of a character
    found = _INSIDE.match(data, start, stop)
    assert found is not None, "it matches nothing, too"
    return bytes(found[0])
