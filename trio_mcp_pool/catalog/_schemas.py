"""Tool schemas as hostile input: what is looked at before anything is done by them.

The rule: nothing that a schema says can make the program fetch, recurse without end, or work longer than the schema is
long. Schemas come from servers, so this is looked at before a validator sees them. The obvious way, to give the schema to the
validator and catch what it raises, does not bound how long that takes.

Only a reference to a place within the same schema is followed. A schema that refers elsewhere, or to itself, or that is out of
proportion, is not checked against: its calls go through unchecked, and a problem says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final
from urllib.parse import unquote

DEEPEST: Final = 60
HEAVIEST: Final = 20_000
CHOICES: Final = 20
"""So many choices of an `enum` take as long to compare with as one schema takes to check."""
TYPES: Final = frozenset({"string", "number", "integer", "object", "array", "boolean", "null"})

MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SINGLES: Final = frozenset(
    {
        "items",
        "additionalItems",
        "additionalProperties",
        "contains",
        "not",
        "if",
        "then",
        "else",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "dependencies",
    }
)
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_UNFOLLOWED: Final = ("$dynamicRef", "$recursiveRef")


class SchemaProblemError(Exception):
    """The schema cannot be used for checking or converting; the message says why, without the schema's own words at length."""


def short(value: object, most: int = 60) -> str:
    """A server's own word, cut and quoted, for a message."""
    text = str(value)
    return repr(text if len(text) <= most else f"{text[:most]}…")


def resolve(root: Any, reference: str) -> Any:
    """What a reference within the schema means. Raises `SchemaProblemError`."""
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaProblemError(f"it refers to {short(reference)}: only places within the schema are followed")
    found = root
    for part in reference.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and len(key) < 8 and int(key) < len(found):
            found = found[int(key)]
        else:
            raise SchemaProblemError(f"it refers to {short(reference)}, which it does not contain")
    return found


_NAMES: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def json_type(value: object) -> str:
    """The JSON name of a value's type."""
    return _NAMES.get(type(value), type(value).__name__)


@final
@dataclass
class Audit:
    """What was seen of one schema."""

    nodes: int = 0
    """Schemas in it, the unused definitions included."""
    weight: int = 0
    """Schemas that one value may have to be checked against: references count for what they stand for, long choices more."""
    bulk: int = 0
    """Choices, and characters of patterns: what makes a schema of few nodes long to compile."""
    patterns: list[str] = field(default_factory=list)
    keywords: set[str] = field(default_factory=set)


def audit(root: Any) -> Audit:
    """Look a schema over. Raises `SchemaProblemError` for what must not be followed."""
    seen = Audit()
    weights: dict[int, int] = {}
    under_way: set[int] = set()

    def weigh(schema: Any, depth: int) -> int:
        if isinstance(schema, bool):
            return 1
        if not isinstance(schema, dict):
            raise SchemaProblemError(f"it has a {type(schema).__name__} where a schema belongs")
        if depth > DEEPEST:
            raise SchemaProblemError(f"it is nested more than {DEEPEST} deep")
        key = id(schema)
        if key in under_way:
            raise SchemaProblemError("it refers to itself")
        if key in weights:
            return weights[key]
        under_way.add(key)
        seen.nodes += 1
        weight = 1
        for word, value in schema.items():
            seen.keywords.add(word)
            weight += weigh_keyword(schema, word, value, depth)
            if weight > HEAVIEST or seen.nodes > HEAVIEST:
                raise SchemaProblemError(f"it stands for more than {HEAVIEST:,} schemas")
        under_way.discard(key)
        weights[key] = weight
        return weight

    def weigh_keyword(schema: dict[str, Any], word: str, value: Any, depth: int) -> int:
        if word == "$ref":
            if not isinstance(value, str):
                raise SchemaProblemError("a $ref of it is no text")
            return weigh(resolve(root, value), depth + 1)
        if word in _UNFOLLOWED:
            raise SchemaProblemError(f"it uses {word}")
        if word in ("$id", "id") and isinstance(value, str) and schema is not root:
            raise SchemaProblemError("a part of it has an $id of its own")
        if word == "type":
            for name in value if isinstance(value, list) else [value]:
                if not isinstance(name, str) or name not in TYPES:
                    raise SchemaProblemError(f"it names an unknown type, {short(name)}")
        elif word == "pattern" and isinstance(value, str):
            seen.patterns.append(value)
            seen.bulk += len(value)
        elif word == "enum" and isinstance(value, list):
            seen.bulk += len(value)
            return len(value) // CHOICES
        elif word in MAPS and isinstance(value, dict):
            if word == "patternProperties":
                seen.patterns.extend(value)
                seen.bulk += sum(map(len, value))
            inner = sum(weigh(each, depth + 1) for each in value.values())
            return 0 if word in _DEFINITIONS else inner
        elif word == "dependencies" and isinstance(value, dict):
            return sum(weigh(each, depth + 1) for each in value.values() if not isinstance(each, list))
        elif isinstance(value, list) and (word in LISTS or word == "items"):
            return sum(weigh(each, depth + 1) for each in value)
        elif word in SINGLES and isinstance(value, dict | bool):
            return weigh(value, depth + 1)
        return 0

    seen.weight = weigh(root, 0)
    return seen


def inline(root: dict[str, Any]) -> dict[str, Any]:
    """The schema with its references replaced by what they stand for, and without definitions.

    Raises `SchemaProblemError` where `audit` does. What stands beside a `$ref` is kept, and wins.
    """
    audit(root)

    def expand(schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        given = dict(schema)
        while isinstance(reference := given.pop("$ref", None), str):
            target = resolve(root, reference)
            if not isinstance(target, dict):
                return target
            given = {**target, **given}
        made: dict[str, Any] = {}
        for word, value in given.items():
            if word in _DEFINITIONS:
                continue
            if word in MAPS and isinstance(value, dict):
                made[word] = {name: expand(each) for name, each in value.items()}
            elif isinstance(value, list) and (word in LISTS or word == "items"):
                made[word] = [expand(each) for each in value]
            elif word in SINGLES:
                made[word] = expand(value)
            else:
                made[word] = value
        return made

    expanded: dict[str, Any] = expand(root)
    return expanded
