"""OpenAI's strict form of a schema, and the way back to what the tool takes."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool.catalog._schemas import SchemaProblemError
from trio_mcp_pool.catalog._strict import make_strict, without_nulls


def parameters(inner):
    return st.dictionaries(st.sampled_from("abcd"), inner, max_size=4).flatmap(
        lambda properties: st.builds(
            lambda required: {"type": "object", "properties": properties, "required": required},
            st.lists(st.sampled_from(sorted(properties) or ["a"]), unique=True).map(
                lambda names: [name for name in names if name in properties]
            ),
        )
    )


LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "default": 1},
        {"type": ["string", "null"]},
        {"enum": ["x", "y"]},
        {"const": 1},
    ]
)
SCHEMAS = parameters(
    st.recursive(
        LEAVES,
        lambda inner: (
            parameters(inner)
            | inner.map(lambda each: {"type": "array", "items": each})
            | inner.map(lambda each: {"anyOf": [each, {"type": "boolean"}]})
            | st.just({"$ref": "#/$defs/p", "description": "a point"})
        ),
        max_leaves=6,
    )
)
POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]}


def made_by_model(schema: Any, root: Any, draw: Any) -> Any:
    """What a model may say that keeps to the strict form."""
    if "$ref" in schema:
        return made_by_model(root["$defs"]["p"], root, draw)
    if "anyOf" in schema:
        return made_by_model(draw(st.sampled_from(schema["anyOf"])), root, draw)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = draw(st.sampled_from(types))
    if kind == "object":
        return {name: made_by_model(each, root, draw) for name, each in schema["properties"].items()}
    if kind == "array":
        return [made_by_model(schema["items"], root, draw) for _ in range(draw(st.integers(0, 2)))]
    return {"string": "s", "integer": 1, "number": 0.5, "boolean": True, "null": None}[kind]


@given(SCHEMAS, st.data())
def test_what_keeps_to_the_strict_form_fits_the_tools_own_schema_once_the_nulls_are_out(schema, data) -> None:
    root = {**schema, "$defs": {"p": POINT}}
    strict = make_strict(root)
    said = made_by_model(strict, strict, data.draw)
    assert jsonschema.Draft202012Validator(strict).is_valid(said)
    sent = without_nulls(root, said)
    assert list(jsonschema.Draft202012Validator(root).iter_errors(sent)) == []


def objects(schema: Any) -> list[dict[str, Any]]:
    """All object schemas in a strict schema."""
    found = []
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema.get("type"), str | list):
            found.append(schema)
        for each in schema.values():
            found += objects(each)
    if isinstance(schema, list):
        for each in schema:
            found += objects(each)
    return found


@given(SCHEMAS)
def test_in_strict_form_all_is_required_nothing_is_open_and_nothing_stands_beside_a_reference(schema) -> None:
    strict = make_strict({**schema, "$defs": {"p": POINT}})
    for each in objects(strict):
        assert each["required"] == list(each["properties"])
        assert each["additionalProperties"] is False
    assert '"default"' not in str(strict)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "properties": {"a": {}}}, "leaves the type of a value open"),
        ({"type": "object", "properties": {"a": True}}, "leaves the type of a value open"),
        ({"type": "object", "properties": {"a": {"type": "object"}}}, "an object with free keys"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "an object with free keys"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "items of an array open"),
        ({"type": "object", "properties": {"a": {"type": "string", "not": {"const": "x"}}}}, "it uses not"),
        ({"type": "object", "properties": {"a": {"allOf": [{}, {}]}}}, "it uses allOf"),
        ({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}}, "it refers to"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "requires a property that it does not describe"),
        ({"anyOf": [{"type": "object"}]}, "its top is not a plain object"),
        ({"type": "object", "properties": {"a": {"enum": list(range(1001))}}}, "more than 1,000 choices"),
    ],
)
def test_a_schema_without_a_strict_form_is_named_with_the_reason(schema, why) -> None:
    with pytest.raises(SchemaProblemError, match=why):
        make_strict(schema)


def test_a_null_that_the_tool_itself_takes_stays() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "string"}}}
    assert without_nulls(schema, {"a": None, "b": None}) == {"a": None}


def test_no_arguments_at_all_is_strict() -> None:
    assert make_strict({"type": "object"}) == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }
