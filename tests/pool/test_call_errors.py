"""What a caller gets of what its call raised: the server's errors, the user's own, and those of a client that is not ours."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

import anyio
import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp.server import MCPServer, Server, ServerRequestContext
from pydantic import BaseModel, TypeAdapter, ValidationError

from trio_mcp_pool import (
    AcquireTimeoutError,
    CustomServer,
    InProcessServer,
    InvalidArgumentsError,
    InvalidResultError,
    OutcomeUnknownError,
    Pool,
    PoolPolicy,
    SessionLostError,
)
from trio_mcp_pool.testing import ScriptedServer, _protocol

from .books import Ledger, watched_pool

pytestmark = pytest.mark.usefixtures("autojump_clock")


def invalid() -> ValidationError:
    """An error of pydantic's, as a program's own code may raise it."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("hunter2")
    return caught.value


def invalid_params() -> ValidationError:
    """The same of a model of the SDK's, as if a request could not be made."""
    with pytest.raises(ValidationError) as caught:
        types.ElicitRequestFormParams.model_validate({"message": 7})
    return caught.value


class Client(mcp.Client):
    """A client of the user's own, whose calls raise what the test says: at once, or when they are cancelled."""

    what: BaseException
    waits = False

    async def call_tool(self, *args: Any, **kwargs: Any) -> types.CallToolResult:
        try:
            await trio.sleep(math.inf if self.waits else 0)
        finally:
            raise self.what


pings: list[str] = []


def raising(what: BaseException, *, alive: bool = True, waits: bool = False) -> CustomServer:
    """A server whose client raises it, and answers a probe, or does not."""
    pings.clear()

    async def ping(**_: Any) -> types.EmptyResult:
        pings.append("ping")
        if not alive:
            raise what
        return types.EmptyResult()

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        client = Client(MCPServer("custom"), mode="legacy")
        client.what, client.waits = what, waits
        async with client:
            client.session.send_ping = ping  # type: ignore[method-assign]
            yield client

    return CustomServer(connect)


async def raised_by(server: Any, kind: type[BaseException]) -> Any:
    """What a call of that server raises."""
    async with watched_pool({"s": server}) as pool:
        error: BaseException | None = None
        try:
            await pool.call_tool("s", "x")
        except kind as exc:
            error = exc
        assert error is not None
        return error


async def test_arguments_that_are_no_mapping_are_refused_before_anything_is_sent() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(InvalidArgumentsError, match=r"arguments of tool 'echo' of server 's' .* not str") as caught:
            await pool.call_tool("s", "echo", "text")  # type: ignore[arg-type]
        assert caught.value.outcome == "not run"
        async with pool.session("s") as session:
            with pytest.raises(InvalidArgumentsError, match="not list"):
                await session.call_tool("echo", [])  # type: ignore[arg-type]
        assert server.calls == []


@pytest.mark.parametrize("what", [ValueError("mine"), invalid(), RuntimeError("mine"), MCPError(-1, "mine")])
async def test_R14_the_sole_error_in_a_group_comes_out_bare(what: Exception) -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [what])])
    error = await raised_by(raising(group), Exception)
    assert error is what


async def test_R14_the_error_that_was_in_a_group_keeps_its_cause() -> None:
    cause = KeyError("why")
    what = ValueError("mine")
    what.__cause__ = cause
    assert (await raised_by(raising(ExceptionGroup("g", [what])), ValueError)).__cause__ is cause
    without = ValueError("mine")
    group = ExceptionGroup("g", [without])
    assert (await raised_by(raising(group), ValueError)).__cause__ is group


async def test_R14_several_errors_stay_in_their_group() -> None:
    group = ExceptionGroup("g", [ValueError(), KeyError()])
    assert await raised_by(raising(group), ExceptionGroup) is group


@pytest.mark.parametrize("beside", [[], [ValueError("beside")]], ids=["alone", "beside another"])
async def test_R14_an_interrupt_in_a_group_comes_out_bare(beside: list[Exception]) -> None:
    interrupt = KeyboardInterrupt()
    cause = interrupt.__cause__ = KeyError("why")
    group = BaseExceptionGroup("g", [*beside, BaseExceptionGroup("h", [interrupt])])
    error = await raised_by(raising(group), KeyboardInterrupt)
    assert error is interrupt
    assert error.__cause__ is cause


class Odd(BaseException):
    pass


async def test_R14_a_group_without_an_interrupt_stays_as_it_is() -> None:
    group = BaseExceptionGroup("g", [Odd(), Odd()])
    assert await raised_by(raising(group), BaseExceptionGroup) is group


@pytest.mark.parametrize(
    "what", [ConnectionResetError("gone"), anyio.BrokenResourceError(), MCPError(-32000, "closed")]
)
async def test_R12_a_foreign_client_that_lost_its_server_is_found_out_by_a_probe(what: Exception) -> None:
    async with watched_pool({"s": raising(what, alive=False)}) as pool:
        with pytest.raises(OutcomeUnknownError) as caught:
            await pool.call_tool("s", "x")
        assert caught.value.__cause__ is what
        assert pool.statistics().sessions_lost == 1


@pytest.mark.parametrize("what", [ConnectionResetError("a tool's own"), MCPError(-32000, "one answer lost")])
async def test_R12_a_foreign_client_that_answers_the_probe_has_raised_an_error_of_its_own(what: Exception) -> None:
    async with watched_pool({"s": raising(what)}) as pool:
        for _ in range(2):
            with pytest.raises(type(what)) as caught:
                await pool.call_tool("s", "x")
            assert caught.value is what
        assert pings == ["ping", "ping"]
        stats = pool.statistics()
        assert (stats.connects, stats.sessions_lost) == (1, 0)


@pytest.mark.parametrize("what", [anyio.ClosedResourceError(), ConnectionResetError(), MCPError(-32000, "closed")])
async def test_R18_what_a_foreign_client_raises_when_its_session_is_closed_is_the_closing(what: Exception) -> None:
    async with watched_pool({"s": raising(what, waits=True)}, policy=PoolPolicy(drain_timeout=0)) as pool:
        async with trio.open_nursery() as nursery:

            async def caller() -> None:
                with pytest.raises(OutcomeUnknownError):
                    await pool.call_tool("s", "x")

            nursery.start_soon(caller)
            await trio.sleep(1)
            await pool.drain("s")
        assert pings == []


async def test_R14_an_error_that_is_not_translated_has_no_cause_that_it_did_not_have() -> None:
    what = LookupError("mine")
    assert (await raised_by(raising(what), LookupError)).__cause__ is None
    async with watched_pool({"s": ScriptedServer()}) as pool:
        with pytest.raises(MCPError) as caught:
            await pool.read_resource("s", "none://here")
        assert caught.value.__cause__ is None


async def test_a_call_leaves_the_context_variables_as_they_were() -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        before = set(copy_context().items())
        await pool.call_tool("s", "echo", {"text": "x"})
        with pytest.raises(MCPError):
            await pool.read_resource("s", "none://here")
        async with pool.session("s") as session:
            await session.list_tools()
        assert set(copy_context().items()) == before


async def test_R5_an_error_is_an_answer_and_proves_a_session() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(MCPError):
            await pool.read_resource("s", "none://here")
        server.kill()
        await trio.sleep(0.01)
        await pool.call_tool("s", "echo", {"text": "x"})  # at once: the death of a proved session is no failed dial
        assert pool.statistics().servers["s"].connects == 2


async def test_R18_a_session_without_a_process_dies_without_an_exit_status() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool, pool.session("s") as session:
        await session.call_tool("echo", {"text": "x"})
        server.kill()
        with pytest.raises(SessionLostError) as caught:
            await session.call_tool("echo", {"text": "x"})
    assert str(caught.value) == ("the session of server 's' died before the request was sent: sending it again is safe")


async def test_a_foreign_clients_other_errors_cause_no_probe() -> None:
    what = LookupError("mine")
    assert await raised_by(raising(what), LookupError) is what
    assert pings == []


# What the user's own callbacks raise while a call waits for their answer.


def asks() -> InProcessServer:
    """A modern server whose tool asks for input, and a person who is not there."""

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        schema: dict[str, Any] = {"type": "object", "properties": {}}
        question = types.ElicitRequest(params=types.ElicitRequestFormParams(message="?", requested_schema=schema))
        return types.InputRequiredResult(input_requests={"q": question}, request_state="asked")

    return InProcessServer(Server("asks", on_call_tool=call_tool), mode="2026-07-28")


@pytest.mark.parametrize(
    "what", [invalid(), invalid_params(), RuntimeError("no person"), ConnectionResetError("no person")]
)
async def test_what_a_callback_raises_is_no_fault_of_the_answer_and_no_sign_of_death(what: Exception) -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        raise what

    server = asks()
    object.__setattr__(server, "elicitation_callback", elicit)
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(type(what)) as caught:
            await pool.call_tool("s", "x")
        assert caught.value is what
        assert pool.statistics().sessions_lost == 0


async def test_R18_a_session_that_is_lost_in_a_later_round_has_run_the_first() -> None:
    asked = trio.Event()

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.set()
        await trio.sleep(1)
        return types.ElicitResult(action="decline")

    server = asks()
    object.__setattr__(server, "elicitation_callback", elicit)
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=0)) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lost_in_a_round, pool)
            await asked.wait()
            await pool.drain("s")


async def lost_in_a_round(pool: Pool) -> None:
    with pytest.raises((OutcomeUnknownError, SessionLostError)) as caught:
        await pool.call_tool("s", "x")
    assert caught.value.outcome == "unknown"


# Answers that are against the protocol, and requests that cannot be made.


class Strict(BaseModel):
    number: int


async def test_R18_a_result_that_does_not_fit_the_tools_own_schema_says_so_without_its_values() -> None:
    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        tool = types.Tool(name="x", input_schema={"type": "object"}, output_schema=Strict.model_json_schema())
        return types.ListToolsResult(tools=[tool])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return types.CallToolResult(content=[], structured_content={"number": "hunter2"})

    server = InProcessServer(Server("s", on_list_tools=list_tools, on_call_tool=call_tool), mode="legacy")
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(InvalidResultError) as caught:
            await pool.call_tool("s", "x")
    assert caught.value.outcome == "answered"
    assert "server 's' gave an answer that is against the protocol or the tool's own schema" in str(caught.value)
    assert "structured content" in str(caught.value)


async def test_arguments_that_cannot_be_written_are_not_sent_and_not_quoted() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(InvalidArgumentsError, match="must be JSON values: PydanticSerializationError$") as caught:
            await pool.call_tool("s", "echo", {"text": object()})
        assert caught.value.outcome == "not run"
        assert server.calls == []


async def test_a_request_that_the_sdk_cannot_make_names_the_field_and_quotes_no_value() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(InvalidArgumentsError, match="could not be made") as caught:
            await pool.call_tool("s", {"hunter2": 1}, {})  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
        assert "name" in str(caught.value)
        assert caught.value.__cause__ is None
        assert server.calls == []


async def test_of_a_request_that_cannot_be_made_three_faults_are_named() -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool, pool.session("s") as session:
        with pytest.raises(InvalidArgumentsError) as caught:
            await session.get_prompt("p", {"a": 1, "b": 2, "c": 3, "d": 4})  # type: ignore[dict-item]
    _, _, faults = str(caught.value).partition("JSON values: ")
    assert [fault.partition(":")[0] for fault in faults.split("; ")] == ["arguments.a", "arguments.b", "arguments.c"]


