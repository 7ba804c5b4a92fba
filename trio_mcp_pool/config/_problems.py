"""What is wrong in a configuration file, and where.

A file is read to its end and every problem is kept, because somebody who mends a file wants the whole list and not the
first line of it. Nothing here ever quotes a value (R16): a problem shows names of fields, types, and what to write instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, final

from trio_mcp_pool import PoolError

_PLAIN = re.compile(r"[A-Za-z][\w-]{0,30}")


@final
@dataclass(frozen=True)
class Place:
    """A place in a file. `line` and `column` count from 1 and are `None` where there is no text to count in."""

    file: str
    """The file's path, or a word for what was read instead of a file."""
    line: int | None = None
    """The line, from 1."""
    column: int | None = None
    """The column in characters, from 1."""

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@final
@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a configuration, with its place and its mend. No value of the file is in it."""

    place: Place
    """Where it stands."""
    field: str
    """The dotted name of the field, such as `mcpServers.notes.timeout`; empty for the file as a whole."""
    message: str
    """What is wrong."""
    mend: str
    """What to do about it."""
    severity: Literal["error", "warning"] = "error"
    """`"error"`: the server, or the file, cannot be used. `"warning"`: it is used, without what the problem is about."""
    server: str | None = None
    """The server concerned, or `None`."""

    def __str__(self) -> str:
        what = f"{self.field}: {self.message}" if self.field else self.message
        return f"{self.place}: {self.severity}: {what}{'' if what.endswith('?') else '.'} {self.mend}"


@final
class ConfigError(PoolError, ValueError):
    """A configuration that cannot be used: the file as a whole, or, where `strict` was asked for, anything in it.

    `problems` has all of them. Nothing was sent anywhere: `outcome` is `"not run"`.
    """

    _outcome = "not run"

    def __init__(self, message: str = "", *, problems: tuple[Problem, ...] = (), **known: Any) -> None:
        super().__init__(message, **known)
        self.problems = problems

    @classmethod
    def of(cls, source: str, problems: Iterable[Problem]) -> ConfigError:
        """The error for all problems of one source."""
        found = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in found)
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        return cls(f"{source} has {count}:{lines}", problems=found)


class Problems:
    """Collects the problems of one load."""

    MOST = 200
    """A file of a million wrong fields is told of once, not a million times."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Keep one, unless it is known already or there are too many."""
        if len(self.found) < self.MOST and problem not in self.found:
            self.found.append(problem)

    def error(self, place: Place, field: str, message: str, mend: str, server: str | None = None) -> None:
        """Something that makes its server unusable."""
        self.add(Problem(place, field, message, mend, "error", server))

    def warning(self, place: Place, field: str, message: str, mend: str, server: str | None = None) -> None:
        """Something that is left out, or was understood in a way that the author may not have meant."""
        self.add(Problem(place, field, message, mend, "warning", server))


def shown(word: object) -> str:
    """A word of the file as a message may show it: quoted if it is plain, and hidden if it might be a secret."""
    text = str(word)
    return repr(text) if _PLAIN.fullmatch(text) else "this value"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'command'?"`, or an empty string."""
    by_plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in sorted(known)}
    near = difflib.get_close_matches(re.sub(r"[^a-z]", "", word.lower()), by_plain, n=1, cutoff=0.7)
    return f"did you mean {by_plain[near[0]]!r}?" if near else ""


def kind_of(value: object) -> str:
    """What a value is called in JSON."""
    if isinstance(value, bool):
        return "true or false"
    names: list[tuple[type | tuple[type, ...], str]] = [
        (str, "a string"),
        ((int, float), "a number"),
        (dict, "an object"),
        (list, "a list"),
    ]
    return next(
        (name for kind, name in names if isinstance(value, kind)),
        "null" if value is None else f"a {type(value).__name__}",
    )
