"""The fast path of `call_tool` gives what the SDK's own gives: proved by two clients on one scripted dispatcher (R18)."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import HEADER_MISMATCH
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from trio_mcp_pool._wire import _seam, _tool_call
from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire._tool_call import HandDispatcher, ToolCaller, request_data, tool_caller

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
MODERN = KNOWN_PROTOCOL_VERSIONS[-1]


class Scripted:
    """A dispatcher that answers from a script and writes down what it was asked."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.sent: list[Any] = []
        self.answers: list[dict[str, Any] | Exception] = []
        """What `tools/call` gets, one after the other; the last one from then on."""
        self.listing: dict[str, Any] | Exception = {
            "tools": [
                {"name": "plain", "inputSchema": {"type": "object"}},
                {"name": "typed", "inputSchema": {"type": "object"}, "outputSchema": SCHEMA},
            ]
        }
        self.hold: trio.Event | None = None
        """What a listing waits for."""

    def sent_with(self, *, headers: bool) -> list[Any]:
        """What was sent, with or without the headers that only HTTP sends."""
        return [
            (method, params, [item for item in opts if headers or item[0] != "headers"])
            for method, params, opts in self.sent
        ]

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.sent.append((method, copy.deepcopy(params), sorted((opts or {}).items(), key=lambda item: item[0])))
        if method == "initialize":
            return {
                "protocolVersion": self.version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"},
            }
        if method == "tools/list":
            if self.hold is not None:
                await self.hold.wait()
            if isinstance(self.listing, Exception):
                raise self.listing
            modern = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
            return copy.deepcopy(self.listing) | (modern if self.version == MODERN else {})
        assert method == "tools/call"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return copy.deepcopy(answer)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append((method, params))

    async def run(self, *_: object, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()


@asynccontextmanager
async def client_on(dispatcher: Any, version: str, **options: Any) -> AsyncIterator[mcp.Client]:
    mode = "legacy" if version in HANDSHAKE_PROTOCOL_VERSIONS else version
    fallback: Any = object()
    async with _seam.client_with_dispatcher(lambda: dispatcher, fallback, {"mode": mode, **options}) as client:
        yield client


@asynccontextmanager
async def fast(scripted: Scripted, *, with_headers: bool = True, **options: Any) -> AsyncIterator[ToolCaller]:
    hand = HandDispatcher(scripted)
    async with client_on(hand, scripted.version, **options) as client:
        caller = tool_caller(client, hand, Link("s"), with_headers=with_headers)
        assert isinstance(caller, ToolCaller)
        yield caller


PLAIN = {"content": [{"type": "text", "text": "hi"}], "resultType": "complete"}


# Parity.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ABSENT: Any = object()


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([ABSENT, ABSENT, *values])


def present(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not ABSENT}


everyday_blocks = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=5)),
    st.just({"type": "image", "data": "aGk=", "mimeType": "image/png"}),
    st.just({"type": "audio", "data": "aGk=", "mimeType": "audio/wav", "_meta": {"k": 1}}),
    st.sampled_from(
        [
            {"type": "resource", "resource": {"uri": "a:b", "text": "t"}},
            {"type": "resource", "resource": {"uri": "a:b", "blob": "aGk=", "mimeType": "x/y", "_meta": {}}},
            {"type": "resource_link", "uri": "a:b", "name": "n", "size": 5, "title": "t", "description": None},
        ]
    ),
)
odd_blocks = st.one_of(
    st.builds(
        lambda block, annotations, meta, extra: present(
            {**block, "annotations": annotations, "_meta": meta, "extra": extra}
        ),
        everyday_blocks,
        maybe({"priority": 0.5, "audience": ["user"]}, {"priority": 5}, None, {"lastModified": "x"}),
        maybe(None, {"a": {}}, 5),
        maybe(1),
    ),
    st.sampled_from(
        [
            {"text": "no type"},
            {"type": "text"},
            {"type": "text", "text": 5},
            {"type": "none such", "text": "x"},
            {"type": ["text"], "text": "x"},
            {"type": "image", "data": "x"},
            {"type": "resource", "resource": {"uri": "a:b"}},
            {"type": "resource", "resource": {"uri": "a:b", "text": "t", "blob": "b"}},
            {"type": "resource_link", "uri": "a:b", "name": "n", "size": "x"},
            {"type": "resource_link", "uri": "a:b", "name": "n", "icons": [{"src": "x", "theme": "dark"}]},
            "text",
            None,
        ]
    ),
)
structured = st.one_of(
    st.sampled_from([ABSENT, {"n": 1}]),
    st.dictionaries(st.text(max_size=2), json_values, max_size=2),
    st.sampled_from([*[ABSENT] * 4, [1], "x", None]),
)


