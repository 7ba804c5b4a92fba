"""What a `Session` and a `Pool` offer beside the verbs of `mcp.Client`, and what their errors say (R16, R18)."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp.server import Server as LowLevelServer
from mcp.shared.exceptions import MCPDeprecationWarning

from trio_mcp_pool import (
    ConnectError,
    InProcessServer,
    InvalidArgumentsError,
    InvalidResultError,
    OutcomeUnknownError,
    PoolClosedError,
    PoolError,
    PoolPolicy,
    Server,
    SessionLostError,
    UnknownServerError,
)
from trio_mcp_pool._wire._link import Link
from trio_mcp_pool.testing import ScriptedServer, ToolContext, error, slow

from .books import check_books, settle, text, watched_pool
from .test_secrets import SECRET, SERVERS

# wait_lost.


@pytest.mark.parametrize("end", ["death", "drain", "strict drain", "lifetime", "remove", "close"])
async def test_wait_lost_returns_when_the_session_dies_or_is_being_closed(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"spawn": slow(1)})
    policy = PoolPolicy(
        max_lifetime=100 if end == "lifetime" else 1e9, max_overlap=0 if end == "strict drain" else 1, drain_timeout=20
    )
    returned: list[float] = []
    async with trio.open_nursery() as nursery:
        async with watched_pool({"s": server}, policy=policy) as pool:
            session = await pool.acquire("s")
            await session.list_tools()

            async def wait() -> None:
                await session.wait_lost()
                returned.append(trio.current_time())

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.sleep_until(10)
            assert returned == []
            if end == "death":
                server.kill()
            elif end in ("drain", "strict drain"):
                nursery.start_soon(pool.drain, "s")
            elif end == "remove":
                nursery.start_soon(pool.remove_server, "s")
            elif end == "lifetime":
                await trio.sleep_until(110)
            else:
                nursery.start_soon(pool.aclose)
            await trio.sleep(2)
            session.release()
            with trio.testing.assert_checkpoints():
                await session.wait_lost()
    assert len(returned) == 2
    # Where a successor is dialled beside it, it is being closed when that is ready.
    expected = {"drain": (11, 11), "lifetime": (96, 102)}.get(end, (10, 10))
    assert expected[0] <= min(returned) <= max(returned) <= expected[1]


async def test_wait_lost_returns_at_once_for_a_handle_that_was_released(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What becomes of the session is no longer the business of this handle."""
    async with watched_pool({"s": ScriptedServer()}) as pool:
        session = await pool.acquire("s")
        session.release()
        with trio.fail_after(1), trio.testing.assert_checkpoints():
            await session.wait_lost()
        with pytest.raises(KeyError):
            await pool.acquire("t")


async def test_wait_lost_may_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool, pool.session("s") as session:
        with trio.move_on_after(3):
            await session.wait_lost()
        assert trio.current_time() == 3
        await session.list_tools()


# Requests that have no verb.


class VendorParams(types.RequestParams):
    topic: str


class VendorRequest(types.Request[VendorParams, str]):
    method: str = "vendor/ask"
    params: VendorParams


class VendorResult(types.Result):
    told: str


async def test_send_request_sends_what_no_verb_does(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool, pool.session("s") as session:
        listed = await session.send_request(types.ListToolsRequest(), types.ListToolsResult)
        assert [tool.name for tool in listed.tools] == ["echo", "add"]
        with pytest.raises(MCPError) as caught:
            await session.send_request(VendorRequest(params=VendorParams(topic="x")), VendorResult)
        assert caught.value.code == types.METHOD_NOT_FOUND
        assert check_books(pool).sessions_lost == 0


async def test_R13_send_request_is_never_sent_a_second_time_and_says_what_is_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"stream": error()})
    async with watched_pool({"s": server}) as pool, pool.session("s") as session:
        with pytest.raises(OutcomeUnknownError):
            await session.send_request(types.ListToolsRequest(), types.ListToolsResult)
        with pytest.raises(SessionLostError):
            await session.send_request(types.ListToolsRequest(), types.ListToolsResult)
        assert len(server.connections) == 1


async def code_of(verb: Callable[[], Awaitable[Any]]) -> int:
    """The code of the error that the server answers, 0 for a result."""
    try:
        await verb()
    except MCPError as why:
        return why.code
    return 0


