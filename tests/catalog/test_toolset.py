"""A tool set against scripted servers, on the virtual clock: what is in it, what may be called, what comes of a run."""

from __future__ import annotations

import json
import re
import sys
from contextlib import asynccontextmanager

import anthropic.types
import mcp
import mcp_types as types
import openai.types.chat
import openai.types.responses
import pydantic
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool import (
    ConnectError,
    InvalidArgumentsError,
    OutcomeUnknownError,
    PoolPolicy,
    ToolDeniedError,
    UnknownServerError,
    UnknownToolError,
    open_pool,
)
from trio_mcp_pool.catalog import Entry, Outcome, ToolSet, _catalog
from trio_mcp_pool.catalog._checks import Checker
from trio_mcp_pool.catalog._inspect_ai import _parameters
from trio_mcp_pool.testing import ScriptedServer, error, slow, tool


def files(**options):
    return ScriptedServer(
        {
            "read": tool(lambda path: f"text of {path}", read_only=True, input_schema=PATH),
            "write": tool(lambda path, text="": f"wrote {path}", input_schema=PATH_AND_TEXT),
        },
        **options,
    )


PATH = {
    "type": "object",
    "properties": {"path": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}
PATH_AND_TEXT = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}


# What is in a set.


async def test_all_tools_of_all_servers_in_the_order_of_configuration(autojump_clock) -> None:
    async with open_pool({"z": files(), "a": ScriptedServer()}) as pool:
        tools = await pool.toolset()
        assert tools.names == ("z__read", "z__write", "a__echo", "a__add")
        assert (await pool.toolset("a")).names == ("a__echo", "a__add")
        assert len(tools) == 4
        assert "z__read" in tools


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"allow": ["*__read", "a__*"]}, ("z__read", "a__echo", "a__add")),
        ({"deny": ["z__*"]}, ("a__echo", "a__add")),
        ({"allow": ["z__*"], "deny": ["*write"]}, ("z__read",)),
        ({"allow": []}, ()),
        ({"read_only": True}, ("z__read",)),
        ({"names": lambda server, name: f"{name}-of-{server}"}, ("read-of-z", "write-of-z", "echo-of-a", "add-of-a")),
        ({"names": lambda server, name: name, "deny": ["write", "z__read"]}, ("echo", "add")),
    ],
)
async def test_patterns_bind_the_list_and_the_calls(options, names, autojump_clock) -> None:
    servers = {"z": files(trusted=True), "a": ScriptedServer()}
    async with open_pool(servers) as pool:
        tools = await pool.toolset(**options)
        everything = await pool.toolset(names=options.get("names"))
        assert tools.names == names
        for name in everything.names:
            if name not in names:
                with pytest.raises(ToolDeniedError, match="may not be called") as caught:
                    await tools.call(name, {"path": "x"})
                assert (caught.value.outcome, caught.value.tool) == ("not run", name)
        assert servers["z"].calls == []


async def test_a_pattern_that_is_a_text_is_a_mistake(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        with pytest.raises(TypeError, match="must be a sequence of patterns"):
            await pool.toolset(deny="z__write")
        with pytest.raises(UnknownServerError, match="did you mean 'z'"):
            await pool.toolset("zz")
        for name in ("max_concurrent", "max_per_server", "max_chars"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1"):
                await pool.toolset(**{name: 0})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"approve": 3}, "approve= must be a function or None, not int"),
        ({"around": "x"}, "around= must be a function or None, not str"),
        ({"names": {}}, "names= must be a function or None, not dict"),
        ({"read_only": "yes"}, "read_only= must be a bool, not str"),
        ({"allow": 3}, r"allow= must be a sequence of patterns such as \["),
        ({"deny": 3}, r"deny= must be a sequence of patterns such as \["),
    ],
)
async def test_a_wrong_option_is_named(options, said, autojump_clock) -> None:
    server = files()
    async with open_pool({"z": server}) as pool:
        with pytest.raises(TypeError, match=said):
            await pool.toolset(**options)
        assert server.connections == []  # it is checked before anything is dialled