def results(blocks: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda content, **more: present({"content": content, **more}),
        st.lists(blocks, max_size=3),
        isError=maybe(True, False, False),
        structuredContent=structured,
        _meta=maybe({}, {"k": [1]}, {"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}}),
        resultType=st.sampled_from(["complete"] * 9 + [ABSENT]),
        extra=maybe(5),
    )


odd_results = st.one_of(
    results(odd_blocks),
    st.builds(
        lambda base, **more: {**base, **present(more)},
        results(everyday_blocks),
        content=maybe(None, {}, "x"),
        isError=maybe(None, "yes", 1, 7),
        _meta=maybe(None, 5, {"progressToken": 1}),
        resultType=maybe("input_required", "task", 5, None),
        requestState=maybe("s", None),
        inputRequests=maybe({}, {"a": {"method": "roots/list"}}, 5),
        ttlMs=maybe(-5, 3, "x"),
    ),
)
calls = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*["plain"] * 6, "typed", "unlisted"]),
        "meta": st.sampled_from([*[None] * 9, {"k": "v"}]),
    },
    optional={
        "arguments": st.none() | st.dictionaries(st.text(max_size=3), json_values, max_size=2),
        "read_timeout_seconds": st.just(3.0),
    },
)
answers = st.one_of(
    *[results(everyday_blocks)] * 8,
    odd_results,
    st.sampled_from([mcp.MCPError(-32602, "no such tool", {"d": 1}), mcp.MCPError(HEADER_MISMATCH, "mismatch")]),
)


def fields_set(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            "type": type(value).__name__,
            "set": sorted(value.model_fields_set),
            "fields": {name: fields_set(getattr(value, name)) for name in type(value).model_fields},
        }
    if isinstance(value, list):
        return [fields_set(one) for one in value]
    return value


async def outcome_of(call_tool: Any, call: dict[str, Any], scripted: Scripted, script: list[Any]) -> Any:
    scripted.answers = [copy.copy(one) if isinstance(one, Exception) else one for one in script]
    scripted.sent.clear()
    try:
        result = await call_tool(**call)
    except Exception as exc:
        return type(exc).__name__, str(exc), getattr(exc, "code", None), getattr(exc, "data", None)
    return result.model_dump(), fields_set(result)