async def test_notifications_and_requests_of_the_handshake_era_go_through_the_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The scripted server need not know them: that it says so shows that they were sent."""
    codes: list[int] = []
    async with watched_pool({"s": ScriptedServer(mode="legacy")}) as pool, pool.session("s") as session:
        with pytest.warns(MCPDeprecationWarning):
            await session.send_roots_list_changed()
        with pytest.warns(MCPDeprecationWarning):
            await session.send_progress_notification("token", 0.5, 1.0, "half")
        for verb in (
            partial(session.set_logging_level, "info"),
            partial(session.subscribe_resource, "memo://hello"),
            partial(session.unsubscribe_resource, "memo://hello"),
        ):
            with pytest.warns(MCPDeprecationWarning):
                codes.append(await code_of(verb))
        assert set(codes) <= {0, types.METHOD_NOT_FOUND}
        assert check_books(pool).sessions_lost == 0


# The pool's listen and send_ping.


async def test_pool_listen_holds_a_lease_for_as_long_as_it_is_open(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=5)) as pool:
        async with pool.listen("s", tools_list_changed=True) as changes:
            assert check_books(pool).leases_in_flight == 1
            await trio.sleep(100)  # it is not idle
            server.notify("notifications/tools/list_changed")
            with trio.fail_after(1):
                await anext(changes)
        assert check_books(pool).leases_in_flight == 0
        with pytest.raises(UnknownServerError):
            async with pool.listen("t"):
                pass
        with pytest.raises(ZeroDivisionError):
            async with pool.listen("s", tools_list_changed=True):
                raise ZeroDivisionError
        assert check_books(pool).leases_in_flight == 0


async def test_pool_listen_in_a_scope_listens_on_its_own_session(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        async with pool.listen("s", scope="mine", tools_list_changed=True), pool.open_scope() as scope:
            async with scope.listen("s", tools_list_changed=True):
                assert check_books(pool).size == 2


async def test_pool_send_ping_asks_any_session_and_may_be_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(mode="legacy")
    async with watched_pool({"s": server}) as pool:
        with pytest.warns(MCPDeprecationWarning, match="ping"):
            await pool.send_ping("s")
        server.kill()
        with pytest.warns(MCPDeprecationWarning, match="ping"):
            await pool.send_ping("s")
        assert len(server.connections) == 2


# allow_input_required.


async def confirm(context: ToolContext) -> Any:
    """Asks for a confirmation, in the modern era's way."""
    await trio.lowlevel.checkpoint()
    responses = context.params.get("inputResponses")
    if responses is None:
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
        asked = types.ElicitRequest(params=types.ElicitRequestFormParams(message="Sure?", requested_schema=schema))
        return types.InputRequiredResult(input_requests={"q": asked}, request_state="state 1")
    return f"{responses['q']['action']}, {context.params.get('requestState')}"


async def test_with_allow_input_required_the_question_of_a_tool_is_its_result(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer([confirm])}) as pool, pool.session("s") as session:
        asked: Any = await session.call_tool("confirm", {}, allow_input_required=True)
        assert isinstance(asked, types.InputRequiredResult)
        assert asked.input_requests is not None
        assert (list(asked.input_requests), asked.request_state) == (["q"], "state 1")
        result = await session.call_tool(
            "confirm",
            {},
            input_responses={"q": types.ElicitResult(action="decline")},
            request_state=asked.request_state,
            allow_input_required=True,
        )
        assert text(result) == "decline, state 1"


async def test_without_it_the_callbacks_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(context: Any, params: Any) -> types.ElicitResult:
        await trio.lowlevel.checkpoint()
        return types.ElicitResult(action="accept", content={"sure": True})

    async with watched_pool({"s": ScriptedServer([confirm], elicitation_callback=answer)}) as pool:
        assert text(await pool.call_tool("s", "confirm", {})) == "accept, state 1"