async def test_what_is_listed_again_without_a_difference_leaves_the_formats_as_they_are(autojump_clock) -> None:
    server = files()
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        made, strict = tools.to_anthropic(), tools.to_openai(strict=True)
        await pool.catalog.refresh()
        server.kill()
        await pool.wait_ready()
        await pool.catalog.refresh()
        assert tools.to_anthropic() is made
        assert tools.to_openai(strict=True) is strict
        server.tools["write"] = tool(lambda path: "x", description="otherwise")
        await pool.catalog.refresh()
        assert tools.to_anthropic() is not made
        assert tools.to_anthropic()[1]["description"] == "otherwise"


def any_schema(inner):
    """Schemas in which everything may stand everywhere: what a server that means harm, or is broken, can list."""
    words = ["type", "properties", "required", "enum", "const", "items", "anyOf", "oneOf", "allOf", "$ref", "$defs"]
    words += ["additionalProperties", "pattern", "patternProperties", "default", "title", "description", "not", "x"]
    keys = st.sampled_from([*words, "object", "string", "#/$defs/x"])
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from(["object", "string", "#", "#/$defs/x", "(", ""]),
    any_schema,
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["properties", "$defs", "required"]), ANYTHING, max_size=3).flatmap(
        lambda top: any_schema(ANYTHING).map(lambda more: {**(more if isinstance(more, dict) else {}), **top})
    ),
    st.dictionaries(st.sampled_from(["type", "properties", "x"]), ANYTHING, max_size=3),
)
def test_no_schema_of_one_tool_takes_others_out_of_the_list_or_makes_a_call_fail(schema, arguments) -> None:
    tools = ToolSet(Listed(1, {**schema, "type": "object"}), None)
    fine = {"type": "object", "properties": {}}
    tools._catalog.tools += (Entry("tools", "z", "fine", types.Tool(name="fine", input_schema=fine)),)

    async def check() -> None:
        for made in (tools.to_anthropic(), tools.to_openai(style="responses"), tools.to_openai(strict=True)):
            assert len(made) == 2
            parameters = made[0].get("function", made[0])
            parameters = parameters.get("parameters", parameters.get("input_schema"))
            assert parameters["type"] == "object"
            json.dumps(made)
        assert set(tools.problems) <= {tools.names[0]}
        _parameters(types.Tool(name="x", input_schema={**schema, "type": "object"}))
        try:
            await tools._calls.checked(tools._find(tools.names[0]), arguments)
        except InvalidArgumentsError:
            pass

    trio.run(check)


def test_a_description_of_megabytes_is_cut_and_named() -> None:
    tools = ToolSet(Listed(1), None)
    tools._catalog.tools = (
        Entry("tools", "z", "x", types.Tool(name="x", description="d" * 5_000_000, input_schema={"type": "object"})),
    )
    [made] = tools.to_anthropic()
    assert made["description"] == "d" * 20_000 + " [cut here]"
    assert tools.problems == {"z__x": "its description is cut to 20,000 characters"}


class Listed:
    """A catalogue of many tools, as far as a tool set looks at one."""

    def __init__(self, count: int, schema=PATH) -> None:
        self.version = 1
        self.schema = schema
        self.list(range(count))

    def checker(self, server: str, tool: types.Tool) -> Checker:
        return Checker(tool.input_schema)

    def list(self, numbers) -> None:
        self.version += 1
        schema = self.schema
        self.tools = tuple(
            Entry("tools", "z", name, types.Tool(name=name, input_schema=schema))
            for name in (f"tool {number}" for number in numbers)
        )


def calls_of(function) -> int:
    """How many functions, of Python's and of C's, it calls."""
    count = 0

    def note(frame, event, arg) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", ["to_anthropic", "to_openai"])
def test_ten_times_as_many_tools_are_ten_times_the_work_and_none_the_second_time(make) -> None:
    few, many = (ToolSet(Listed(count), None, deny=["x"]) for count in (1_000, 10_000))
    work = calls_of(getattr(few, make))
    assert calls_of(getattr(many, make)) <= 10.5 * work
    made = getattr(many, make)()
    assert getattr(many, make)() is made
    assert calls_of(getattr(many, make)) < 50


