"""The scripted server, dialled with a bare link: every stage, every gate, both eras, at exact times."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing

from trio_mcp_pool._wire._link import Call, Link, current_call
from trio_mcp_pool.testing import (
    CallRecord,
    ScriptedServer,
    Tool,
    ToolContext,
    error,
    hold,
    never,
    ok,
    slow,
    tool,
)
from trio_mcp_pool.testing._peer import Peer

ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Wire:
    """A link and what was reported through it, in order."""

    def __init__(self, **options: Any) -> None:
        self.events: list[Any] = []
        self.link = Link(
            "scripted",
            on_lost=lambda: self.events.append(("lost", trio.current_time())),
            on_failing=lambda why: self.events.append(("failing", trio.current_time(), why)),
            **options,
        )


@asynccontextmanager
async def calling(link: Link) -> AsyncIterator[Call]:
    """A call as the pool makes one."""
    with trio.CancelScope() as scope:
        call = Call(scope, link)
        token = current_call.set(call)
        try:
            yield call
        finally:
            current_call.reset(token)


def text(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


def leaves(why: BaseException) -> list[BaseException]:
    if isinstance(why, BaseExceptionGroup):
        return [leaf for inner in why.exceptions for leaf in leaves(inner)]
    return [why]


# All gates open.


@pytest.mark.parametrize(
    ("mode", "eras", "version"),
    [
        ("auto", "both", "2026-07-28"),
        ("auto", "legacy", "2025-11-25"),
        ("auto", "modern", "2026-07-28"),
        ("legacy", "both", "2025-11-25"),
        ("2026-07-28", "both", "2026-07-28"),
    ],
)
async def test_a_real_client_speaks_every_verb_with_it(
    mode: str, eras: Any, version: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode, eras=eras)
    wire = Wire()
    async with server._connect(wire.link) as client, calling(wire.link) as call:
        assert client.protocol_version == version
        assert wire.link.phase == "handshake"
        assert not call.written
        assert text(await client.call_tool("echo", {"text": "hello"})) == "hello"
        assert call.written
        assert text(await client.call_tool("add", {"a": 1, "b": 2})) == "3"
        assert (await client.call_tool("sing", {})).is_error
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo", "add"]
        assert [r.uri for r in (await client.list_resources()).resources] == ["memo://hello"]
        assert (await client.read_resource("memo://hello")).contents[0].model_dump()["text"] == "hello"
        assert [p.name for p in (await client.list_prompts()).prompts] == ["greet"]
        assert (await client.get_prompt("greet")).messages[0].content.model_dump()["text"] == "Say hello."
        assert (await client.list_resource_templates()).resource_templates == []
        with pytest.raises(mcp.MCPError, match="Unknown resource"):
            await client.read_resource("memo://other")
        assert wire.link.heard_at == 0
    assert server.calls == [
        CallRecord(1, "echo", {"text": "hello"}, 0.0, 0.0),
        CallRecord(1, "add", {"a": 1, "b": 2}, 0.0, 0.0),
    ]
    assert [(c.number, c.state, c.opened_at, c.died_at, c.closed_at) for c in server.connections] == [
        (1, "closed", 0, None, 0)
    ]
    assert wire.events == []
    assert server.open_connections == 0
    assert trio.current_time() == 0


async def test_a_legacy_session_answers_a_ping(autojump_clock: trio.testing.MockClock) -> None:
    async with ScriptedServer(mode="legacy")._connect(Wire().link) as client:
        with pytest.warns(mcp.MCPDeprecationWarning):
            await client.send_ping()


def test_wrong_options_raise_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="'tols'"):
        ScriptedServer(tols={})
    with pytest.raises(ValueError, match="eras"):
        ScriptedServer(eras="old")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="policy"):
        ScriptedServer(policy=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="function"):
        ScriptedServer({"x": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="two tools"):
        ScriptedServer([tool(lambda: "", name="x"), tool(lambda: "", name="x")])


# Stage: spawn.


async def test_spawn_error_comes_bare_out_of_the_dial(autojump_clock: trio.testing.MockClock) -> None:
    why = FileNotFoundError("no-such-command")
    server = ScriptedServer(gates={"spawn": [error(why)]})
    wire = Wire()
    with pytest.raises(FileNotFoundError) as caught:
        async with server._connect(wire.link):
            raise AssertionError
    assert caught.value is why
    assert wire.link.phase == "spawn"
    async with server._connect(Wire().link):
        assert [c.state for c in server.connections] == ["closed", "open"]


async def test_spawn_slow_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": slow(2.5)})
    async with server._connect(Wire().link):
        assert trio.current_time() == 2.5
        assert server.connections[0].dialled_at == 0
        assert server.connections[0].opened_at == 2.5


@pytest.mark.parametrize("stage", ["spawn", "handshake"])
@ERAS
async def test_a_dial_that_never_ends_can_be_cancelled(
    stage: str, mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode, gates={stage: never})
    wire = Wire()
    with trio.move_on_after(60) as scope:
        async with server._connect(wire.link):
            raise AssertionError
    assert scope.cancelled_caught
    assert trio.current_time() == 60
    assert wire.link.phase == stage
    assert server.connections[0].closed_at == 60
    assert wire.events == []


# Stage: handshake.


@ERAS
async def test_handshake_error_of_the_protocol_is_the_answer(mode: str, autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(mode=mode, gates={"handshake": error(mcp.MCPError(-32099, "not today"))})
    wire = Wire()
    with pytest.raises(BaseException) as caught:
        async with server._connect(wire.link):
            raise AssertionError
    (leaf,) = leaves(caught.value)
    assert isinstance(leaf, mcp.MCPError)
    assert leaf.code == -32099
    assert wire.events == [("failing", 0.0, leaf)]
    assert server.connections[0].died_at is None


@ERAS
async def test_handshake_error_of_another_kind_is_death_in_the_handshake(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    why = OSError("died")
    server = ScriptedServer(mode=mode, gates={"handshake": error(why), "close": slow(3)})
    wire = Wire()
    with pytest.raises(BaseException) as caught:
        async with server._connect(wire.link):
            raise AssertionError
    (leaf,) = leaves(caught.value)
    assert isinstance(leaf, mcp.MCPError)
    assert leaf.code == types.CONNECTION_CLOSED
    # It is told before the clean-up, which took three seconds.
    assert [event[:2] for event in wire.events] == [("lost", 0.0), ("failing", 0.0)]
    assert wire.link.lost_cause is why
    assert trio.current_time() == 3


@ERAS
async def test_handshake_slow_takes_its_time(mode: str, autojump_clock: trio.testing.MockClock) -> None:
    # In `auto` mode the client gives up its first question after 10 s and asks another: the server is no slower for it.
    server = ScriptedServer(mode=mode, gates={"handshake": slow(25)})
    async with server._connect(Wire().link) as client:
        assert trio.current_time() == 25
        assert client.protocol_version == "2025-11-25"
        assert text(await client.call_tool("echo", {"text": "a"})) == "a"


async def test_a_held_handshake_goes_on_when_the_door_is_opened(autojump_clock: trio.testing.MockClock) -> None:
    door = hold()
    server = ScriptedServer(gates={"handshake": door})

    async def dial() -> None:
        async with server._connect(Wire().link):
            assert trio.current_time() == 4

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await trio.sleep(4)
        assert server.connections[0].state == "dialling"
        door.open()


# Stage: call.


@ERAS
async def test_call_gates_change_the_answer_and_nothing_else(mode: str, autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(mode=mode)
    wire = Wire()
    async with server._connect(wire.link) as client:
        server.gates["call"] = [error(mcp.MCPError(-32050, "no")), error(OSError("disk full")), slow(7), never]
        with pytest.raises(mcp.MCPError) as caught:
            await client.call_tool("echo", {"text": "a"})
        assert caught.value.code == -32050
        result = await client.call_tool("echo", {"text": "b"})
        assert (result.is_error, text(result)) == (True, "disk full")
        assert text(await client.call_tool("echo", {"text": "c"})) == "c"
        assert trio.current_time() == 7
        async with calling(wire.link) as call:
            with trio.move_on_after(3) as scope:
                await client.call_tool("echo", {"text": "d"})
            assert scope.cancelled_caught
            assert call.written
        await trio.testing.wait_all_tasks_blocked()
        assert text(await client.call_tool("echo", {"text": "e"})) == "e"
    assert [(c.arguments["text"], c.started_at, c.finished_at, c.cancelled) for c in server.calls] == [
        ("a", 0, 0, False),
        ("b", 0, 0, False),
        ("c", 0, 7, False),
        ("d", 7, None, True),
        ("e", 10, 10, False),
    ]
    assert wire.events == []


async def test_a_cancellation_that_is_read_together_with_its_call_is_not_lost(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Peer._take

    def take_both(self: Peer, nursery: trio.Nursery, message: dict[str, Any], gate: Any) -> None:
        take(self, nursery, message, gate)
        if message.get("method") == "tools/call":
            gone = {"method": "notifications/cancelled", "params": {"requestId": message["id"]}}
            take(self, nursery, gone, ok)

    monkeypatch.setattr(Peer, "_take", take_both)
    server = ScriptedServer(gates={"call": slow(5)})
    async with server._connect(Wire().link) as client:
        with trio.move_on_after(10):
            await client.call_tool("echo", {"text": "a"})
        assert [(call.cancelled, call.finished_at) for call in server.calls] == [(True, None)]


async def test_a_question_ends_with_the_call_that_it_belongs_to(autojump_clock: trio.testing.MockClock) -> None:
    ended_at = []

    async def ask(context: ToolContext) -> str:
        return str(
            await context.request(
                "elicitation/create", {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
            )
        )

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        try:
            await trio.sleep_forever()
        finally:
            ended_at.append(trio.current_time())

    server = ScriptedServer([ask], mode="legacy", elicitation_callback=elicit)
    async with server._connect(Wire().link) as client:
        with trio.move_on_after(2):
            await client.call_tool("ask")
        await trio.sleep(1)
        assert ended_at == [2]


async def test_slow_calls_run_side_by_side(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"call": slow(1)})
    async with server._connect(Wire().link) as client:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client.call_tool, "echo", {"text": str(number)})
        assert trio.current_time() == 1


# Stage: stream.


@ERAS
async def test_stream_error_is_death_with_the_request_read(mode: str, autojump_clock: trio.testing.MockClock) -> None:
    why = OSError("gone")
    server = ScriptedServer(mode=mode)
    wire = Wire()
    order: list[str] = []
    wire.link = Link("scripted", on_lost=lambda: order.append("lost"))
    async with server._connect(wire.link) as client:
        server.gates["stream"] = error(why)
        async with calling(wire.link) as call:
            with pytest.raises(mcp.MCPError) as caught:
                await client.call_tool("echo", {"text": "a"})
            order.append("caller")
        assert caught.value.code == types.CONNECTION_CLOSED
        assert call.written
        async with calling(wire.link) as late:
            with pytest.raises(mcp.MCPError):
                await client.call_tool("echo", {"text": "b"})
            assert not late.written
    assert order == ["lost", "caller"]
    assert wire.link.lost_cause is why
    assert [(c.arguments, c.finished) for c in server.calls] == [({"text": "a"}, False)]


@ERAS
async def test_stream_slow_delays_answers_without_queueing_them(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode)
    async with server._connect(Wire().link) as client:
        await client.list_tools()  # or the client would do so by itself after a call, slowly
        server.gates["stream"] = slow(2)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(client.call_tool, "echo", {"text": str(number)})
        assert trio.current_time() == 2
        assert {call.finished_at for call in server.calls} == {0}


@ERAS
async def test_stream_never_leaves_the_request_unwritten_and_its_caller_free(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode)
    wire = Wire(write_timeout=10)
    async with server._connect(wire.link) as client:
        server.gates["stream"] = never
        async with calling(wire.link) as call:
            with trio.move_on_after(1):
                await client.call_tool("echo", {"text": "a"})
            assert trio.current_time() == 1  # and not five seconds later, which the SDK gives its cancel notice
            assert not call.written
        await trio.sleep(100)  # nothing waits to be written any more, a cancel notice neither
        assert not wire.link.is_lost
        server.gates["stream"] = ok
        server.resume()
        assert text(await client.call_tool("echo", {"text": "b"})) == "b"
    assert [call.arguments["text"] for call in server.calls] == ["b"]
    assert wire.events == []


@ERAS
async def test_R11_no_byte_accepted_for_write_timeout_is_death(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode)
    wire = Wire(write_timeout=10)
    async with server._connect(wire.link) as client:
        await trio.sleep(100)  # idleness is no waiting
        server.gates["stream"] = never

        async def caller(delay: float) -> None:
            await trio.sleep(delay)
            async with calling(wire.link) as call:
                with pytest.raises(mcp.MCPError):
                    await client.call_tool("echo", {"text": "a"})
                assert not call.written
                assert trio.current_time() == 110

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller, 0)
            nursery.start_soon(caller, 4)
    assert wire.events == [("lost", 110.0)]
    assert isinstance(wire.link.lost_cause, TimeoutError)
    assert server.calls == []


async def test_a_byte_accepted_starts_the_write_timeout_again(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    wire = Wire(write_timeout=10)
    async with server._connect(wire.link) as client:
        door = hold()
        server.gates["stream"] = [door, never]
        async with trio.open_nursery() as nursery:

            async def caller() -> None:
                with pytest.raises(mcp.MCPError):
                    await client.call_tool("echo", {"text": "a"})
                    await client.call_tool("echo", {"text": "b"})

            nursery.start_soon(caller)
            nursery.start_soon(caller)
            await trio.sleep(9)
            door.open()
    assert wire.events == [("lost", 19.0)]


# Stage: close.


async def test_close_error_comes_out(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": error(OSError("stuck"))})
    with pytest.raises(OSError, match="stuck"):
        async with server._connect(Wire().link):
            pass
    assert server.connections[0].state == "closed"


async def test_close_slow_takes_its_time_and_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(3)})
    async with server._connect(Wire().link):
        pass
    assert trio.current_time() == 3
    with trio.move_on_after(1):
        async with server._connect(Wire().link):
            pass
    assert trio.current_time() == 4
    assert [c.closed_at for c in server.connections] == [3, 4]


async def test_close_slow_and_shielded_cannot_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(4, shielded=True)})
    with trio.move_on_after(1) as scope:
        async with server._connect(Wire().link):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_close_never_hangs_until_it_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": never})
    with trio.move_on_after(50):
        async with server._connect(Wire().link):
            pass
    assert trio.current_time() == 50
    assert server.connections[0].state == "closed"


async def test_a_body_that_raises_is_not_dressed_up(autojump_clock: trio.testing.MockClock) -> None:
    transport_error = KeyError("mine")
    with pytest.raises(BaseException) as caught:
        async with ScriptedServer()._connect(Wire().link):
            raise transport_error
    assert leaves(caught.value) == [transport_error]


# Death, and stillness.


@ERAS
async def test_R12_killed_while_idle_is_noticed_in_the_same_moment(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode)
    wire = Wire()
    async with server._connect(wire.link):
        server.kill()
        assert server.connections[0].died_at == 0
        await trio.testing.wait_all_tasks_blocked()
        assert wire.events == [("lost", 0.0)]
        with pytest.raises(LookupError):
            server.kill()
        server.kill("all")
        server.kill(1)


async def test_killed_under_calls_no_answer_arrives_and_every_caller_gets_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"call": slow(5)})
    wire = Wire()
    told: list[float] = []
    async with server._connect(wire.link) as client, trio.open_nursery() as nursery:

        async def caller() -> None:
            async with calling(wire.link) as call:
                with pytest.raises(mcp.MCPError):
                    await client.call_tool("echo", {"text": "a"})
                assert call.written
                assert wire.link.is_lost
                told.append(trio.current_time())

        for _ in range(3):
            nursery.start_soon(caller)
        await trio.sleep(2)
        server.kill()
    assert told == [2, 2, 2]
    assert [call.finished for call in server.calls] == [False] * 3


async def test_kill_takes_the_newest_or_the_one_that_is_named(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with server._connect(Wire().link), server._connect(Wire().link), server._connect(Wire().link):
        assert server.peak_open == server.open_connections == 3
        server.kill()
        server.kill(1)
        assert [c.died_at for c in server.connections] == [0, None, 0]
        with pytest.raises(LookupError):
            server.kill(4)
        with pytest.raises(TypeError):
            server.kill("newest")  # type: ignore[arg-type]
    assert server.open_connections == 0
    assert server.peak_open == 3


async def test_a_stopped_server_reads_and_sends_nothing_until_it_is_resumed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"call": slow(1)})
    async with server._connect(Wire().link) as client, trio.open_nursery() as nursery:

        async def caller(delay: float) -> None:
            await trio.sleep(delay)
            await client.call_tool("echo", {"text": "a"})
            assert trio.current_time() == 10 + delay

        await client.list_tools()  # or the client would do so after the call, and meet the stop there
        nursery.start_soon(caller, 0)  # read before the stop, answered after it
        nursery.start_soon(caller, 1)  # read after it
        await trio.sleep(0.5)
        server.stop()
        await trio.sleep(9.5)
        server.resume()
    assert [(call.started_at, call.finished_at) for call in server.calls] == [(0, 1), (10, 11)]


async def test_once_leaving_nothing_more_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    wire = Wire()
    async with server._connect(wire.link) as client:
        wire.link.leaving = True
        async with calling(wire.link) as call:
            with pytest.raises(mcp.MCPError):
                await client.call_tool("echo", {"text": "a"})
        assert not call.written
    assert server.calls == []
    assert wire.events == []


# Tools.


async def test_a_tool_may_return_whatever_json_can_say(autojump_clock: trio.testing.MockClock) -> None:
    async def lookup(arguments: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(1)
        return {"got": arguments}

    def raises() -> None:
        raise ValueError("wrong")

    def refuses() -> None:
        raise mcp.MCPError(-32001, "refused")

    whole = types.CallToolResult(content=[types.TextContent(text="whole")], is_error=True)
    server = ScriptedServer(
        {"lookup": lookup, "nothing": lambda: None, "number": lambda: 7, "whole": lambda: whole, "raises": raises}
    )
    server.tools["refuses"] = refuses
    async with server._connect(Wire().link) as client:
        assert (await client.call_tool("lookup", {"a": 1})).structured_content == {"got": {"a": 1}}
        assert trio.current_time() == 1
        assert (await client.call_tool("nothing")).content == []
        assert text(await client.call_tool("number")) == "7"
        assert (await client.call_tool("whole")).is_error
        assert text(await client.call_tool("raises")) == "wrong"
        with pytest.raises(mcp.MCPError, match="refused"):
            await client.call_tool("refuses")
        del server.tools["whole"]
        assert len((await client.list_tools()).tools) == len(server.tools) == 5
    assert all(call.finished for call in server.calls)


async def test_annotations_and_schema_are_listed(autojump_clock: trio.testing.MockClock) -> None:
    def find(word: str, limit: int = 3, *, context: ToolContext) -> str:
        """Finds a word."""
        return word

    server = ScriptedServer([tool(find, read_only=True, idempotent=True, destructive=False, open_world=False)])
    assert isinstance(server.tools["find"], Tool)
    async with server._connect(Wire().link) as client:
        (listed,) = (await client.list_tools()).tools
    assert listed.description == "Finds a word."
    assert listed.annotations is not None
    assert (listed.annotations.read_only_hint, listed.annotations.idempotent_hint) == (True, True)
    assert listed.input_schema == {
        "type": "object",
        "properties": {"word": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["word"],
    }


@ERAS
async def test_a_tool_reports_progress_logs_and_may_die(mode: str, autojump_clock: trio.testing.MockClock) -> None:
    async def work(context: ToolContext) -> str:
        for step in (1, 2):
            await trio.sleep(1)
            context.progress(step, 2, f"step {step}")
        context.log("done")
        assert context.connection == 1
        return "worked"

    async def die(context: ToolContext) -> str:
        context.progress(1)  # still on the line when it dies
        context.kill()
        return "never said"

    seen: list[Any] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((trio.current_time(), progress, total, message))

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        seen.append(params.data)

    server = ScriptedServer([work, die], mode=mode, logging_callback=log)
    wire = Wire()
    async with server._connect(wire.link) as client:
        assert text(await client.call_tool("work", progress_callback=on_progress)) == "worked"
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(mcp.MCPError):
            await client.call_tool("die", progress_callback=on_progress)
        assert wire.link.is_lost
    assert seen[:2] == [(1, 1, 2, "step 1"), (2, 2, 2, "step 2")]
    assert seen[2:] == ["done"]
    assert [call.finished for call in server.calls] == [True, False]


async def test_a_tool_may_ask_the_client(autojump_clock: trio.testing.MockClock) -> None:
    async def ask(context: ToolContext) -> str:
        answer = await context.request(
            "elicitation/create", {"message": "name?", "requestedSchema": {"type": "object", "properties": {}}}
        )
        with pytest.raises(mcp.MCPError):
            await context.request("roots/list")
        return str(answer["action"])

    async def elicit(_context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    server = ScriptedServer([ask], mode="legacy", elicitation_callback=elicit)
    async with server._connect(Wire().link) as client:
        assert text(await client.call_tool("ask")) == "decline"


async def test_notifications_of_changes_reach_a_legacy_client_without_a_subscription(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[Any] = []

    async def handler(message: Any) -> None:
        seen.append(type(message).__name__)

    server = ScriptedServer(mode="legacy", message_handler=handler)
    async with server._connect(Wire().link):
        server.notify("notifications/tools/list_changed")
        await trio.testing.wait_all_tasks_blocked()
    assert seen == ["ToolListChangedNotification"]


async def test_notices_of_change_reach_a_modern_client_where_it_listens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with server._connect(Wire().link) as client:
        server.notify("notifications/tools/list_changed")  # nobody listens yet
        async with client.listen(tools_list_changed=True, resource_subscriptions=["memo://hello"]) as subscription:
            server.notify("notifications/prompts/list_changed")  # not asked for
            server.notify("notifications/resources/updated", {"uri": "memo://other"})  # nor that one
            server.notify("notifications/resources/updated", {"uri": "memo://hello"})
            assert type(await subscription.__anext__()).__name__ == "ResourceUpdated"
            server.notify("notifications/tools/list_changed")
            assert type(await subscription.__anext__()).__name__ == "ToolsListChanged"


def test_a_link_without_a_write_timeout_waits_for_ever() -> None:
    assert Link("x").write_timeout == math.inf
