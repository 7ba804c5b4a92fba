"""Which tools a set admits: shell-style patterns, compiled once.

The rule: a pattern is matched against the raw `server__tool` and against the final name, so that it means what its writer saw,
in whichever list. The obvious way, the final name alone, would let a tool slip past a `deny` by having an illegal name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable


def compile_patterns(what: str, patterns: Iterable[str]) -> Callable[[str, str], bool]:
    """A predicate of the raw and the final name. Case counts; `*`, `?` and `[...]` as in a shell.

    Raises `TypeError` for a bare `str` and for anything in it that is none: `deny="git__push"` would be nine patterns.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{what}= must be a sequence of patterns such as [{patterns!r}], not a str")
    if not isinstance(patterns, Iterable):
        raise TypeError(f'{what}= must be a sequence of patterns such as ["git__*"], not {type(patterns).__name__}')
    given = list(patterns)
    for pattern in given:
        if not isinstance(pattern, str):
            raise TypeError(f"{what}= must hold patterns of type str, not {type(pattern).__name__}")
    if not given:
        return lambda raw, final: False
    match = re.compile("|".join(map(fnmatch.translate, given))).match
    return lambda raw, final: match(raw) is not None or match(final) is not None
