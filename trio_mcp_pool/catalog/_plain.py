"""A quick yes for arguments that fit a plain schema, so that a call of a common tool costs no more than it must.

The rule: yes means that `jsonschema` says yes, too; anything else means nothing, and `jsonschema` is asked. Most tools' schemas
are types, choices of texts, objects and lists, and nothing more; for any other there is no such shortcut.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final, TypeAlias

Accepts: TypeAlias = Callable[[Any], bool]

_ANNOTATIONS: Final = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "format",
        "$schema",
        "$comment",
    }
)
_PLAIN: Final = frozenset({"type", "enum", "properties", "required", "additionalProperties", "items"})


def _integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


_TYPES: Final[dict[str, Accepts]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: value is True or value is False,
    "null": lambda value: value is None,
    "integer": _integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def _anything(value: Any) -> bool:
    return True


def _both(first: Accepts, second: Accepts) -> Accepts:
    return lambda value: first(value) and second(value)


def compile_plain(schema: Any) -> Accepts | None:
    """The shortcut, or `None` where the schema is more than plain. For a schema that was audited and found valid."""
    if schema is True:
        return _anything
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN | _ANNOTATIONS:
        return None
    tests: list[Accepts] = []
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if len(types) != 1:
            options = [_TYPES[name] for name in types]
            tests.append(lambda value: any(test(value) for test in options))
        else:
            tests.append(_TYPES[types[0]])
    if "enum" in schema:
        if not all(isinstance(each, str) for each in schema["enum"]):
            return None  # to Python, 1 is True and 1.0
        choices = frozenset(schema["enum"])
        tests.append(lambda value: isinstance(value, str) and value in choices)
    if not schema.keys().isdisjoint({"properties", "required", "additionalProperties"}):
        inside = _object(schema)
        if inside is None:
            return None
        tests.append(inside)
    if "items" in schema:
        item = compile_plain(schema["items"])
        if item is None:
            return None
        each_item = item
        tests.append(lambda value: not isinstance(value, list) or all(each_item(each) for each in value))
    return reduce(_both, tests) if tests else _anything


def _object(schema: dict[str, Any]) -> Accepts | None:
    known: dict[str, Accepts] = {}
    for name, inner in schema.get("properties", {}).items():
        test = compile_plain(inner)
        if test is None:
            return None
        known[name] = test
    required = frozenset(schema.get("required", ()))
    free = schema.get("additionalProperties", True)
    if not isinstance(free, bool):
        return None

    def accepts(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        if not required <= value.keys():
            return False
        for name, each in value.items():
            test = known.get(name)
            if test is None:
                if not free:
                    return False
            elif not test(each):
                return False
        return True

    return accepts