def test_a_server_that_renames_its_tools_for_ever_makes_nothing_grow() -> None:
    catalog = Listed(0)
    tools = ToolSet(catalog, None)
    for turn in range(100):
        catalog.list(range(100 * turn, 100 * turn + 100))
        assert len(tools) == 100
    assert len(tools._names._taken) <= 1_300


async def test_checkers_of_tools_that_are_gone_are_not_kept_for_ever(autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr(_catalog, "_SPARE", 20)
    server = files()
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        for turn in range(50):
            server.tools.clear()
            server.tools[f"tool{turn}"] = lambda path: "x"
            await pool.catalog.refresh()
            await tools.call(f"z__tool{turn}", {"path": "x"})
        assert len(pool.catalog._checkers) <= 23


async def test_an_illegal_name_is_called_by_its_hash_and_mapped_back(autojump_clock) -> None:
    async with open_pool({"a b": ScriptedServer({"ü": lambda: "here"})}) as pool:
        tools = await pool.toolset()
        [name] = tools.names
        assert name.startswith("a_b____")
        assert (await tools.call(name)).content[0].text == "here"


async def test_a_set_made_before_knows_of_a_tool_that_came_later(autojump_clock) -> None:
    server = ScriptedServer()
    async with open_pool({"a": server}) as pool:
        tools = await pool.toolset()
        before = tools.to_anthropic()
        assert tools.to_anthropic() is before
        server.tools["more"] = lambda: "more"
        del server.tools["add"]
        server.notify("notifications/tools/list_changed")
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.1)
        assert tools.names == ("a__echo", "a__more")
        assert (await tools.call("a__more")).content[0].text == "more"
        with pytest.raises(UnknownToolError):
            await tools.call("a__add", {"a": 1, "b": 2})


# Formats.


async def test_the_formats_are_those_of_the_providers(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        adapter = pydantic.TypeAdapter(list[anthropic.types.ToolParam])
        assert adapter.validate_python(tools.to_anthropic()) == tools.to_anthropic()
        assert tools.to_anthropic()[0] == {"name": "z__read", "input_schema": PATH}
        for strict in (False, True):
            chat = tools.to_openai(strict=strict)
            pydantic.TypeAdapter(list[openai.types.chat.ChatCompletionFunctionToolParam]).validate_python(chat)
            assert [each["function"]["strict"] for each in chat] == [strict, strict]
            responses = tools.to_openai(style="responses", strict=strict)
            pydantic.TypeAdapter(list[openai.types.responses.FunctionToolParam]).validate_python(responses)
            assert [each["strict"] for each in responses] == [strict, strict]
        with pytest.raises(ValueError, match="style must be"):
            tools.to_openai(style="text")


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "object"}, {"type": "object", "properties": {}}),
        (
            {"type": "object", "$ref": "#/$defs/P", "$defs": {"P": PATH}},
            {**PATH, "$defs": {"P": PATH}},
        ),
        (
            {"type": "object", "anyOf": [PATH, {"properties": {"id": {"type": "integer"}}}]},
            {"type": "object", "properties": {"id": {"type": "integer"}, "path": {"type": "string"}}},
        ),
        (
            {"type": "object", "allOf": [PATH], "properties": {"id": {"type": "integer"}}, "required": ["id"]},
            {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "path": {"type": "string"}},
                "required": ["id", "path"],
            },
        ),
        ({"type": "object", "$ref": "http://evil/"}, {"type": "object", "properties": {}}),
    ],
    ids=["bare", "reference", "alternatives", "all of", "hostile"],
)
async def test_what_both_providers_refuse_at_the_top_of_a_schema_is_shown_as_properties(
    schema, shown, autojump_clock
) -> None:
    odd = tool(lambda arguments: "ok", name="odd", input_schema=schema)
    async with open_pool({"z": ScriptedServer([odd])}) as pool:
        tools = await pool.toolset()
        assert tools.to_anthropic()[0]["input_schema"] == shown
        assert tools.to_openai()[0]["function"]["parameters"] == shown


