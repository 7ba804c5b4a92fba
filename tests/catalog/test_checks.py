"""Arguments are checked as `jsonschema` would, in bounded time, and errors help a model without quoting what it said."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_mcp_pool.catalog import _checks
from trio_mcp_pool.catalog._checks import Checker
from trio_mcp_pool.catalog._plain import compile_plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def schemas(inner):
    words = {
        "type": st.sampled_from(["string", "integer", "number", "object", "array", "null", ["string", "null"]]),
        "enum": st.lists(JSON, min_size=1, max_size=3),
        "const": JSON,
        "minimum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": st.integers(0, 2),
        "maxItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        "additionalProperties": inner | st.booleans(),
        "items": inner,
        "anyOf": st.lists(inner, min_size=1, max_size=3),
        "oneOf": st.lists(inner, min_size=1, max_size=3),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "not": inner,
        "if": inner,
        "then": inner,
        "$ref": st.sampled_from(["#/$defs/one", "#/$defs/two"]),
    }
    return st.sets(st.sampled_from(sorted(words)), max_size=4).flatmap(
        lambda chosen: st.fixed_dictionaries({word: words[word] for word in sorted(chosen)})
    )


SCHEMAS = st.recursive(st.just({"type": "string"}) | st.just({"type": "object"}) | st.just({}), schemas, max_leaves=8)


async def complaints_of(schema, arguments):
    checker = Checker(schema)
    return await checker.complaints(arguments), checker.problem


def complaints(schema, arguments):
    return trio.run(complaints_of, schema, arguments)


@pytest.mark.parametrize("fast", [True, False], ids=["with jsonschema-rs", "without"])
@given(schema=SCHEMAS, arguments=st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4))
def test_the_verdict_is_that_of_jsonschema(fast, schema, arguments) -> None:
    schema = {**schema, "$defs": {"one": {"type": "integer"}, "two": {"type": "object", "required": ["a"]}}}
    rs, _checks.FAST = _checks.FAST, _checks.FAST if fast else None
    try:
        found, problem = complaints(schema, arguments)
    finally:
        _checks.FAST = rs
    assert problem is None
    assert (found == []) == jsonschema.Draft202012Validator(schema).is_valid(arguments), found


LEAF = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "object", "maxProperties": 1}, True, False])
RARER = st.fixed_dictionaries(
    {},
    optional={
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$", "[ac]"]), LEAF, min_size=1, max_size=2),
        "additionalProperties": LEAF,
        "propertyNames": st.sampled_from([{"enum": ["a", "b"]}, {"maxLength": 0}]),
        "minProperties": st.integers(0, 2),
        "dependentRequired": st.fixed_dictionaries({"a": st.lists(st.sampled_from("bc"), max_size=1)}),
        "dependentSchemas": st.fixed_dictionaries({"a": st.just({"required": ["b"]})}),
        "unevaluatedProperties": st.booleans(),
        "if": st.just({"required": ["a"]}),
        "then": st.just({"required": ["b"]}),
        "else": st.just({"required": ["c"]}),
    },
)
LISTS = st.fixed_dictionaries(
    {},
    optional={
        "prefixItems": st.lists(LEAF, min_size=1, max_size=2),
        "items": LEAF,
        "contains": LEAF,
        "minContains": st.integers(0, 2),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
    },
)


@pytest.mark.parametrize("fast", [True, False], ids=["with jsonschema-rs", "without"])
@settings(max_examples=500)
@given(
    schema=RARER | LISTS.map(lambda each: {"additionalProperties": each}),
    arguments=st.dictionaries(st.sampled_from("abc"), st.integers(0, 1) | st.just("a") | JSON, min_size=1, max_size=3),
)
def test_the_verdict_on_rarer_words_is_that_of_jsonschema_too(fast, schema, arguments) -> None:
    rs, _checks.FAST = _checks.FAST, _checks.FAST if fast else None
    try:
        found, problem = complaints(schema, arguments)
    finally:
        _checks.FAST = rs
    if {"patternProperties", "unevaluatedProperties"} <= schema.keys():
        assert problem is not None  # it is said that these go unchecked
        assert "combines" in problem
    else:
        assert problem is None
        assert (found == []) == jsonschema.Draft202012Validator(schema).is_valid(arguments), found


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}},
        "where": {"anyOf": [{"type": "object", "required": ["city"]}, {"type": "null"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, ["missing 'name'"]),
        ({"name": 3}, ["name: expected string, got integer"]),
        ({"name": "hunter2"[:1]}, ["name: must keep to minLength 2"]),
        ({"name": "Tom", "age": -1}, ["age: must keep to minimum 0"]),
        ({"name": "Tom", "kind": "hunter2"}, ['kind: expected one of ["cat", "dog"]']),
        ({"name": "Tom", "tags": ["a", "hunter2"]}, ["tags[1]: must match the pattern '^[a-z]+$'"]),
        ({"name": "Tom", "nme": "x"}, ["unexpected 'nme'; did you mean 'name'?"]),
        ({"name": "Tom", "where": {}}, ["where: fits none of 2 alternatives; the nearest: where: missing 'city'"]),
    ],
)
def test_an_error_says_which_field_and_what_was_expected_and_quotes_no_value(arguments, said) -> None:
    found, _ = complaints(PERSON, arguments)
    assert found == said
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "http://127.0.0.1:1/evil"}, "only places within the schema are followed"),
        ({"$ref": "#/$defs/none"}, "which it does not contain"),
        ({"properties": {"a": {"$ref": "#"}}}, "it refers to itself"),
        ({"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}, "it refers to itself"),
        ({"$dynamicRef": "#x"}, "it uses $dynamicRef"),
        ({"properties": {"a": {"type": "strng"}}}, "unknown type, 'strng'"),
        ({"properties": {"a": {"type": {}}}}, "unknown type"),
        ({"properties": {"a": 3}}, "it has a int where a schema belongs"),
        ({"minLength": "x"}, "it is no valid JSON Schema"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "cannot be matched in bounded time"),
        ({"properties": {"a": {"$id": "http://x", "type": "string"}}}, "an $id of its own"),
    ],
)
def test_a_schema_that_must_not_be_followed_is_a_problem_and_its_calls_go_unchecked(schema, why) -> None:
    found, problem = complaints(schema, {"a": "x"})
    assert found == []
    assert problem is not None
    assert why in problem


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def laughs(levels: int) -> dict[str, Any]:
    """A billion laughs: every definition stands for ten of the next."""
    defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 10} for n in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("schema", [deep(100), deep(5000), laughs(9)], ids=["deep", "very deep", "laughs"])
def test_a_schema_out_of_proportion_is_found_out_at_once(schema) -> None:
    started = time.thread_time()
    found, problem = complaints(schema, {"a": 1})
    assert (found, problem is not None) == ([], True)
    assert time.thread_time() - started < 0.25


async def test_R19_a_pattern_that_backtracks_holds_the_loop_for_no_longer_than_50_ms() -> None:
    checker = Checker({"properties": {"a": {"type": "array", "items": {"pattern": "^(a+)+$"}}}})
    await checker.complaints({"a": []})
    started = time.thread_time()
    assert await checker.complaints({"a": ["a" * 3_000 + "!"] * 100}) == []
    assert time.thread_time() - started < 0.1
    assert checker.problem is not None
    assert "takes too long" in checker.problem
    # That one call went unchecked; the next is checked again.
    assert await checker.complaints({"a": ["b"]}) != []


async def test_R19_a_large_check_runs_beside_the_event_loop() -> None:
    checker = Checker({"properties": {"a": {"items": {"anyOf": [{"const": n} for n in range(300)]}}}})
    held = 0.0

    async def watch() -> None:
        nonlocal held
        while True:
            before = time.perf_counter()
            await trio.sleep(0.001)
            held = max(held, time.perf_counter() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert await checker.complaints({"a": [299] * 300}) == []
        nursery.cancel_scope.cancel()
    assert held < 0.5


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"enum": list(range(100_000))}}},
        {"properties": {"a": {"pattern": "(a|b)c" * 2_000}}},
        {"patternProperties": {"(a|b)c" * 2_000: {"type": "string"}}},
    ],
    ids=["choices", "pattern", "pattern of names"],
)
async def test_R19_a_schema_of_few_parts_but_large_ones_is_looked_at_beside_the_event_loop(schema, monkeypatch) -> None:
    monkeypatch.setattr(_checks, "FAST", None)
    threads = []
    real = trio.to_thread.run_sync

    async def run_sync(function, *args):
        threads.append(function.__name__)
        return await real(function, *args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    checker = Checker(schema)
    started = time.thread_time()
    await checker.complaints({"a": "b", "c": 1})
    assert time.thread_time() - started < 0.1
    assert threads[0] == "_compile"


async def test_an_error_quotes_no_more_than_the_first_of_many_choices() -> None:
    [said], _ = await complaints_of({"properties": {"a": {"enum": [f"choice {n}" for n in range(1_000)]}}}, {"a": 3})
    assert said.startswith('a: expected one of ["choice 0", "choice 1"')
    assert len(said) < 330


def test_patterns_decide_which_properties_are_additional() -> None:
    schema = {"patternProperties": {"^x-": {"type": "string"}}, "properties": {"a": {}}, "additionalProperties": False}
    assert complaints(schema, {"a": 1, "x-1": "y"})[0] == []
    assert complaints(schema, {"x-1": 1})[0] == ["x-1: expected string, got integer"]
    assert complaints(schema, {"y": 1})[0] == ["unexpected 'y'"]
    schema["additionalProperties"] = {"type": "integer"}
    assert complaints(schema, {"y": 1})[0] == []
    assert complaints(schema, {"y": "z"})[0] == ["y: expected integer, got string"]


VALUES = [None, True, False, 0, 1, 1.0, 1.5, "", "a", [], ["a"], [1], {}, {"a": 1}, {"a": "a"}, {"b": 1}, {"a": True}]
PLAIN = [
    *({"type": name} for name in ("string", "integer", "number", "boolean", "null", "object", "array")),
    {"type": ["integer", "null"]},
    {"enum": ["a", "b"]},
    {"type": "array", "items": {"type": "integer"}},
    {"items": {"type": "string"}},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"type": "object", "title": "T", "description": "d", "format": "x", "default": 3},
]


@pytest.mark.parametrize("schema", PLAIN, ids=str)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_shortcut_for_plain_schemas_says_what_jsonschema_says(schema, value) -> None:
    accepts = compile_plain(schema)
    assert accepts is not None
    assert accepts(value) == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    "schema", [{"enum": [1]}, {"minimum": 1}, {"items": {"const": 1}}, {"additionalProperties": {}}]
)
def test_there_is_no_shortcut_for_a_schema_that_is_more_than_plain(schema) -> None:
    assert compile_plain(schema) is None


async def test_R19_a_comparison_of_each_with_each_is_not_made_in_the_event_loop(monkeypatch) -> None:
    monkeypatch.setattr(_checks, "FAST", None)
    checker = Checker({"properties": {"a": {"uniqueItems": True}}})
    many = {"a": [{"n": n, "x": []} for n in range(800)]}
    await checker.complaints({"a": []})
    started = time.thread_time()
    assert await checker.complaints(many) == []
    assert time.thread_time() - started < 0.1


async def test_no_reference_is_ever_fetched_and_no_dialect_either() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/schema"
    asked = []

    async def serve(stream: trio.SocketStream) -> None:
        asked.append(await stream.receive_some())
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        for schema in (
            {"$schema": url, "properties": {"a": {"minLength": 1}}},
            {"properties": {"a": {"$ref": url}}},
            {"$id": url, "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"minLength": 1}}},
        ):
            checker = Checker(schema)
            await trio.to_thread.run_sync(lambda checker=checker: trio.run(checker.complaints, {"a": "x"}))
        nursery.cancel_scope.cancel()
    assert asked == []