@pytest.mark.parametrize("with_headers", [True, False])
@pytest.mark.parametrize("version", KNOWN_PROTOCOL_VERSIONS)
def test_a_call_gives_and_sends_what_it_gives_and_sends_with_the_sdk_in_every_version(
    version: str, with_headers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="client")
    taken = [0, 0]

    @given(
        st.lists(st.tuples(calls, st.lists(answers, min_size=1, max_size=3)), min_size=1, max_size=4),
        st.sampled_from([*[True] * 5, False]),
    )
    @settings(max_examples=100)
    def run(steps: list[tuple[dict[str, Any], list[Any]]], listed: bool) -> None:
        async def main() -> None:
            ours, theirs = Scripted(version), Scripted(version)
            options = {"read_timeout_seconds": 7.0, "log_level": "debug"}
            async with (
                fast(ours, with_headers=with_headers, **options) as caller,
                client_on(theirs, version, **options) as client,
            ):
                assert ours.sent == theirs.sent
                if listed:
                    await caller._session.list_tools()
                    await client.session.list_tools()
                for call, script in steps:
                    got = await outcome_of(caller, call, ours, script)
                    wanted = await outcome_of(client.call_tool, call, theirs, script)
                    assert got == wanted
                    assert ours.sent_with(headers=with_headers) == theirs.sent_with(headers=with_headers)
                taken[0] += caller.fast
                taken[1] += caller.slow

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    run()
    assert min(taken) >= 0.3 * sum(taken), taken


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_progress_callback_goes_with_the_request(version: str) -> None:
    async def on_progress(*_: object) -> None: ...

    scripted = Scripted(version)
    scripted.answers = [PLAIN]
    async with fast(scripted) as caller:
        await caller("plain", None, None, on_progress)
        assert dict(scripted.sent[-2][2])["on_progress"] is on_progress
        assert scripted.sent[-1][0] == "tools/list"  # after the answer, for nothing was known of the tool
        await caller("plain", None, 2.0, on_progress)
        assert {name for name, _ in scripted.sent[-1][2]} == {"on_progress", "timeout", "headers"}
        assert (caller.fast, caller.slow) == (2, 0)


class Word(str):
    """A kind of text."""


@dataclasses.dataclass
class Point:
    """Something that is no JSON value and can be made one."""

    x: int


ODD = [
    1.5, math.nan, math.inf, -math.inf, 10**400, datetime.date(2026, 1, 1), {1}, (1,), b"bytes", Word("w"), Point(1),
    Path("x"), object, types.TextContent(text="t"), "\ud800", {"k": math.nan}, [Word("w")], {1: 2},
]  # fmt: skip


def same_request(name: Any, arguments: Any) -> bool:
    """Whether it is the request that the SDK makes, or fails as it fails there."""

    def made(make: Callable[[], dict[str, Any]]) -> Any:
        try:
            return json.dumps(make())
        except (ValidationError, PydanticSerializationError) as exc:
            return type(exc), str(exc)

    def by_the_sdk() -> dict[str, Any]:
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=arguments))
        return request.model_dump(by_alias=True, mode="json", exclude_none=True)

    return bool(made(lambda: request_data(name, arguments)) == made(by_the_sdk))


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_request_with_an_odd_argument_is_what_the_sdk_makes_of_it(value: Any) -> None:
    assert same_request("name", {"key": value})
    assert same_request("name", {"before": 1, "key": value, "after": None})


@pytest.mark.parametrize("key", [1, Word("k"), b"k", None], ids=repr)
def test_a_request_with_an_odd_name_is_what_the_sdk_makes_of_it(key: Any) -> None:
    assert same_request("name", {key: 1})
    assert same_request(key, {"key": 1})