async def test_nulls_that_strictness_added_are_taken_out_before_the_call(autojump_clock) -> None:
    server = files()
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        with pytest.raises(InvalidArgumentsError):
            await tools.call("z__write", {"path": "x", "text": None})
        strict = tools.to_openai(strict=True)[1]["function"]["parameters"]
        assert strict["required"] == ["path", "text"]
        await tools.call("z__write", '{"path": "x", "text": null}')
        assert server.calls[-1].arguments == {"path": "x"}


async def test_a_schema_that_cannot_be_strict_is_named_and_shown_as_it_is(autojump_clock) -> None:
    loose = tool(lambda arguments: "ok", name="loose", input_schema={"type": "object", "properties": {"a": {}}})
    async with open_pool({"z": ScriptedServer([loose])}) as pool:
        tools = await pool.toolset()
        [shown] = tools.to_openai(strict=True)
        assert shown["function"]["strict"] is False
        assert tools.problems == {"z__loose": "it is shown without strict: it leaves the type of a value open"}


async def test_a_hostile_schema_is_a_problem_of_the_set(autojump_clock) -> None:
    hostile = tool(lambda arguments: "ok", name="bad", input_schema={"type": "object", "$ref": "http://evil/"})
    async with open_pool({"z": ScriptedServer([hostile])}) as pool:
        tools = await pool.toolset()
        assert "only places within the schema are followed" in tools.problems["z__bad"]
        assert (await tools.call("z__bad", {"any": 1})).content[0].text == "ok"


# Calls.


async def test_a_call_takes_a_mapping_or_json_text(autojump_clock) -> None:
    server = files()
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        for given in ({"path": "x"}, '{"path": "x"}', b'{"path": "x"}'):
            assert (await tools.call("z__read", given)).content[0].text == "text of x"
    assert [call.arguments for call in server.calls] == [{"path": "x"}] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"path": hunter2', "are not valid JSON (line 1, column 10); send one JSON object"),
        ("[1]", "must be a JSON object, not array"),
        ('{"path": NaN}', "are not valid JSON"),
        ("[" * 100_000, "are not valid JSON"),
        (3, "must be an object, or its JSON text, not int"),
        ({3: 4}, "must have names of type str"),
        ({}, "missing 'path'"),
        ("", "missing 'path'"),
        (None, "missing 'path'"),
        ({"path": "x", "pth": "hunter2"}, "unexpected 'pth'; did you mean 'path'?"),
    ],
    ids=repr,
)
async def test_R16_wrong_arguments_are_told_before_anything_is_sent(given, said, autojump_clock) -> None:
    server = files()
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        with pytest.raises(InvalidArgumentsError) as caught:
            await tools.call("z__read", given)
        assert said in str(caught.value)
        assert "hunter2" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert (caught.value.outcome, caught.value.server) == ("not run", "z")
    assert server.calls == []


async def test_an_unknown_tool_is_told_with_the_nearest(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        with pytest.raises(UnknownToolError, match="there is no tool 'z__raed'; did you mean 'z__read'") as caught:
            await tools.call("z__raed")
        assert (caught.value.suggestion, caught.value.outcome) == ("z__read", "not run")


# Runs.


def asked(*calls) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": f"t{n}", "name": name, "input": arguments}
            for n, (name, arguments) in enumerate(calls)
        ],
    }


async def test_a_run_answers_every_request_in_the_order_asked(autojump_clock) -> None:
    async def wait(seconds: float) -> str:
        await trio.sleep(seconds)
        return f"{seconds}"

    async with open_pool({"z": ScriptedServer([wait])}) as pool:
        tools = await pool.toolset()
        started = trio.current_time()
        outcomes = await tools.run(asked(("z__wait", {"seconds": 3}), ("z__wiat", {}), ("z__wait", {"seconds": 1})))
        assert trio.current_time() - started == 3
        assert [outcome.text for outcome in outcomes] == [
            "3",
            "there is no tool 'z__wiat'; did you mean 'z__wait'?",
            "1",
        ]
        assert [outcome.seconds for outcome in outcomes] == [3, 0, 1]
        assert [(o.server, o.tool, o.outcome) for o in outcomes] == [
            ("z", "wait", "answered"),
            (None, None, "not run"),
            ("z", "wait", "answered"),
        ]
        message = outcomes.to_anthropic()
        assert [block["tool_use_id"] for block in message["content"]] == ["t0", "t1", "t2"]
        assert [block["is_error"] for block in message["content"]] == [False, True, False]


