"""OpenAI's strict mode: a schema in which every property is required, and the way back.

The rule: what the model is shown admits nothing that the tool's schema refuses, but for a `null` in place of a property that
may be left out; and that `null` is taken out again before the call. A schema for which no such form exists is named, and
shown as it is with `strict: false`. The obvious way, to set `required` and `additionalProperties: false` everywhere, would
turn an object with free keys into one that must be empty.
"""

from __future__ import annotations

from typing import Any, Final

from ._schemas import SchemaProblemError, json_type, resolve, short

DEEPEST: Final = 10
MOST_PROPERTIES: Final = 5_000
MOST_CHOICES: Final = 1_000
_MOST_STEPS: Final = 2_000
_REFUSED: Final = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "prefixItems",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
)
_DROPPED: Final = frozenset({"default", "$schema", "$id", "title", "examples", "$comment", "uniqueItems"})
_MEANINGFUL: Final = ("type", "enum", "const", "anyOf", "$ref")


def make_strict(root: dict[str, Any]) -> dict[str, Any]:
    """The schema in strict form. Raises `SchemaProblemError` where there is none; the message says why."""
    counts = {"properties": 0, "choices": 0}

    def strict(schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, dict):
            raise SchemaProblemError("it leaves the type of a value open")
        if depth > DEEPEST:
            raise SchemaProblemError(f"it is nested more than {DEEPEST} deep")
        for word in _REFUSED:
            if word in schema:
                raise SchemaProblemError(f"it uses {word}")
        made = {word: value for word, value in schema.items() if word not in _DROPPED}
        if "allOf" in made:
            parts = made.pop("allOf")
            if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict):
                raise SchemaProblemError("it uses allOf")
            return strict({**parts[0], **made}, depth)
        if "oneOf" in made:
            if "anyOf" in made:
                raise SchemaProblemError("it uses anyOf and oneOf together")
            # Wider, but the arguments are checked against the tool's own schema before they are sent.
            made["anyOf"] = made.pop("oneOf")
        if "$ref" in made:
            resolve(root, made["$ref"])
            if not made["$ref"].startswith(("#/$defs/", "#/definitions/")):
                raise SchemaProblemError(f"it refers to {short(made['$ref'])}")
            if len(made) > 1:
                # Nothing may stand beside a reference; what does is a description, mostly.
                made = {"$ref": made["$ref"]}
        if not any(word in made for word in _MEANINGFUL) and "properties" not in made:
            raise SchemaProblemError("it leaves the type of a value open")
        for word in ("$defs", "definitions"):
            if isinstance(made.get(word), dict):
                made[word] = {name: strict(each, depth) for name, each in made[word].items()}
        if "anyOf" in made:
            made["anyOf"] = [strict(each, depth + 1) for each in made["anyOf"]]
        if isinstance(made.get("enum"), list):
            counts["choices"] += len(made["enum"])
            if counts["choices"] > MOST_CHOICES:
                raise SchemaProblemError(f"it has more than {MOST_CHOICES:,} choices")
        types = made.get("type")
        types = types if isinstance(types, list) else [types]
        if "array" in types:
            if isinstance(made.get("items"), list) or "items" not in made:
                raise SchemaProblemError("it leaves the items of an array open")
            made["items"] = strict(made["items"], depth + 1)
        if "object" in types or "properties" in made:
            close(made, depth)
        return made

    def close(made: dict[str, Any], depth: int) -> None:
        properties = made.get("properties", {})
        if made.get("additionalProperties", False) is not False or ("properties" not in made and depth > 0):
            raise SchemaProblemError("it has an object with free keys")
        required = made.get("required", [])
        counts["properties"] += len(properties)
        if counts["properties"] > MOST_PROPERTIES:
            raise SchemaProblemError(f"it has more than {MOST_PROPERTIES:,} properties")
        if any(name not in properties for name in required):
            raise SchemaProblemError("it requires a property that it does not describe")
        made["properties"] = {
            name: strict(each, depth + 1)
            if name in required or accepts_null(root, each)
            else _nullable(strict(each, depth + 1))
            for name, each in properties.items()
        }
        made["required"] = list(properties)
        made["additionalProperties"] = False

    if root.get("type") != "object" or "anyOf" in root or "oneOf" in root or "enum" in root or "$ref" in root:
        raise SchemaProblemError("its top is not a plain object")
    return strict(root, 0)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" in schema and "const" not in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        made = {**schema, "type": [*types, "null"]}
        if "enum" in schema:
            made["enum"] = [*schema["enum"], None]
        return made
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    outer = {"description": schema["description"]} if "description" in schema else {}
    return {**outer, "anyOf": [schema, {"type": "null"}]}