@given(name=st.text(max_size=3), arguments=st.none() | st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_a_request_is_what_the_sdk_makes_of_the_same_arguments(name: str, arguments: dict[str, Any] | None) -> None:
    assert same_request(name, arguments)


@pytest.mark.parametrize("value", ["before", ["before"]])
def test_a_request_holds_arguments_of_its_own(value: Any) -> None:
    arguments = {"text": value}
    made = request_data("plain", arguments)
    arguments["text"] = "after"
    if isinstance(value, list):
        value.append("after")
    assert made["params"]["arguments"] in ({"text": "before"}, {"text": ["before"]})


async def test_arguments_that_are_none_are_refused_as_the_sdk_refuses_them() -> None:
    scripted = Scripted(MODERN)
    async with fast(scripted) as caller, client_on(Scripted(MODERN), MODERN) as client:
        bad: Any = [1]
        with pytest.raises(ValidationError) as ours:
            await caller("plain", bad)
        with pytest.raises(ValidationError) as theirs:
            await client.call_tool("plain", bad)
        assert str(ours.value) == str(theirs.value)
        assert not scripted.sent


async def test_an_answer_that_the_sdk_would_lose_in_its_depth_reaches_the_caller() -> None:
    nested: dict[str, Any] = {}
    for _ in range(300):
        nested = {"a": nested}
    scripted = Scripted("2025-11-25")
    scripted.answers = [{"content": [], "structuredContent": nested}]
    async with fast(scripted) as caller:
        await caller._session.list_tools()
        assert (await caller("plain")).structured_content == nested


# The listing that the SDK makes by itself.


async def test_fifty_first_callers_cause_one_listing() -> None:
    scripted = Scripted("2025-11-25")
    scripted.answers = [PLAIN]
    scripted.hold = trio.Event()
    results: list[Any] = []
    async with fast(scripted) as caller:

        async def call() -> None:
            results.append(await caller("plain"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            scripted.hold.set()
        assert [method for method, *_ in scripted.sent].count("tools/list") == 1
        assert len(results) == 50
        await caller("plain")
        assert (caller.fast, caller.slow) == (51, 0)


async def test_the_listing_of_a_cancelled_caller_is_made_again_for_the_others() -> None:
    scripted = Scripted("2025-11-25")
    scripted.answers = [PLAIN]
    scripted.hold = trio.Event()
    results: list[Any] = []
    async with fast(scripted) as caller:

        async def call(scope: trio.CancelScope) -> None:
            with scope:
                results.append(await caller("plain"))

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            nursery.start_soon(call, first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            scripted.hold.set()
    assert len(results) == 1
    assert [method for method, *_ in scripted.sent].count("tools/list") == 2


@pytest.mark.parametrize("how", ["an error", "no listing at all", "rubbish"])
async def test_R18_a_failed_listing_does_not_cost_the_answer_and_is_not_tried_again_at_once(
    how: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted("2025-11-25")
    scripted.answers = [PLAIN]
    if how == "no listing at all":
        scripted.hold = trio.Event()
    else:
        scripted.listing = mcp.MCPError(-32603, "broken") if how == "an error" else {"tools": 5}
    async with fast(scripted) as caller:
        start = trio.current_time()
        for _ in range(3):
            assert (await caller("typed")).content
        assert trio.current_time() - start <= 5
        assert [method for method, *_ in scripted.sent].count("tools/list") == 1
        assert "listing its tools" in caplog.text
        scripted.hold = None
        scripted.listing = Scripted("2025-11-25").listing
        await trio.sleep(61)
        with pytest.raises(RuntimeError, match="did not return structured content"):
            await caller("typed")


async def test_a_listing_that_somebody_asked_for_fails_as_it_does() -> None:
    scripted = Scripted("2025-11-25")
    scripted.listing = mcp.MCPError(-32603, "broken")
    async with fast(scripted) as caller:
        with pytest.raises(mcp.MCPError, match="broken"):
            await caller._session.list_tools()


async def test_a_callback_of_a_call_lists_the_tools_as_ever() -> None:
    listed: list[Any] = []

    async def roots(context: Any) -> types.ListRootsResult:
        listed.append(await context.session.list_tools())
        return types.ListRootsResult(roots=[])

    scripted = Scripted(MODERN)
    scripted.answers = [
        {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}, "requestState": "s"},
        PLAIN,
    ]
    async with fast(scripted, list_roots_callback=roots) as caller:
        await caller("plain")
    assert [tool.name for tool in listed[0].tools] == ["plain", "typed"]


# The seam.


async def test_the_seam_of_tool_calls_stands() -> None:
    """When this fails, `_seam.py` needs a look: calls go on working, at the speed of the SDK."""
    async with client_on(Scripted(MODERN), MODERN) as client:
        assert _seam.tool_calls_stand(client.session)


async def test_without_the_seam_there_is_no_fast_path_and_listings_are_shared_all_the_same(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(_tool_call, "tool_calls_stand", lambda _: False)
    scripted = Scripted("2025-11-25")
    scripted.answers = [PLAIN]
    scripted.listing = mcp.MCPError(-32603, "broken")
    hand = HandDispatcher(scripted)
    async with client_on(hand, scripted.version) as client:
        assert tool_caller(client, hand, Link("s")) is None
        assert (await client.call_tool("plain")).content
