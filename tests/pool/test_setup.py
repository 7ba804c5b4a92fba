"""`configure=`: what a new session has to be told is said before anybody is lent it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp.server.lowlevel import Server

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    CustomServer,
    InProcessServer,
    LeaseEndedError,
    OutcomeUnknownError,
    PoolClosedError,
    PoolPolicy,
    Session,
    SessionLostError,
)
from trio_mcp_pool.testing import ScriptedServer, error, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool

HALF = Backoff(first=0.5, jitter=0)


def inside() -> Any:
    server = mcp.server.MCPServer("inside")

    @server.tool()
    async def echo(
        text: str,
    ) -> str:  # a sync one would run in a thread, whose work the virtual clock does not wait for
        await trio.lowlevel.checkpoint()
        return text

    return server


KINDS: dict[str, Callable[..., Any]] = {
    "scripted": lambda **options: ScriptedServer(**options),
    "in process": lambda **options: InProcessServer(inside(), **options),
    "custom": lambda **options: CustomServer(lambda: mcp.Client(inside()), **options),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_configure_runs_once_for_each_session_before_it_is_lent(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    order: list[str] = []

    async def configure(session: Session) -> None:
        await trio.sleep(2)
        order.append(text(await session.call_tool("echo", {"text": f"configured {session.server}"})))

    async with watched_pool({"s": KINDS[kind](configure=configure)}) as pool:

        async def caller() -> None:
            order.append(text(await pool.call_tool("s", "echo", {"text": "called"})))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(caller)
            await trio.sleep(1)
            stats = check_books(pool)
            assert (stats.sessions_connecting, stats.leases_in_flight, stats.acquires) == (1, 0, 0)
            assert stats.servers["s"].state == "connecting"
        assert order == ["configured s", "called", "called", "called"]
        assert trio.current_time() == 2
        await pool.call_tool("s", "echo", {"text": "x"}, scope="other")
        assert order[4:] == ["configured s"]


async def test_configure_has_every_verb_of_a_session(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[Any] = []

    async def configure(session: Session) -> None:
        seen.append(repr(session))
        seen.append(session.protocol_version)
        await session.list_prompts()
        await session.list_tools()
        seen.append((await session.read_resource("memo://hello")).contents[0].model_dump()["text"])
        seen.append(session.client)

    server = ScriptedServer(mode="legacy", configure=configure)
    async with watched_pool({"s": server}) as pool:
        await pool.wait_ready("s")
        async with pool.session("s") as session:
            assert seen == ["<Session 1 of 's': dialing>", "2025-11-25", "hello", session.client]


async def test_the_session_of_configure_ends_with_it(autojump_clock: trio.testing.MockClock) -> None:
    kept: list[Session] = []

    async def configure(session: Session) -> None:
        kept.append(session)
        await session.list_tools()

    async with watched_pool({"s": ScriptedServer(configure=configure)}) as pool:
        await pool.wait_ready("s")
        with pytest.raises(LeaseEndedError):
            await kept[0].list_tools()


async def test_a_failing_configure_is_a_failed_dial_in_phase_setup_with_its_cause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failures = 0

    async def configure(session: Session) -> None:
        nonlocal failures
        failures += 1
        await session.list_tools()
        if failures < 3:
            raise ValueError("no workspace is left")

    server = ScriptedServer(configure=configure)
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        for at, retry_after in ((0, 0.5), (0.5, 1)):
            await trio.sleep_until(at)
            with pytest.raises(ConnectError, match="in phase 'setup': ValueError: no workspace is left") as caught:
                await pool.call_tool("s", "echo", {"text": "x"})
            # What the user's own function raised may pass: it is tried again soon, and not at the cap.
            assert (caught.value.phase, caught.value.retry_after) == ("setup", retry_after)
            assert isinstance(caught.value.__cause__, ValueError)
        await trio.sleep_until(1.5)
        await pool.call_tool("s", "echo", {"text": "x"})
        assert check_books(pool).connects_failed == 2
    assert server.open_connections == 0


async def test_a_session_that_ends_while_configure_does_something_else_is_a_failed_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        server.kill()
        await trio.sleep(1)

    server = ScriptedServer(configure=configure)
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
    assert str(caught.value) == (
        "server 's' could not be reached, in phase 'setup': ConnectionError: the session ended during the dial"
    )


@pytest.mark.parametrize("failure", [FileNotFoundError("no such file"), PermissionError("not yours")])
async def test_R5_what_configure_raises_is_never_permanent(
    failure: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    async def configure(session: Session) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    async with watched_pool({"s": ScriptedServer(configure=configure)}, policy=PoolPolicy(backoff=HALF)) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.wait_ready()
        assert caught.value.retry_after == 0.5


async def test_configure_has_connect_timeout_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async def configure(session: Session) -> None:
        await trio.sleep(seconds)

    server = ScriptedServer(configure=configure, gates={"handshake": [slow(4), slow(4)]})
    seconds = 4.0
    async with watched_pool({"s": server}, policy=PoolPolicy(connect_timeout=5)) as pool:
        await pool.wait_ready("s")
        assert trio.current_time() == 8
        seconds = 100
        with pytest.raises(ConnectError, match=r"within connect_timeout \(5 s\), in phase 'setup'") as caught:
            await pool.call_tool("s", "echo", {"text": "x"}, scope="other")
        assert trio.current_time() == 8 + 4 + 5
        assert caught.value.phase == "setup"


async def test_a_server_that_dies_while_it_is_configured_is_a_failed_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[str] = []

    async def configure(session: Session) -> None:
        try:
            await session.call_tool("echo", {"text": "x"})
        except OutcomeUnknownError as why:
            told.append(type(why).__name__)
            raise

    server = ScriptedServer(configure=configure, gates={"stream": [error(), ok]})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert caught.value.phase == "setup"
        await trio.sleep(1)
        await pool.call_tool("s", "echo", {"text": "x"})
        assert told == ["OutcomeUnknownError"]
        assert check_books(pool).sessions_lost == 0  # it was no session yet


async def test_a_server_that_dies_while_it_is_configured_is_not_lent_although_configure_notices_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        await trio.sleep(2)

    server = ScriptedServer(configure=configure)
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool, trio.open_nursery() as nursery:
        failed: list[str] = []

        async def caller() -> None:
            with pytest.raises(ConnectError) as caught:
                await pool.call_tool("s", "echo", {"text": "x"})
            failed.append(caught.value.phase)

        nursery.start_soon(caller)
        await trio.sleep(1)
        server.kill()
        await trio.sleep(5)
        assert failed == ["setup"]


@pytest.mark.parametrize("ending", ["close", "drain", "remove"])
async def test_configure_is_cut_when_the_dial_is_called_off(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    cut: list[float] = []

    async def configure(session: Session) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cut.append(trio.current_time())

    server = ScriptedServer(configure=configure)
    policy = PoolPolicy(connect_timeout=1000, drain_timeout=5, max_overlap=0)
    ledger = Ledger(limits=False)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:

        async def caller() -> None:
            with trio.move_on_after(8):
                try:
                    await pool.call_tool("s", "echo", {"text": "x"})
                except (PoolClosedError, KeyError):
                    pass

        nursery.start_soon(caller)
        await trio.sleep(1)
        if ending == "close":
            await pool.aclose()
        elif ending == "drain":
            await pool.drain("s")
        else:
            await pool.remove_server("s")
        assert trio.current_time() == 1
        assert cut == [1]
        await settle()


async def test_a_call_of_configure_that_is_answered_by_an_error_says_what_the_server_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        await session.call_tool("echo", {"text": "x"})

    server = ScriptedServer(configure=configure, gates={"call": [error(MCPError(code=-32001, message="not today"))]})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError, match="not today") as caught:
            await pool.wait_ready("s")
        assert isinstance(caught.value.__cause__, MCPError)


async def test_R1_configure_runs_in_the_pools_context_and_not_in_its_first_callers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    from contextvars import ContextVar

    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    async def configure(session: Session) -> None:
        seen.append(user.get())
        await trio.lowlevel.checkpoint()

    async with watched_pool({"s": ScriptedServer(configure=configure)}) as pool:
        user.set("alice")
        await pool.call_tool("s", "echo", {"text": "x"})
        assert seen == ["nobody"]


async def test_a_configure_that_leases_from_its_own_pool_may_use_another_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        token = text(await pool.call_tool("tokens", "echo", {"text": "secret"}))
        await session.call_tool("echo", {"text": token})

    server = ScriptedServer(configure=configure)
    async with watched_pool({"s": server, "tokens": ScriptedServer()}) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
        assert [call.arguments for call in server.calls] == [{"text": "secret"}, {"text": "x"}]


async def test_R8_a_lost_session_is_lost_whether_it_was_configured_or_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        await session.list_tools()

    server = ScriptedServer(configure=configure)
    async with watched_pool({"s": server}) as pool:
        session = await pool.acquire("s")
        await session.list_tools()
        server.kill()
        await settle()
        with pytest.raises((LeaseEndedError, SessionLostError)):
            await session.call_tool("echo", {"text": "x"})
        session.release()
        assert len(server.calls) == 0


# The log level.


def logging_server(asked: list[str], answer: Callable[[], Any]) -> Server[Any]:
    """A server that writes down what level it is asked for."""

    async def set_level(context: Any, params: types.SetLevelRequestParams) -> Any:
        asked.append(params.level)
        return await answer()

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text=",".join(asked))])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the protocol's logging is deprecated
        return Server("logs", on_call_tool=call_tool, on_set_logging_level=set_level)


async def agrees() -> types.EmptyResult:
    await trio.lowlevel.checkpoint()
    return types.EmptyResult()


async def refuses() -> types.EmptyResult:
    raise MCPError(types.INVALID_PARAMS, "no such level")


@pytest.mark.parametrize(("mode", "levels"), [("legacy", ["info"]), ("auto", [])])
async def test_log_level_is_asked_for_once_in_each_session_before_it_is_configured(
    mode: str, levels: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    """In the modern era it goes with every request instead."""
    asked: list[str] = []
    seen: list[list[str]] = []

    async def configure(session: Session) -> None:
        seen.append(list(asked))

    server = InProcessServer(logging_server(asked, agrees), mode=mode, log_level="info", configure=configure)
    async with watched_pool({"s": server}) as pool:
        for _ in range(2):
            assert text(await pool.call_tool("s", "any")) == ",".join(levels)
        await pool.call_tool("s", "any", scope="other")
    assert asked == levels * 2
    assert seen == [levels, levels * 2]


@pytest.mark.parametrize("answer", [refuses, trio.sleep_forever])
async def test_a_server_that_takes_no_log_level_is_used_all_the_same(
    answer: Callable[[], Any], caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[str] = []
    server = InProcessServer(logging_server(asked, answer), mode="legacy", log_level="info")
    async with watched_pool({"s": server}) as pool:
        assert text(await pool.call_tool("s", "any")) == "info"
        assert trio.current_time() == (0 if answer is refuses else 5)
    assert "log level 'info'" in caplog.text


async def test_R9_a_drain_ends_the_wait_for_a_server_that_is_asked_for_its_log_level(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = InProcessServer(logging_server([], trio.sleep_forever), mode="legacy", log_level="info")
    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.wait_ready, "s")
        await settle()
        with trio.fail_after(1):
            await pool.drain("s")
        nursery.cancel_scope.cancel()


async def test_a_session_that_must_not_be_asked_is_not(autojump_clock: trio.testing.MockClock) -> None:
    """No level is wanted, or the server has no such capability."""
    mute = Server("mute", on_call_tool=lambda *_: None)  # type: ignore[arg-type, return-value]
    servers = {
        "mute": InProcessServer(mute, mode="legacy", log_level="info"),
        "s": InProcessServer(inside(), mode="legacy"),
    }
    async with watched_pool(servers) as pool:
        await pool.wait_ready("mute")
        await pool.wait_ready("s")
    assert trio.current_time() == 0


async def test_a_session_that_dies_while_it_is_configured_is_the_cause_of_the_failed_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()

    async def configure(session: Session) -> None:
        await session.call_tool("echo", {"text": "x"})
        server.kill()
        await trio.sleep(1)
        await session.call_tool("echo", {"text": "x"})

    server.configure = configure
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert caught.value.phase == "setup"
        assert isinstance(caught.value.__cause__, SessionLostError)
