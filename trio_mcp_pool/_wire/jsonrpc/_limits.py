"""How much one message may hold (R19).

Its length is limited by `max_message`, while it is read. But 64 MiB of empty objects are 1.6 GB once parsed, so the number of
its JSON values has a limit of its own, `max_values`, checked before it is parsed.
"""

from __future__ import annotations

import re
from typing import Final

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def too_many_values(data: bytes | bytearray, limit: int) -> bool:
    """Whether a message holds more than so many JSON values, by a rough count that costs little.

    A value takes a byte and most take two, so that a short message is not counted at all. Commas and brackets in strings do
    not count, but they are told from the others only where it matters.
    """
    if len(data) <= limit:
        return False
    return _count(data) > limit and _count(_STRING.sub(b"", data)) > limit


def _count(data: bytes | bytearray) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{") + 1
