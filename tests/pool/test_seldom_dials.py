"""What seldom happens to dials, and to those who wait for them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    CustomServer,
    DialFailed,
    Event,
    PoolPolicy,
    ServerUnavailableError,
    SessionClosed,
    SessionOpened,
    UnknownServerError,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

from .books import Ledger, check_books, settle, watched_pool


async def test_events_say_how_long_a_dial_took_and_not_how_long_it_waited_for_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    servers = {name: ScriptedServer(gates={"handshake": slow(3)}) for name in "ab"}
    servers["c"] = ScriptedServer(gates={"handshake": never}, policy=PoolPolicy(connect_timeout=2))
    async with watched_pool(servers, ledger=ledger, max_connecting=1) as pool, trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(pool.wait_ready, name)
        await trio.sleep(1)
        with pytest.raises(ConnectError):
            await pool.wait_ready("c")
    assert [e.seconds for e in ledger.events if isinstance(e, SessionOpened)] == [3, 3]
    assert [e.seconds for e in ledger.events if isinstance(e, DialFailed)] == [2]


async def test_R3_who_is_cancelled_already_starts_no_dial(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        for wait in (pool.wait_ready, pool.acquire, pool.list_tools):
            with trio.CancelScope() as scope:
                scope.cancel()
                await wait("s")
            assert scope.cancelled_caught
        await settle()
        assert pool.statistics().connects == 0


async def test_R10_a_lane_of_which_nothing_is_wanted_any_more_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError("no"))})
    async with watched_pool({"s": server}, policy=PoolPolicy(when_unavailable="wait")) as pool:
        before = pool.statistics().max_sessions
        with trio.move_on_after(0.1) as scope:
            await pool.list_tools("s", scope="x")
        assert scope.cancelled_caught
        await settle()
        assert check_books(pool).max_sessions == before


async def test_who_waits_until_a_server_is_ready_is_told_that_it_was_removed_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({}) as pool:

        async def wait(name: str) -> None:
            with pytest.raises(UnknownServerError):
                await pool.wait_ready(name)

        for number in range(12):  # which of the two tasks runs first is left to chance
            pool.add_server(name := f"s{number}", ScriptedServer(gates={"handshake": slow(5)}))
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait, name)
                    nursery.start_soon(pool.remove_server, name)


async def test_to_wait_until_a_server_is_ready_dials_one_session(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(1)})
    async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=4)) as pool, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pool.wait_ready, "s")
        await trio.sleep(5)
        assert len(server.connections) == 1


async def test_R5_a_queued_dial_keeps_its_turn_however_many_callers_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = ScriptedServer(gates={"handshake": slow(5), "call": slow(100)}), Ledger()
    policy = PoolPolicy(max_in_flight=1, max_sessions=3)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger, max_connecting=1) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.call_tool, "s", "echo", {"text": "x"})
                await trio.sleep(1)
    assert ledger.story(DialFailed) == []


async def test_R5b_a_server_whose_dial_had_a_lent_place_is_lent_it_again_for_its_next_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    well = ScriptedServer(gates={"call": slow(100)})
    servers = {"mute": ScriptedServer(gates={"handshake": never}), "well": well}
    policy = PoolPolicy(max_in_flight=1, max_sessions=3, connect_timeout=60)
    async with watched_pool(servers, policy=policy, max_connecting=1) as pool, trio.open_nursery() as nursery:

        async def mute() -> None:
            with pytest.raises(ConnectError):
                await pool.wait_ready("mute")

        await pool.wait_ready("well")
        nursery.start_soon(mute)
        await settle()
        for _ in range(3):
            nursery.start_soon(pool.call_tool, "well", "echo", {"text": "x"})
        await trio.sleep(10)
        assert [connection.state for connection in well.connections] == ["open"] * 3


async def test_R10b_where_places_are_few_callers_get_theirs_in_the_order_in_which_they_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    servers = {name: ScriptedServer(gates={"handshake": slow(0.5), "call": slow(100)}) for name in "ab"}
    policy = PoolPolicy(max_in_flight=1, max_sessions=3)
    async with (
        open_pool(servers, policy=policy, max_connecting=1, max_sessions_total=9, observers=[ledger]) as pool,
        trio.open_nursery() as nursery,
    ):
        for name in "aaab":
            nursery.start_soon(pool.call_tool, name, "echo", {"text": "x"})
            await settle()
    assert [e.server for e in ledger.events if isinstance(e, SessionOpened)] == ["a", "a", "a", "b"]


async def test_R5_a_dial_that_is_withdrawn_while_it_is_queued_took_no_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    backoff = Backoff(first=1, factor=1, jitter=0)
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, connect_timeout=2, backoff=backoff)
    server = ScriptedServer(gates={"handshake": never})
    async with watched_pool({"s": server}, policy=policy, ledger=ledger, max_connecting=1) as pool:

        async def caller() -> None:
            with pytest.raises((ConnectError, ServerUnavailableError)):
                await pool.call_tool("s", "echo", {"text": "x"})

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(caller)
            await trio.sleep(5)
    assert [e.seconds for e in ledger.events if isinstance(e, DialFailed)] == [2, 0, 2, 0]


async def test_R5_a_session_that_proves_its_server_ends_the_backoff_for_those_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [ok, error(OSError("no")), ok], "call": [slow(3), ok]})
    policy = PoolPolicy(
        max_in_flight=1,
        max_sessions=2,
        backoff=Backoff(first=60, cap=60),
        when_unavailable="wait",
        acquire_timeout=1000,
    )
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def first() -> None:
            async with pool.session("s") as session:
                await session.call_tool("echo", {"text": "x"})
                await trio.sleep(1000)

        async def second() -> None:
            await pool.call_tool("s", "echo", {"text": "x"})
            assert trio.current_time() == 3
            nursery.cancel_scope.cancel()

        nursery.start_soon(first)
        await trio.sleep(1)
        nursery.start_soon(second)


async def test_R5_a_session_that_nobody_calls_proves_its_server_to_scopes_that_wait_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [ok, error(OSError("no")), ok]})
    policy = PoolPolicy(
        min_sessions=1, backoff=Backoff(first=30, cap=30, jitter=0), when_unavailable="wait", acquire_timeout=1000
    )
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(20)
        await pool.list_tools("s", scope="a")
        assert trio.current_time() == 30  # and not 50, when the backoff would have ended


async def test_R5_a_session_that_nobody_calls_proves_its_server_once_and_not_at_every_look(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"handshake": [ok, *[error(OSError("no"))] * 20]})
    policy = PoolPolicy(
        min_sessions=2, max_sessions=2, probe_interval=3, backoff=Backoff(first=10, factor=2, cap=40, jitter=0)
    )
    async with watched_pool({"s": server}, policy=policy, ledger=ledger):
        await trio.sleep(120)
    failed = [e for e in ledger.events if isinstance(e, DialFailed)]
    assert [(e.at, e.error.attempt) for e in failed] == [(0, 1), (10, 2), (30, 3), (40, 1), (50, 2), (70, 3), (110, 4)]


async def test_R9_when_a_successor_is_given_up_the_next_dial_does_not_wait_until_it_has_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gates = {"handshake": [ok, slow(1000), ok], "close": [ok, slow(10, shielded=True), ok]}
    server = ScriptedServer(gates=gates)
    policy = PoolPolicy(min_sessions=1, max_sessions=2, drain_timeout=5)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        await pool.wait_ready("s")
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(1)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(9)
        assert [each.opened_at for each in server.connections] == [0, None, 6]


async def test_R11_the_next_dial_does_not_wait_until_a_dead_session_has_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"close": slow(10)})
    async with watched_pool({"s": server}, policy=PoolPolicy(min_sessions=1, max_sessions=2)) as pool:
        await pool.list_tools("s")
        server.kill()
        await trio.sleep(1)
        stats = pool.statistics()
        assert (stats.sessions_idle, stats.sessions_closing) == (1, 1)


async def test_R5_a_dial_that_took_too_long_is_given_up_at_that_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    policy = PoolPolicy(connect_timeout=10, close_timeout=5, when_unavailable="fail")
    async with watched_pool({"s": ScriptedServer(gates={"spawn": never})}, policy=policy, ledger=ledger) as pool:
        with pytest.raises(ConnectError):
            await pool.call_tool("s", "echo", {"text": "x"})
        await settle()
        assert ledger.story(SessionClosed) == [(10, "SessionClosed", 1, "failed")]
        assert [e.age for e in ledger.events if isinstance(e, SessionClosed)] == [0]


async def test_R5_an_error_that_fails_fast_has_the_cause_of_the_last_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cause = FileNotFoundError("no-such-command")
    async with watched_pool(
        {"s": ScriptedServer(gates={"spawn": error(cause)})}, policy=PoolPolicy(when_unavailable="fail")
    ) as pool:
        with pytest.raises(ConnectError) as first:
            await pool.call_tool("s", "echo", {"text": "x"})
        with pytest.raises(ServerUnavailableError) as second:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert first.value.__cause__ is cause
        assert second.value.__cause__ is cause
        last = pool.statistics().servers["s"].last_error
        assert last is not None
        assert last.__cause__ is cause


async def test_R5_what_will_not_pass_is_dialled_again_after_the_longest_backoff_however_slowly_that_grows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": error(FileNotFoundError("no-such-command"))})
    policy = PoolPolicy(when_unavailable="fail", backoff=Backoff(first=0.5, factor=1, cap=60, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert caught.value.retry_after == 60


async def test_R5_what_failed_after_the_backoff_of_its_outage_may_be_dialled_again_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failed: list[DialFailed] = []

    class Observer(Ledger):
        def event(self, e: Event, /) -> None:
            super().event(e)
            if isinstance(e, DialFailed):
                failed.append(e)

    delays = [1.0, 2.0]

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        await trio.sleep(delays.pop(0) if delays else math.inf)
        raise OSError("no")
        yield

    policy = PoolPolicy(min_sessions=2, max_sessions=2, backoff=Backoff(first=0.5, jitter=0))
    async with watched_pool({"s": CustomServer(connect)}, policy=policy, ledger=Observer()):
        await trio.sleep(2.25)
        assert [(e.at, e.error.attempt, e.error.retry_after) for e in failed] == [(1, 1, 0.5), (2, 1, 0)]


async def test_R5_the_next_dial_does_not_wait_until_the_one_that_failed_has_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [error(OSError("no")), ok], "close": [slow(10), ok]})
    backoff = Backoff(first=0.5, jitter=0)
    policy = PoolPolicy(min_sessions=1, max_sessions=2, backoff=backoff, close_timeout=20)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(1)
        stats = pool.statistics()
        assert (stats.sessions_idle, stats.sessions_closing) == (1, 1)


async def test_R5_a_failure_that_does_not_count_any_more_is_shown_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dials: list[int] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        dials.append(len(dials))
        if len(dials) == 2:
            await trio.sleep(5)
            raise OSError("too late to count")
        async with mcp.Client(MCPServer("s")) as client:
            yield client

    policy = PoolPolicy(min_sessions=2, max_sessions=2)
    async with watched_pool({"s": CustomServer(connect)}, policy=policy) as pool:
        await pool.list_tools("s")
        await trio.sleep(4)
        assert pool.statistics().servers["s"].last_error is None
        await trio.sleep(2)
        server = pool.statistics().servers["s"]
        assert (server.state, server.sessions_idle, len(dials)) == ("ready", 2, 3)
        assert "too late to count" in str(server.last_error)


async def test_R9_a_drain_bounds_a_dial_whose_task_has_not_begun(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        for _ in range(12):  # which of the two tasks runs first is left to chance
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.call_tool, "s", "echo", {"text": "x"})
                nursery.start_soon(pool.drain, "s")
            await pool.drain("s")


# The tools of a trusted server.


def trusted_client(list_tools: Callable[[], Awaitable[types.ListToolsResult]]) -> CustomServer:
    class Listed(mcp.Client):
        async def list_tools(self, **_: Any) -> types.ListToolsResult:  # type: ignore[override]
            return await list_tools()

    return CustomServer(lambda: Listed(MCPServer("s")), trusted=True)


async def test_R13_a_listing_of_tools_that_never_ends_is_cut_with_its_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began: list[float] = []

    async def list_tools() -> types.ListToolsResult:
        began.append(trio.current_time())
        await trio.sleep_forever()
        raise AssertionError

    async with watched_pool({"s": trusted_client(list_tools)}) as pool:
        await pool.wait_ready("s")
        await settle()
        assert began == [0]
    assert trio.current_time() == 0


async def test_R13_of_a_listing_that_has_no_last_page_a_hundred_are_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pages: list[int] = []

    async def list_tools() -> types.ListToolsResult:
        pages.append(len(pages))
        return types.ListToolsResult(tools=[], next_cursor="more")

    async with watched_pool({"s": trusted_client(list_tools)}) as pool:
        await pool.wait_ready("s")
        await settle()
        assert len(pages) == 100


async def test_R13_a_listing_that_raises_costs_nobody_anything_and_is_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def list_tools() -> types.ListToolsResult:
        raise LookupError("hunter2")

    caplog.set_level("INFO", "trio_mcp_pool")
    async with watched_pool({"s": trusted_client(list_tools)}) as pool:
        await pool.wait_ready("s")
        await settle()
        assert pool.statistics().sessions_lost == 0
    assert [record.message for record in caplog.records] == ["server 's': listing its tools raised LookupError"]