def accepts_null(root: dict[str, Any], schema: Any, depth: int = 0) -> bool:
    """Whether `null` may be a value here by the tool's own schema."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return schema is not False
    if isinstance(schema.get("$ref"), str):
        return accepts_null(root, resolve(root, schema["$ref"]), depth + 1)
    if "const" in schema:
        return schema["const"] is None
    if "enum" in schema and None not in schema["enum"]:
        return False
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return any(accepts_null(root, each, depth + 1) for each in schema[word])
    if "allOf" in schema:
        return all(accepts_null(root, each, depth + 1) for each in schema["allOf"])
    types = schema.get("type", "null")
    return "null" in (types if isinstance(types, list) else [types])


def without_nulls(root: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments without the nulls that strictness asked for, as a new value."""
    try:
        pruned: dict[str, Any] = _prune(root, arguments, root, 0)
    except Exception:
        return arguments  # the schema has changed since the model saw it, or is malformed where it was not looked at
    return pruned


def _prune(root: dict[str, Any], value: Any, schema: Any, depth: int) -> Any:
    for _ in range(DEEPEST):
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            schema = resolve(root, schema["$ref"])
        elif isinstance(schema, dict) and len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], dict):
            schema = {**schema["allOf"][0], **{word: each for word, each in schema.items() if word != "allOf"}}
    if not isinstance(schema, dict) or depth > DEEPEST:
        return value
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches and isinstance(value, dict | list):
        for branch in branches:
            if _Fits(root)(value, branch):
                return _prune(root, value, branch, depth + 1)
        return value
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_prune(root, each, schema["items"], depth + 1) for each in value]
    if isinstance(value, dict) and isinstance(properties := schema.get("properties"), dict):
        required = schema.get("required", [])
        return {
            name: _prune(root, each, properties[name], depth + 1) if name in properties else each
            for name, each in value.items()
            if each is not None or name in required or name not in properties or accepts_null(root, properties[name])
        }
    return value


class _Fits:
    """Whether a value that the model made by the strict form was made by one alternative of it.

    A schema can be made so that this takes for ever; after so many steps the answer is no, and the nulls stay.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._steps = _MOST_STEPS

    def __call__(self, value: Any, schema: Any) -> bool:
        self._steps -= 1
        if self._steps < 0 or not isinstance(schema, dict):
            return False
        if isinstance(schema.get("$ref"), str):
            return self(value, resolve(self._root, schema["$ref"]))
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return any(self(value, each) for each in schema[word])
        if len(schema.get("allOf", ())) == 1:
            return self(value, schema["allOf"][0])
        if "const" in schema:
            return bool(value == schema["const"])
        if "enum" in schema:
            return value in schema["enum"]
        types = schema.get("type", "object")
        types = types if isinstance(types, list) else [types]
        if isinstance(value, list):
            return "array" in types and all(self(each, schema.get("items")) for each in value)
        if isinstance(value, dict):
            properties = schema.get("properties", {})
            return (
                "object" in types
                and set(value) == set(properties)
                and all(each is None or self(each, properties[name]) for name, each in value.items())
            )
        name = json_type(value)
        return name in types or (name == "integer" and "number" in types)
