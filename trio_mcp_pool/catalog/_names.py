"""The names under which models see tools: legal, unique, stable, and mapped back exactly.

The rule: a name is a function of the server's and the tool's name alone, so that a slow server which joins later changes no
other name. The obvious way, to join the two and to number what clashes, breaks it: the number depends on who came first.

    files, read          files__read
    files, liès tout     files__li_s_tout_4b0c1d2e3f      (a sign that models do not take)
    a__b, c              a__b__c_0123456789               (read from the left, the plain name would mean tool b__c of a)

A plain name is used only where it reads back from the left as the same pair, and does not look as if it ended in a hash. So no
two plain names are equal, and no plain name equals a hashed one. Two equal hashes, which only an attacker would find, are
told apart by more digits. A function of the user's may give equal names; the first pair that came keeps it, for ever.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Final, TypeAlias, final

NameFunction: TypeAlias = Callable[[str, str], str]
"""Takes the server's and the tool's name, returns the name that models see."""

LONGEST: Final = 64
_LEGAL: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ILLEGAL: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LOOKS_HASHED: Final = re.compile(r"_[0-9a-f]{10,}\Z")
_DIGITS: Final = (10, 20, 40, 56)


def qualified(server: str, tool: str) -> str:
    """The raw name, for people and for patterns: `server__tool`, whatever is in the two."""
    return f"{server}__{tool}"


def _hashed(wanted: str, server: str, tool: str, digits: int) -> str:
    # As JSON, so that no two pairs hash the same text, and a lone surrogate has one, too.
    digest = hashlib.sha256(json.dumps([server, tool]).encode()).hexdigest()[:digits]
    return f"{_ILLEGAL.sub('_', wanted[: LONGEST - digits - 1])}_{digest}"


@final
class Names:
    """Which pair has which name. Given once, a name is never taken back."""

    def __init__(self, function: NameFunction | None = None) -> None:
        self._function = function
        self._names: dict[str, dict[str, str]] = {}
        """By server and tool."""
        self._taken: set[str] = set()

    def forget_beyond(self, most: int) -> None:
        """Forget the names if there are more than `most`: a server may rename its tools for ever.

        They are given again as they were, but for two whose hashes are equal, which the one that comes first then has.
        Nothing is forgotten of what a function of the user's gave, because that may give equal names.
        """
        if self._function is None and len(self._taken) > most:
            self._names.clear()
            self._taken.clear()

    def name(self, server: str, tool: str) -> str:
        """The name of a tool. Synchronous; raises `TypeError` if the user's function returns no `str`, and what it raises."""
        names = self._names.setdefault(server, {})
        known = names.get(tool)
        if known is not None:
            return known
        wanted = qualified(server, tool)
        plain = "__" not in server and not server.endswith("_")
        if self._function is not None:
            wanted, plain = self._function(server, tool), True
            if not isinstance(wanted, str):
                raise TypeError(f"names= must return a str, not {type(wanted).__name__}")
        if not plain or wanted in self._taken or not _LEGAL.fullmatch(wanted) or _LOOKS_HASHED.search(wanted):
            wanted = next(
                name for digits in _DIGITS if (name := _hashed(wanted, server, tool, digits)) not in self._taken
            )
        names[tool] = wanted
        self._taken.add(wanted)
        return wanted
