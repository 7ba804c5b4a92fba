"""Regular expressions that a stranger wrote, matched in bounded time.

The rule: no text and no expression makes `search` take more than its budget of steps. The obvious way, `re.search` in a worker
thread with a deadline, does not work: `re` holds the interpreter's lock until it is done, so the thread would stop the event
loop with everything else.

An expression is parsed by `re`'s own parser, so it means what it means to `re` and to `jsonschema`. Where its form proves
that `re` is fast on a text of the given length, `re` does the work; otherwise all alternatives are followed side by side, one
character at a time (Thompson, 1968), which is slow by a constant factor and never more. References back and assertions about
what is around cannot be matched that way: they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from re import _constants as _c  # type: ignore[attr-defined]  # the parser has no public name since 3.11
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final, TypeAlias, final

LONGEST_PATTERN: Final = 1000
MOST_INSTRUCTIONS: Final = 1000
FAST_STEPS: Final = 100_000
"""Steps of `re` itself that are cheap enough not to be counted: about a millisecond."""

Test: TypeAlias = Callable[[str], bool]


class UnsupportedPatternError(Exception):
    """The expression is wrong, too large, or needs what takes more than linear time."""


class TooCostlyError(Exception):
    """The budget is used up."""


@final
class Budget:
    """Steps that are left for one check of one call; about 0.5 µs each."""

    __slots__ = ("left",)

    def __init__(self, steps: int) -> None:
        self.left = steps


_CATEGORIES: dict[Any, Test] = {
    _c.CATEGORY_DIGIT: str.isdecimal,
    _c.CATEGORY_NOT_DIGIT: lambda ch: not ch.isdecimal(),
    _c.CATEGORY_SPACE: str.isspace,
    _c.CATEGORY_NOT_SPACE: lambda ch: not ch.isspace(),
    _c.CATEGORY_WORD: lambda ch: ch.isalnum() or ch == "_",
    _c.CATEGORY_NOT_WORD: lambda ch: not (ch.isalnum() or ch == "_"),
}


# In an empty text there is no boundary, and until Python 3.14 no absence of one either.
_NONE_IN_NOTHING: Final = re.search(r"\B", "") is None


def _word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


_PLACES: dict[Any, Callable[[str, int], bool]] = {
    _c.AT_BEGINNING: lambda text, at: at == 0,
    _c.AT_BEGINNING_STRING: lambda text, at: at == 0,
    _c.AT_END: lambda text, at: at == len(text) or (at == len(text) - 1 and text[at] == "\n"),
    _c.AT_END_STRING: lambda text, at: at == len(text),
    _c.AT_BOUNDARY: lambda text, at: _word(text, at - 1) != _word(text, at),
    _c.AT_NON_BOUNDARY: lambda text, at: _word(text, at - 1) == _word(text, at) and not (_NONE_IN_NOTHING and not text),
}


def _class_test(items: Any) -> Test:
    negate = bool(items) and items[0][0] is _c.NEGATE
    literals: set[str] = set()
    tests: list[Test] = []
    for op, value in items[1:] if negate else items:
        if op is _c.LITERAL:
            literals.add(chr(value))
        elif op is _c.RANGE:
            low, high = map(chr, value)
            tests.append(lambda ch, low=low, high=high: low <= ch <= high)  # type: ignore[misc]
        elif op is _c.CATEGORY and value in _CATEGORIES:
            tests.append(_CATEGORIES[value])
        else:
            raise UnsupportedPatternError(f"{op} in a class")
    return lambda ch: (ch in literals or any(test(ch) for test in tests)) != negate


@final
class LinearPattern:
    """One expression, compiled. Raises `UnsupportedPatternError`."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > LONGEST_PATTERN:
            raise UnsupportedPatternError(f"longer than {LONGEST_PATTERN} characters")
        try:
            tree = _parser.parse(pattern)
            if tree.state.flags & ~re.UNICODE:
                raise UnsupportedPatternError("flags")
            self._program: list[Any] = []
            self._emit(tree)
        except (re.error, RecursionError, OverflowError, ValueError) as why:
            raise UnsupportedPatternError(type(why).__name__) from None
        self._program.append(("match",))
        self._degree = _degree(tree)
        self._re = re.compile(pattern) if self._degree is not None else None

    def search(self, text: str, budget: Budget) -> bool:
        """Whether the expression matches anywhere in `text`, as `re.search`. Raises `TooCostlyError`."""
        if self._re is not None and self._degree is not None and (len(text) + 1) ** self._degree <= FAST_STEPS:
            return self._re.search(text) is not None
        return self._follow(text, budget)

    # Compiling: a list of instructions, each a tuple whose first item says what it is.

    def _add(self, *instruction: Any) -> int:
        if len(self._program) >= MOST_INSTRUCTIONS:
            raise UnsupportedPatternError("too many repetitions")
        self._program.append(instruction)
        return len(self._program) - 1

    def _emit(self, sequence: Any) -> None:
        for op, value in sequence:
            if op is _c.LITERAL:
                self._add("test", chr(value).__eq__)
            elif op is _c.NOT_LITERAL:
                self._add("test", chr(value).__ne__)
            elif op is _c.ANY:
                self._add("test", "\n".__ne__)
            elif op is _c.IN:
                self._add("test", _class_test(value))
            elif op is _c.AT:
                self._add("at", _PLACES[value])
            elif op is _c.SUBPATTERN:
                _, added, removed, inner = value
                if added or removed:
                    raise UnsupportedPatternError("flags")
                self._emit(inner)
            elif op is _c.BRANCH:
                self._branch(value[1])
            elif op in (_c.MAX_REPEAT, _c.MIN_REPEAT):
                self._repeat(*value)
            else:
                raise UnsupportedPatternError(str(op).lower())

    def _branch(self, alternatives: Any) -> None:
        ends = []
        for inner in alternatives[:-1]:
            fork = self._add()
            self._emit(inner)
            ends.append(self._add())
            self._program[fork] = ("fork", fork + 1, len(self._program))
        self._emit(alternatives[-1])
        for end in ends:
            self._program[end] = ("fork", len(self._program), None)

    def _repeat(self, low: int, high: Any, inner: Any) -> None:
        endless = high is _c.MAXREPEAT
        for _ in range(low):
            self._emit(inner)
        if endless:
            fork = self._add()
            self._emit(inner)
            self._add("fork", fork, None)
            self._program[fork] = ("fork", fork + 1, len(self._program))
            return
        forks = []
        for _ in range(high - low):
            forks.append(self._add())
            self._emit(inner)
        for fork in forks:
            self._program[fork] = ("fork", fork + 1, len(self._program))

    # Running.

    def _follow(self, text: str, budget: Budget) -> bool:
        program = self._program
        waiting: set[int] = set()
        for at in range(len(text) + 1):
            # Everything that can be reached here without reading: the start, and what the last character led to.
            seen: set[int] = set()
            stack = [0, *waiting]
            ready: list[int] = []
            while stack:
                pc = stack.pop()
                if pc in seen:
                    continue
                seen.add(pc)
                instruction = program[pc]
                kind = instruction[0]
                if kind == "test":
                    ready.append(pc)
                elif kind == "fork":
                    stack.append(instruction[1])
                    if instruction[2] is not None:
                        stack.append(instruction[2])
                elif kind == "at":
                    if instruction[1](text, at):
                        stack.append(pc + 1)
                else:
                    return True
            budget.left -= len(seen) + len(ready) + 1
            if budget.left < 0:
                raise TooCostlyError
            if at < len(text):
                ch = text[at]
                waiting = {pc + 1 for pc in ready if program[pc][1](ch)}
        return False


def _degree(tree: Any) -> int | None:
    """`d`, where the form proves that `re` needs at most about `n ** d` steps for `n` characters; else `None`."""
    anchored = len(tree) > 0 and tree[0] == (_c.AT, _c.AT_BEGINNING)
    repeats = _repeats(tree)
    return None if repeats is None else max(1, repeats + (not anchored))


def _repeats(tree: Any) -> int | None:
    """How many choices of a length there are, where all stand side by side; `None` where one stands inside another, or where
    there are alternatives, as both multiply."""
    count = 0
    for op, value in tree:
        if op is _c.BRANCH:
            return None
        inner = value[2] if op in (_c.MAX_REPEAT, _c.MIN_REPEAT) else value[3] if op is _c.SUBPATTERN else None
        if inner is None:
            continue
        inside = _repeats(inner)
        if inside is None:
            return None
        if op is _c.SUBPATTERN:
            count += inside
        elif value[0] != value[1]:
            if inside:
                return None
            count += 1
        else:
            count += inside * min(int(value[1]), MOST_INSTRUCTIONS)
    return count
