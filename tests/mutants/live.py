"""Puts a mutant into a process that has imported the package: the functions get their changed code.

Importing the package and the tests takes longer than most mutants need to be found, and nearly all mutants change what is
inside a function. What is carried out while a module is imported (a constant, a default, a decorator) cannot be changed so.
"""

from __future__ import annotations

import ast
import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import trio

_Place = tuple[str, str, int]
_PROTECTIONS = {
    "enable_ki_protection": trio.lowlevel.enable_ki_protection,
    "disable_ki_protection": trio.lowlevel.disable_ki_protection,
}


class Functions:
    """All functions that there are now, by where they were written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_place: dict[_Place, list[FunctionType]] = {}
        gc.unfreeze()  # what is frozen, as by a test runner when it has collected, is not listed
        for each in gc.get_objects():
            if type(each) is FunctionType:
                self._by_place.setdefault(_place(each.__code__), []).append(each)

    def change(self, path: str, source: str, changed: str) -> bool:
        """Give them the code of the changed file. If more changes than functions: `False`, and nothing is done."""
        name = str(self.root / path)
        before, after = ([*_codes(compile(text, name, "exec"))] for text in (source, changed))
        if [*map(_place, before)] != [*map(_place, after)]:
            return False
        new = {}
        for old, code in zip(before, after, strict=True):
            if not code.co_flags & inspect.CO_OPTIMIZED and _own(old) != _own(code):
                return False
            if old != code and code.co_flags & inspect.CO_OPTIMIZED:
                if _place(code) in new or old.co_freevars != code.co_freevars:
                    return False
                new[_place(code)] = code
        protections = _protections(source)
        for place, code in new.items():
            for function in self._by_place.get(place, []):
                function.__code__ = code.replace()
                for protect in protections.get(place[2], []):
                    _PROTECTIONS[protect](function)
        return True


def _place(code: CodeType) -> _Place:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _own(code: CodeType) -> tuple[object, ...]:
    """What a module or the body of a class carries out, without the functions in it."""
    constants = [repr(each) for each in code.co_consts if not isinstance(each, CodeType)]
    return code.co_code, code.co_names, code.co_varnames, constants


def _protections(source: str) -> dict[int, list[str]]:
    """By the line where a function begins, its decorators that Trio knows by the code that they decorated."""
    found: dict[int, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list:
            named = [each.id for each in node.decorator_list if isinstance(each, ast.Name) and each.id in _PROTECTIONS]
            found[node.decorator_list[0].lineno] = named
    return found
