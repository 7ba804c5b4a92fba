"""Arguments as they are typed, made into what a tool's schema wants; and a tool's signature, made from that schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._failures import Usage
from ._targets import did_you_mean

_MAX_FILE = 64 * 1024 * 1024


def _type(schema: Any, depth: int = 0) -> str:
    """A schema's type in a few words."""
    if not isinstance(schema, Mapping) or depth > 3:
        return "any"
    if isinstance(schema.get("enum"), list):
        return "|".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"][:6])
    if "const" in schema:
        return json.dumps(schema["const"])
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            return "|".join(dict.fromkeys(_type(part, depth + 1) for part in schema[union]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return "|".join(map(str, kind))
    if kind == "array":
        inner = _type(schema.get("items"), depth + 1)
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    return str(kind) if kind else "object" if "properties" in schema or "$ref" in schema else "any"


def _properties(schema: Any) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _required(schema: Any) -> list[str]:
    required = schema.get("required") if isinstance(schema, Mapping) else None
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []


def signature(name: str, schema: Any) -> str:
    """`echo(text: string, times: integer = 1)`: what a tool is called with. Required arguments come first."""
    required = _required(schema)
    properties = _properties(schema)
    parts = []
    for argument in sorted(properties, key=lambda argument: argument not in required):
        part = f"{argument}{'' if argument in required else '?'}: {_type(properties[argument])}"
        default = properties[argument].get("default") if isinstance(properties[argument], Mapping) else None
        if default is not None:
            part = part.replace("?:", ":", 1) + f" = {json.dumps(default, ensure_ascii=False)}"
        parts.append(part)
    return f"{name}({', '.join(parts)})"


def _coerced(name: str, text: str, schema: Any) -> Any:
    """The value of `name=text` as the schema wants it. Raises `Usage`."""
    kinds = set(_type(schema).replace("(", "").replace(")", "").split("|"))
    if isinstance(schema, Mapping) and isinstance(schema.get("enum"), list):
        if text in schema["enum"]:
            return text
    elif kinds & {"string", "any"} and kinds != {"any"}:
        return None if text == "null" and "null" in kinds else text
    try:
        value = json.loads(text)
    except ValueError:
        if kinds == {"any"}:
            return text
        raise Usage(f"the argument {name!r} must be of type {_type(schema)}; write {name}:=JSON") from None
    if not _fits(value, kinds, schema):
        raise Usage(f"the argument {name!r} must be of type {_type(schema)}")
    return value


def _fits(value: Any, kinds: set[str], schema: Any) -> bool:
    if isinstance(schema, Mapping) and isinstance(schema.get("enum"), list):
        return value in schema["enum"]
    if "any" in kinds:
        return True
    simple = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "object": isinstance(value, dict),
    }
    return any(simple.get(kind, isinstance(value, list) if kind.endswith("[]") else kind == "array") for kind in kinds)


def json_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object out of a text. Raises `Usage`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise Usage(f"{where} is no JSON: {what}") from None
    if not isinstance(value, dict):
        raise Usage(f"{where} must be a JSON object")
    return value


def read_file(name: str) -> str:
    """A file's text; `-` is stdin. Raises `Usage`."""
    try:
        if name == "-":
            return sys.stdin.read(_MAX_FILE)
        with Path(name).expanduser().open(encoding="utf-8") as file:
            return file.read(_MAX_FILE)
    except UnicodeDecodeError:
        raise Usage(f"{name} is not UTF-8") from None
    except OSError as error:
        raise Usage(f"{name}: {error.strerror}") from None


class Values:
    """The arguments of a command line, before the tool's schema is known. Files and stdin are read at once."""

    def __init__(self, words: list[str], json_text: str | None = None) -> None:
        self.given: dict[str, Any] = {} if json_text is None else json_object(json_text, "--json")
        self.typed: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if word == "-":
                self.given.update(json_object(read_file("-"), "stdin"))
            elif word.startswith("@"):
                self.given.update(json_object(read_file(word[1:]), word[1:]))
            elif equals and name.endswith(":"):
                try:
                    self.given[name[:-1]] = json.loads(value)
                except ValueError:
                    raise Usage(f"the value of {name[:-1]!r} is no JSON; write {name[:-1]}=TEXT for a text") from None
            elif equals and name:
                self.typed[name] = value
            else:
                raise Usage(f"{word!r} is no argument; write name=value or name:=JSON")

    def fitted(self, name: str, schema: Any, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments for a tool. Raises `Usage` that shows the tool's signature."""
        properties = _properties(schema)
        known = {name for name in self.typed if name in properties}
        closed = isinstance(schema, Mapping) and schema.get("additionalProperties") is False
        arguments = {**self.given, **(more or {})}
        for argument, text in self.typed.items():
            arguments[argument] = _coerced(argument, text, properties.get(argument))
        shape = signature(name, schema)
        for argument in arguments:
            hint = did_you_mean(argument, properties)
            if argument not in properties and argument not in known and properties and (closed or hint):
                raise Usage(f"there is no argument {argument!r}{hint or ';'} the tool is {shape}")
        missing = [argument for argument in _required(schema) if argument not in arguments]
        if missing:
            several = "s" if len(missing) > 1 else ""
            raise Usage(f"the argument{several} {', '.join(map(repr, missing))} must be given: {shape}")
        return arguments