async def test_allow_input_required_of_read_resource_and_get_prompt(autojump_clock: trio.testing.MockClock) -> None:
    async def ask(context: Any, params: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return types.InputRequiredResult(request_state="more, please")

    inside = LowLevelServer("inside", on_read_resource=ask, on_get_prompt=ask)
    async with watched_pool({"s": InProcessServer(inside)}) as pool, pool.session("s") as session:
        for result in (
            await session.read_resource("memo://x", allow_input_required=True),
            await session.get_prompt("x", allow_input_required=True),
        ):
            assert isinstance(result, types.InputRequiredResult)
            assert result.request_state == "more, please"


# Errors of arguments and results.


class Opaque:
    """No JSON value."""


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("arguments", [["text"], "text", 3, {"text": Opaque()}])
async def test_arguments_that_are_no_mapping_or_no_JSON_are_an_InvalidArgumentsError_and_nothing_is_sent(
    arguments: Any, mode: Any, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(mode=mode)
    async with watched_pool({"s": server}) as pool:
        await pool.list_tools("s")
        before = len(server.calls)
        with pytest.raises(InvalidArgumentsError) as caught:
            await pool.call_tool("s", "echo", arguments)
        assert (caught.value.server, caught.value.outcome) == ("s", "not run")
        assert isinstance(caught.value, ValueError)
        async with pool.session("s") as session:
            with pytest.raises(InvalidArgumentsError):
                await session.call_tool("echo", arguments)
        assert len(server.calls) == before
        assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
        assert (check_books(pool).sessions_lost, len(server.connections)) == (0, 1)


def result_against_the_protocol() -> Any:
    return types.ReadResourceResult(contents=[])


async def questions_without_end() -> Any:
    await trio.lowlevel.checkpoint()
    return types.InputRequiredResult(request_state="again")


@pytest.mark.parametrize("tool", [result_against_the_protocol, questions_without_end])
async def test_R18_an_answer_that_the_SDK_cannot_take_is_an_InvalidResultError_and_counts_as_answered(
    tool: Any, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer({"odd": tool, "fine": lambda: "fine"})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(InvalidResultError) as caught:
            await pool.call_tool("s", "odd", {})
        assert (caught.value.server, caught.value.outcome) == ("s", "answered")
        assert caught.value.__cause__ is not None  # pydantic's own, or the SDK's
        assert text(await pool.call_tool("s", "fine", {})) == "fine"
        assert (check_books(pool).sessions_lost, len(server.connections)) == (0, 1)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R18_a_result_against_the_tools_own_schema_is_an_InvalidResultError(
    mode: Any, autojump_clock: trio.testing.MockClock
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        await trio.lowlevel.checkpoint()
        tool = types.Tool(name="count", input_schema={"type": "object"}, output_schema=schema)
        return types.ListToolsResult(tools=[tool])

    async def call(context: Any, params: Any) -> types.CallToolResult:
        await trio.lowlevel.checkpoint()
        return types.CallToolResult(content=[], structured_content={"n": "many"})

    inside = LowLevelServer("inside", on_list_tools=list_tools, on_call_tool=call)
    async with watched_pool({"s": InProcessServer(inside, mode=mode)}) as pool:
        for _ in range(2):
            with pytest.raises(InvalidResultError, match="against the protocol or the tool's own schema") as caught:
                await pool.call_tool("s", "count", {})
            assert caught.value.outcome == "answered"
        assert check_books(pool).sessions_lost == 0


async def test_a_RuntimeError_of_a_users_own_callback_comes_out_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fail(context: Any, params: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("my own fault")

    async with watched_pool({"s": ScriptedServer([confirm], elicitation_callback=fail)}) as pool:
        with pytest.raises(RuntimeError, match="my own fault") as caught:
            await pool.call_tool("s", "confirm", {})
        assert not isinstance(caught.value, PoolError)


# What errors of calls know of a dead process.


class Process(Server):
    """A scripted server that reports an exit status and a tail of stderr, as a child process does."""

    def __init__(self, server: ScriptedServer) -> None:
        self.scripted = server
        self.links: list[Link] = []

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        self.links.append(link)
        link.keep_secret([SECRET])
        async with self.scripted._connect(link) as client:
            yield client

    def crash(self) -> None:
        link = self.links[-1]
        link.exit_status = -11
        link.set_stderr(f"token {SECRET}: segmentation fault".encode())
        self.scripted.kill()


@pytest.mark.parametrize("when", ["written", "not written", "in a scope"])
async def test_errors_of_calls_carry_the_exit_status_and_the_tail_of_stderr(
    when: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Process(ScriptedServer(gates={"call": slow(5)}))
    errors: list[PoolError] = []
    async with watched_pool({"s": server}) as pool, pool.open_scope() as scope, trio.open_nursery() as nursery:
        session = await (scope if when == "in a scope" else pool).acquire("s")
        await session.list_tools()

        async def call() -> None:
            with pytest.raises(PoolError) as caught:
                await session.call_tool("echo", {"text": "x"})
            errors.append(caught.value)

        if when == "written":
            nursery.start_soon(call)
            await trio.sleep(1)
        server.crash()
        await settle()
        if when == "not written":
            await call()
        if when == "in a scope":
            with pytest.raises(SessionLostError) as caught:
                await scope.acquire("s")
            errors.append(caught.value)
        session.release()
    (why,) = errors
    assert type(why) is (OutcomeUnknownError if when == "written" else SessionLostError)
    assert (why.exit_status, why.stderr_tail) == (-11, "token ***: segmentation fault")


async def test_a_call_whose_session_died_names_the_true_cause(autojump_clock: trio.testing.MockClock) -> None:
    """And not what the SDK made of it."""
    why = ConnectionResetError("the other side has hung up")
    async with watched_pool({"s": ScriptedServer(gates={"stream": [error(why)]})}) as pool:
        async with pool.session("s") as session:
            with pytest.raises(OutcomeUnknownError) as caught:
                await session.call_tool("echo", {"text": "x"})
            assert caught.value.__cause__ is why
            with pytest.raises(SessionLostError) as lost:
                await session.call_tool("echo", {"text": "x"})
            assert lost.value.__cause__ is why


async def test_a_call_after_closing_has_no_cause(autojump_clock: trio.testing.MockClock) -> None:
    told: list[PoolError] = []
    async with trio.open_nursery() as nursery:
        async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(drain_timeout=1)) as pool:

            async def work(task_status: trio.TaskStatus[None]) -> None:
                async with pool.session("s") as session:
                    await session.list_tools()
                    task_status.started()
                    await trio.sleep(3)
                    with pytest.raises(PoolClosedError) as caught:
                        await session.list_tools()
                    told.append(caught.value)

            await nursery.start(work)
    assert [(why.outcome, why.__cause__) for why in told] == [("not run", None)]


# R16: what a traceback prints.


def printed(why: BaseException) -> str:
    return "".join(traceback.format_exception(why))


@pytest.mark.parametrize("kind", ["arguments", "env", "env function"])
async def test_R16_a_traceback_of_a_failed_dial_prints_no_secret(kind: str) -> None:
    with trio.fail_after(10):
        async with watched_pool({"s": SERVERS[kind]}) as pool:
            for _ in range(2):
                with pytest.raises(ConnectError) as caught:
                    await pool.wait_ready("s")
                assert SECRET not in printed(caught.value)


@pytest.mark.parametrize("stage", ["spawn", "handshake"])
async def test_R16_a_cause_whose_text_holds_a_secret_is_shown_by_its_type_alone(
    stage: str, autojump_clock: trio.testing.MockClock
) -> None:
    def leak() -> BaseException:
        try:
            raise KeyError(f"inner {SECRET}")
        except KeyError as inner:
            why = ConnectionError("outer")
            why.__cause__ = inner
            return why

    server = Process(ScriptedServer(gates={stage: error(leak)}))
    async with watched_pool({"s": server}) as pool:
        for _ in range(2):  # the second fails fast, with the same cause
            with pytest.raises(ConnectError) as caught:
                await pool.call_tool("s", "echo", {"text": "x"})
            assert SECRET not in printed(caught.value)
            if stage == "spawn":
                assert str(caught.value.__cause__) == "ConnectionError"


async def test_R5_R16_a_missing_command_stays_permanent_although_its_cause_is_hidden(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Process(ScriptedServer(gates={"spawn": error(FileNotFoundError(f"/opt/{SECRET}/bin/server"))}))
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.wait_ready("s")
        assert caught.value.retry_after > 50
        assert SECRET not in printed(caught.value)


async def test_R16_a_lost_session_whose_cause_holds_a_secret_does_not_show_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Process(ScriptedServer(gates={"stream": [error(ConnectionError(f"token {SECRET} revoked"))]}))
    async with watched_pool({"s": server}) as pool, pool.session("s") as session:
        for _ in range(2):
            with pytest.raises(PoolError) as caught:
                await session.call_tool("echo", {"text": "x"})
            assert SECRET not in printed(caught.value)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R16_no_argument_value_is_printed_where_a_request_could_not_be_made(
    mode: Any, autojump_clock: trio.testing.MockClock
) -> None:
    password = "-".join(["hunter", "2"])
    async with watched_pool({"s": ScriptedServer(mode=mode)}) as pool:
        bad_calls: list[Any] = [
            partial(pool.call_tool, "s", "echo", {"text": password, "more": Opaque()}),
            partial(pool.call_tool, "s", "echo", [password]),
            partial(pool.get_prompt, "s", "greet", {"a": [password]}),
            partial(pool.call_tool, "s", [password], {}),
        ]
        for call in bad_calls:
            with pytest.raises(InvalidArgumentsError) as caught:
                await call()
            assert password not in printed(caught.value)