async def test_a_run_of_nothing_is_false(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        assert not await tools.run({"role": "assistant", "content": "Done."})
        assert not await tools.run(asked(("mine", {})), skip=["mine"])
        with pytest.raises(TypeError, match="skip="):
            await tools.run([], skip="mine")


async def test_run_is_bounded_in_all_and_by_server(autojump_clock) -> None:
    running: dict[str, int] = {}
    peak: dict[str, int] = {}

    def server(name):
        async def work() -> str:
            for key in (name, "all"):
                running[key] = running.get(key, 0) + 1
                peak[key] = max(peak.get(key, 0), running[key])
            await trio.sleep(1)
            for key in (name, "all"):
                running[key] -= 1
            return "done"

        return ScriptedServer([work])

    async with open_pool({"a": server("a"), "b": server("b")}) as pool:
        tools = await pool.toolset(max_concurrent=5, max_per_server=3)
        outcomes = await tools.run([(f"{name}__work", {}) for name in "aaaaaabbbbbb"])
        assert [outcome.text for outcome in outcomes] == ["done"] * 12
    assert peak == {"a": 3, "b": 3, "all": 5}


async def test_errors_are_text_that_helps_a_model(autojump_clock) -> None:
    def fail() -> str:
        raise ValueError("no such file")

    def refuse() -> str:
        raise mcp.MCPError(-32000, "not today")

    dead = ScriptedServer([fail])
    server = ScriptedServer([fail, refuse, tool(lambda: "x", name="never")])
    async with open_pool({"z": server, "dead": dead}) as pool:
        tools = await pool.toolset()
        dead.kill()
        dead.gates["spawn"] = error(OSError("hunter2"))
        with pytest.raises(ConnectError):
            await pool.wait_ready("dead")
        outcomes = await tools.run([("z__fail", {}), ("z__refuse", {}), ("dead__fail", {})])
        assert [outcome.text for outcome in outcomes][:2] == ["no such file", "not today (error -32000)"]
        assert "the server 'dead' cannot be reached" in outcomes[2].text
        assert re.search(r"in backoff for \d s", outcomes[2].text)
        assert "hunter2" not in outcomes[2].text
        assert [o.outcome for o in outcomes] == ["answered", "answered", "not run"]
        server.gates["stream"] = error(OSError("gone"))
        [outcome] = await tools.run([("z__never", {})])
        assert isinstance(outcome.error, OutcomeUnknownError)
        assert outcome.text.endswith("It may have run: check before you call it again.")
        assert outcome.outcome == "unknown"


# Hooks.


@pytest.mark.parametrize(
    ("answer", "text", "ran"),
    [
        (True, "wrote x", [{"path": "x"}]),
        (False, "the call of 'z__write' was not made: it was not approved", []),
        ("not on a Friday", "the call of 'z__write' was not made: not on a Friday", []),
        ({"path": "y"}, "wrote y", [{"path": "y"}]),
        ({"path": 3}, "the arguments of 'z__write' do not fit its schema: path: expected string, got integer", []),
        (None, "The call failed in the program itself (TypeError). Nothing ran.", []),
        (ValueError("hunter2"), "The call failed in the program itself (ValueError). Nothing ran.", []),
    ],
)
async def test_approve_says_yes_or_no_or_changes_the_arguments(answer, text, ran, autojump_clock) -> None:
    server = files()

    async def approve(call):
        call.arguments["path"] = "changed in place"
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset(approve=approve)
        [outcome, other] = await tools.run([("z__write", {"path": "x"}), ("z__none", {})])
        assert outcome.text == text
        assert outcome.outcome == ("answered" if ran else "not run")
        assert other.outcome == "not run"
    assert [call.arguments for call in server.calls] == ran


async def test_asking_a_person_holds_up_nobody_else(autojump_clock) -> None:
    async def approve(call):
        if call.arguments["path"] == "slow":
            await trio.sleep(100)
        return True

    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset(approve=approve, max_concurrent=1)
        started = trio.current_time()
        async with tools.run_each([("z__read", {"path": name}) for name in ("slow", "a", "b")]) as outcomes:
            texts = [(outcome.text, trio.current_time() - started) async for outcome in outcomes]
    assert sorted(texts) == [("text of a", 0), ("text of b", 0), ("text of slow", 100)]


async def test_around_is_about_the_call_and_sees_what_it_raises(autojump_clock) -> None:
    seen = []

    @asynccontextmanager
    async def around(call):
        seen.append(("in", call.name, call.server))
        try:
            yield
        finally:
            seen.append(("out", call.name, call.server))

    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset(around=around)
        await tools.call("z__read", {"path": "x"})
    assert seen == [("in", "z__read", "z"), ("out", "z__read", "z")]


async def test_a_deadline_that_around_swallows_is_no_success(autojump_clock) -> None:
    @asynccontextmanager
    async def around(call):
        with trio.move_on_after(5):
            yield

    server = files(gates={"call": slow(60)})
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset(around=around)
        outcomes = await tools.run([("z__read", {"path": "x"}), ("z__none", {})])
        assert isinstance(outcomes[0].error, OutcomeUnknownError)
        assert (outcomes[0].outcome, outcomes[0].seconds) == ("unknown", 5)
        with pytest.raises(OutcomeUnknownError, match="the block around the call"):
            await tools.call("z__read", {"path": "x"})


@pytest.mark.parametrize(
    ("where", "known", "told"),
    [
        ("before", "not run", "The call failed in the program itself (ValueError). Nothing ran."),
        (
            "after",
            "answered",
            "The tool has run, but its result was lost. The call failed in the program itself (ValueError).",
        ),
    ],
)
async def test_what_around_raises_is_that_calls_error_and_siblings_never_notice(
    where, known, told, autojump_clock
) -> None:
    @asynccontextmanager
    async def around(call):
        if call.arguments["path"] == "bad" and where == "before":
            raise ValueError("hunter2")
        yield
        if call.arguments["path"] == "bad" and where == "after":
            raise ValueError("hunter2")

    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset(around=around)
        bad, good = await tools.run([("z__read", {"path": "bad"}), ("z__read", {"path": "good"})])
        assert (bad.text, bad.outcome) == (told, known)
        assert (bad.result is not None) == (where == "after")
        assert (good.text, good.error) == ("text of good", None)


class Stop(BaseException):
    """What is no `Exception`, as some libraries use for control flow."""


@asynccontextmanager
async def swallow(call):
    try:
        yield
    except BaseException:
        pass


async def test_a_cancellation_that_around_swallows_does_not_come_out_as_an_error(autojump_clock) -> None:
    async with open_pool({"z": files(gates={"call": slow(60)})}) as pool:
        tools = await pool.toolset(around=swallow)
        asked = [("z__read", {"path": "x"})]
        for call in (tools.call(*asked[0]), tools.run(asked), tools.run(asked * 3)):
            with trio.move_on_after(5) as scope:
                await call
                raise AssertionError("it was cancelled")
            assert scope.cancelled_caught
        assert pool.statistics().leases_in_flight == 0


@pytest.mark.parametrize("where", ["approve", "before", "after"])
async def test_what_is_no_exception_and_comes_out_of_a_hook_ends_the_run_and_nothing_of_other_runs(
    where, autojump_clock
) -> None:
    def stop_at(here: str, call) -> None:
        if here == where and call.arguments["path"] == "bad":
            raise Stop

    async def approve(call):
        stop_at("approve", call)
        return True

    @asynccontextmanager
    async def around(call):
        stop_at("before", call)
        yield
        stop_at("after", call)

    async with open_pool({"z": files(gates={"call": slow(1)})}) as pool, trio.open_nursery() as nursery:
        tools = await pool.toolset(approve=approve, around=around)

        async def other() -> None:
            [outcome] = await tools.run([("z__read", {"path": "good"})])
            assert outcome.text == "text of good"

        nursery.start_soon(other)
        for number in (1, 2):
            with pytest.raises(Stop):
                await tools.run([("z__read", {"path": "bad"}), ("z__read", {"path": "good"})][:number])
        assert pool.statistics().connects == 1


def nested(levels: int):
    value: object = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


ENDLESS = {}
ENDLESS["a"] = ENDLESS


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize(
    "value", [nested(400), nested(3000), ENDLESS, "[" * 900 + "]" * 900, {"a": object()}], ids=lambda each: type(each)
)
async def test_arguments_that_cannot_be_sent_are_the_models_mistake_and_nothing_ran(
    value, approved, autojump_clock
) -> None:
    async def approve(call):
        return True

    server = ScriptedServer({"any": tool(lambda arguments: "x", input_schema={"type": "object"})})
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset(approve=approve if approved else None)
        given = f'{{"a": {value}}}' if isinstance(value, str) else {"a": value}
        bad, good = await tools.run([("z__any", given), ("z__any", {})])
        assert isinstance(bad.error, InvalidArgumentsError)
        assert bad.outcome == "not run"
        assert "must be JSON values" in bad.text
        assert good.text == "x"
        assert [call.arguments for call in server.calls] == [{}]


async def test_two_requests_of_one_id_are_both_run_and_both_answered(autojump_clock) -> None:
    uses = [{"type": "tool_use", "id": "t1", "name": "z__read", "input": {"path": path}} for path in "ab"]
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        answered = (await tools.run(uses)).to_anthropic()["content"]
        assert [(each["tool_use_id"], each["content"][0]["text"]) for each in answered] == [
            ("t1", "text of a"),
            ("t1", "text of b"),
        ]


async def test_a_nursery_of_around_does_not_wrap_what_the_call_raised(autojump_clock) -> None:
    @asynccontextmanager
    async def around(call):
        async with trio.open_nursery():
            yield

    def refuse() -> str:
        raise mcp.MCPError(-32000, "not today")

    async with open_pool({"z": ScriptedServer([refuse])}) as pool:
        tools = await pool.toolset(around=around)
        with pytest.raises(mcp.MCPError, match="not today"):
            await tools.call("z__refuse")
        [outcome] = await tools.run([("z__refuse", {})])
        assert (outcome.text, outcome.outcome) == ("not today (error -32000)", "answered")


async def test_an_error_that_around_swallows_stays_the_calls_error(autojump_clock) -> None:
    @asynccontextmanager
    async def around(call):
        try:
            yield
        except mcp.MCPError:
            pass

    def refuse() -> str:
        raise mcp.MCPError(-32000, "not today")

    async with open_pool({"z": ScriptedServer([refuse])}) as pool:
        tools = await pool.toolset(around=around)
        with pytest.raises(mcp.MCPError, match="not today"):
            await tools.call("z__refuse")


# As they come.


async def sleepy_tools(pool):
    return await pool.toolset()


async def wait(seconds: float) -> str:
    await trio.sleep(seconds)
    return str(seconds)


async def test_run_each_gives_the_outcomes_as_they_come(autojump_clock) -> None:
    async with open_pool({"z": ScriptedServer([wait])}) as pool:
        tools = await pool.toolset()
        async with tools.run_each([("z__wait", {"seconds": n}) for n in (3, 1, 2)]) as outcomes:
            assert outcomes.total == 3
            assert [outcome.text async for outcome in outcomes] == ["1", "2", "3"]


async def test_leaving_the_block_cancels_the_rest(autojump_clock) -> None:
    server = ScriptedServer([wait])
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        async with tools.run_each([("z__wait", {"seconds": n}) for n in (100, 1)]) as outcomes:
            async for outcome in outcomes:
                assert outcome.text == "1"
                break
        await trio.sleep(0.1)
        assert sorted((call.arguments["seconds"], call.cancelled) for call in server.calls) == [(1, False), (100, True)]
        assert trio.current_time() < 50


async def test_R14_what_the_body_raises_comes_out_bare(autojump_clock) -> None:
    async with open_pool({"z": ScriptedServer([wait])}) as pool:
        tools = await pool.toolset()
        mine = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            async with tools.run_each([("z__wait", {"seconds": 100})]):
                raise mine
        assert caught.value is mine


@pytest.mark.parametrize("each", [False, True])
async def test_R14_an_interrupt_of_a_hook_comes_out_bare_with_the_bodys_error_as_its_context(
    each, autojump_clock
) -> None:
    async def approve(call):
        if call.arguments["seconds"] == 1:
            await trio.sleep(0.5)
            raise KeyboardInterrupt
        return True

    async with open_pool({"z": ScriptedServer([wait])}) as pool:
        tools = await pool.toolset(approve=approve)
        requests = [("z__wait", {"seconds": n}) for n in (100, 1)]
        with pytest.raises(KeyboardInterrupt) as caught:
            if not each:
                await tools.run(requests)
            async with tools.run_each(requests) as outcomes:
                try:
                    await anext(outcomes)
                finally:
                    raise ValueError("mine")
        if each:
            assert isinstance(caught.value.__context__, ValueError)
        assert trio.current_time() < 50


async def test_a_cancelled_run_cancels_its_calls(autojump_clock) -> None:
    server = ScriptedServer([wait])
    async with open_pool({"z": server}) as pool:
        tools = await pool.toolset()
        with trio.move_on_after(1) as scope:
            await tools.run([("z__wait", {"seconds": 100})] * 3)
        assert scope.cancelled_caught
        with trio.move_on_after(1) as scope:
            async with tools.run_each([("z__wait", {"seconds": 100})] * 3) as outcomes:
                await anext(outcomes)
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert [call.cancelled for call in server.calls] == [True] * 6


async def test_every_public_step_checkpoints(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        with trio.testing.assert_checkpoints():
            await tools.run([])
        with trio.testing.assert_checkpoints():
            await tools.run([("none", {})])
        with trio.testing.assert_checkpoints():
            with pytest.raises(UnknownToolError):
                await tools.call("none")
        with trio.testing.assert_checkpoints():
            await pool.toolset()
        with trio.testing.assert_no_checkpoints():
            tools.to_anthropic()


async def test_every_answer_has_the_shape_of_its_request(autojump_clock) -> None:
    async with open_pool({"z": files()}) as pool:
        tools = await pool.toolset()
        arguments = json.dumps({"path": "x"})
        chat = [{"id": "c1", "type": "function", "function": {"name": "z__read", "arguments": arguments}}]
        responses = [{"type": "function_call", "call_id": "c2", "name": "z__raed", "arguments": arguments}]
        assert (await tools.run(chat)).to_openai() == [{"role": "tool", "tool_call_id": "c1", "content": "text of x"}]
        assert (await tools.run(responses)).to_openai() == [
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": "Error: there is no tool 'z__raed'; did you mean 'z__read'?",
            }
        ]
        outcomes = await tools.run(chat + responses)
        assert isinstance(outcomes[0], Outcome)
        assert [len(outcomes), len(outcomes[1:])] == [2, 1]


async def test_scopes_have_sets_of_their_own_on_their_own_sessions(autojump_clock) -> None:
    def who(context) -> str:
        return str(context.connection)

    server = ScriptedServer([who])
    async with open_pool({"z": server}, policy=PoolPolicy(min_sessions=1)) as pool:
        async with pool.open_scope("one") as one, pool.open_scope("two") as two:
            sets = [await pool.toolset(), await one.toolset(), await two.toolset()]
            said = [[(await each.call("z__who")).content[0].text for _ in range(2)] for each in sets]
    assert all(first == second for first, second in said)
    assert len({first for first, _ in said}) == 3