async def test_R18_a_request_that_a_foreign_client_cannot_make_is_no_fault_of_the_answer() -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with mcp.Client(MCPServer("custom")) as client:
            yield client

    async with watched_pool({"s": CustomServer(connect)}) as pool:
        with pytest.raises(InvalidArgumentsError) as caught:
            await pool.call_tool("s", {"hunter2": 1}, {})  # type: ignore[arg-type]
        assert caught.value.outcome == "not run"


async def test_R17_a_call_checkpoints_even_if_a_foreign_client_does_not() -> None:
    class Immediate(mcp.Client):
        async def call_tool(self, *_: Any, **__: Any) -> types.CallToolResult:
            return types.CallToolResult(content=[])

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with Immediate(MCPServer("custom")) as client:
            yield client

    async with watched_pool({"s": CustomServer(connect)}) as pool:
        await pool.wait_ready("s")
        with trio.testing.assert_checkpoints():
            await pool.call_tool("s", "x")


async def test_R17_a_verb_that_is_answered_from_the_cache_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _protocol.listing
    asked: list[str] = []

    def listing(request: Any, key: str, items: Any) -> Any:
        asked.append(key)
        return {**real(request, key, items), "ttlMs": 60_000}

    monkeypatch.setattr(_protocol, "listing", listing)
    async with watched_pool({"s": ScriptedServer(eras="modern")}) as pool, pool.session("s") as session:
        await session.list_prompts()
        with trio.testing.assert_checkpoints():
            await session.list_prompts()
        assert asked.count("prompts") == 1


class Called(Ledger):
    """An observer that is told how requests end, too."""

    def called(self, *_: object) -> None:
        pass

    waited = called


@pytest.mark.parametrize("observer", [Ledger, Called])
@pytest.mark.parametrize("verb", ["pool", "session"])
async def test_R17_control_C_reaches_the_users_own_code_in_a_call(verb: str, observer: type[Ledger]) -> None:
    class Struck(mcp.Client):
        async def call_tool(self, *_: Any, **__: Any) -> types.CallToolResult:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not interrupted")

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with Struck(MCPServer("custom")) as client:
            yield client

    async with watched_pool({"s": CustomServer(connect)}, ledger=observer()) as pool:
        with pytest.raises(KeyboardInterrupt):
            if verb == "pool":
                await pool.call_tool("s", "x")
            else:
                async with pool.session("s") as session:
                    await session.call_tool("x")


@pytest.mark.parametrize("observer", [Ledger, Called])
async def test_a_call_that_fails_leaves_nothing_for_the_collector(observer: type[Ledger]) -> None:
    class Failing(mcp.Client):
        async def call_tool(self, *_: Any, **__: Any) -> types.CallToolResult:
            raise LookupError

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with Failing(MCPServer("custom")) as client:
            yield client

    async with watched_pool({"s": CustomServer(connect)}, ledger=observer()) as pool, pool.session("s") as session:
        for round_ in range(2):
            if round_:
                gc.collect()
            with contextlib.suppress(LookupError):
                await session.call_tool("x")
        assert gc.collect() == 0


@pytest.mark.parametrize("observer", [Ledger, Called])
async def test_a_wait_that_fails_leaves_nothing_for_the_collector(observer: type[Ledger]) -> None:
    policy = PoolPolicy(max_in_flight=1, acquire_timeout=1)
    async with watched_pool({"s": ScriptedServer()}, policy=policy, ledger=observer()) as pool:
        held = await pool.acquire("s")
        for round_ in range(2):
            if round_:
                gc.collect()
            with contextlib.suppress(AcquireTimeoutError):
                await pool.list_tools("s")
        assert gc.collect() == 0
        held.release()


async def test_a_scopes_lost_session_leaves_nothing_for_the_collector() -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool, pool.open_scope() as scope:
        for round_ in range(2):
            await scope.call_tool("s", "echo", {"text": "x"})
            server.kill()
            await trio.sleep(1)
            if round_:
                gc.collect()
            with contextlib.suppress(SessionLostError):
                await scope.call_tool("s", "echo", {"text": "x"})
        assert gc.collect() == 0
