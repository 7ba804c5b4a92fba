"""R5: as few dials as their number needs, none that belongs to a caller, and failures that are told at once."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server import MCPServer, Server

from trio_mcp_pool import (
    AuthenticationError,
    Backoff,
    ConnectError,
    CustomServer,
    DialFailed,
    PoolPolicy,
    ServerUnavailableError,
    Session,
    SessionClosed,
    SessionOpened,
)
from trio_mcp_pool.testing import ScriptedServer, error, hold, never, ok, slow

from .books import Ledger, check_books, settle, watched_pool

EXACT = Backoff(first=1, factor=2, cap=60, jitter=0)


class Callers:
    """Tasks that call once each, and what each got and when."""

    def __init__(self, pool: Any, nursery: trio.Nursery, server: str = "s", **where: Any) -> None:
        self.pool, self.nursery, self.server, self.where = pool, nursery, server, where
        self.got: dict[int, tuple[float, Any]] = {}
        self.scopes: dict[int, trio.CancelScope] = {}

    async def start(self, count: int) -> None:
        for number in range(len(self.scopes), len(self.scopes) + count):
            self.scopes[number] = trio.CancelScope()
            self.nursery.start_soon(self._call, number)
            await settle()  # they come in order

    async def _call(self, number: int) -> None:
        with self.scopes[number]:
            try:
                await self.pool.call_tool(self.server, "echo", {"text": "x"}, **self.where)
                got: Any = "ok"
            except ConnectError as why:
                got = type(why)
            self.got[number] = (trio.current_time(), got)


@pytest.mark.parametrize(("in_flight", "dials"), [(100, 1), (64, 2), (30, 4), (10, 5)])
async def test_R5_a_hundred_first_callers_share_as_few_dials_as_they_need(
    in_flight: int, dials: int, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"handshake": slow(2)})
    policy = PoolPolicy(max_in_flight=in_flight, max_sessions=5)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(100)
        assert check_books(pool).sessions_connecting == dials
    assert callers.got == dict.fromkeys(range(100), (2, "ok"))
    assert len(server.connections) == dials


@pytest.mark.parametrize("stage", ["spawn", "handshake"])
@pytest.mark.parametrize("victims", [{0}, {4}, {0, 1, 2}, {2, 7}, set(range(9))])
@pytest.mark.parametrize("moment", ["at once", "half way", "same tick as the end"])
async def test_R5_cancelling_any_caller_at_any_point_of_the_dial_changes_nothing_for_the_rest(
    stage: str, victims: set[int], moment: str, autojump_clock: trio.testing.MockClock
) -> None:
    door = hold()
    server = ScriptedServer(gates={stage: door})
    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(10)
        if moment == "half way":
            await trio.sleep(1)
        if moment == "same tick as the end":
            door.open()
        for victim in victims:
            callers.scopes[victim].cancel()
        await settle()
        check_books(pool)
        door.open()
    now = trio.current_time()
    assert callers.got == {number: (now, "ok") for number in range(10) if number not in victims}
    assert len(server.connections) == 1


async def test_R5_the_dial_goes_on_when_all_its_callers_have_left(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(5)})
    async with watched_pool({"s": server}) as pool:
        for _ in range(4):  # impatient callers, none of whom could ever wait for a whole dial
            with trio.move_on_after(1):
                await pool.call_tool("s", "echo", {"text": "x"})
        assert check_books(pool).acquires_cancelled == 4
        await pool.call_tool("s", "echo", {"text": "x"})
        assert trio.current_time() == 5
    assert len(server.connections) == 1


@pytest.mark.parametrize("close", [ok, slow(7), slow(7, shielded=True), never])
@pytest.mark.parametrize("stage", ["spawn", "handshake"])
async def test_R5_a_failure_is_told_at_the_moment_of_the_deadline_however_long_cleaning_up_takes(
    stage: str, close: Any, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={stage: never, "close": close})
    policy = PoolPolicy(connect_timeout=3, close_timeout=8, backoff=EXACT)
    ledger = Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with trio.open_nursery() as nursery:
            callers = Callers(pool, nursery)
            await callers.start(3)
        assert callers.got == dict.fromkeys(range(3), (3, ConnectError))
        assert check_books(pool).connects_failed <= 1
        with pytest.raises(ServerUnavailableError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert caught.value.retry_after == 1
        assert caught.value.phase == stage
    (failed,) = [e for e in ledger.events if isinstance(e, DialFailed)]
    assert (failed.at, failed.seconds, failed.error.phase) == (3, 3, stage)
    assert isinstance(failed.error.__cause__, TimeoutError)


class Times(logging.Handler):
    """When warnings come, on Trio's clock."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((trio.current_time(), record.getMessage()))


@pytest.mark.parametrize(("connect_timeout", "at"), [(30, 10), (600, 60), (math.inf, 60)])
async def test_a_dial_that_takes_long_is_warned_of_once_and_one_that_does_not_is_not(
    connect_timeout: float, at: float, autojump_clock: trio.testing.MockClock
) -> None:
    async def configure(session: Session) -> None:
        await trio.sleep(2)  # this is the program's own time

    times = Times()
    logger = logging.getLogger("trio_mcp_pool")
    logger.addHandler(times)
    try:
        servers = {
            "quick": ScriptedServer(gates={"spawn": slow(at - 1)}, configure=configure),
            "slow": ScriptedServer(gates={"handshake": slow(at + 1)}),
        }
        async with watched_pool(servers, policy=PoolPolicy(connect_timeout=connect_timeout)) as pool:
            await pool.wait_ready()
    finally:
        logger.removeHandler(times)
    assert times.seen == [
        (
            at,
            f"server 'slow' has given no session for {at} s, in phase 'handshake'; connect_timeout is {connect_timeout:g} s",
        )
    ]


async def test_R5_failing_fast_until_the_backoff_ends_and_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": error(ConnectionRefusedError)})
    policy = PoolPolicy(backoff=EXACT)
    outcomes = []
    async with watched_pool({"s": server}, policy=policy) as pool:
        for at in (0, 0.5, 0.999, 1, 1, 2.999, 3, 6.999, 7):
            await trio.sleep_until(at)
            with pytest.raises(ConnectError) as caught:
                await pool.call_tool("s", "echo", {"text": "x"})
            why = caught.value
            outcomes.append((trio.current_time(), type(why).__name__, why.attempt, round(why.retry_after, 6)))
            assert isinstance(why.__cause__, ConnectionRefusedError)
    assert outcomes == [
        (0, "ConnectError", 1, 1),
        (0.5, "ServerUnavailableError", 1, 0.5),
        (0.999, "ServerUnavailableError", 1, 0.001),
        (1, "ConnectError", 2, 2),
        (1, "ServerUnavailableError", 2, 2),
        (2.999, "ServerUnavailableError", 2, 0.001),
        (3, "ConnectError", 3, 4),
        (6.999, "ServerUnavailableError", 3, 0.001),
        (7, "ConnectError", 4, 8),
    ]
    assert [c.dialled_at for c in server.connections] == [0, 1, 3, 7]


async def test_R5_with_another_session_ready_nobody_is_told_of_a_failed_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [ok, error(OSError)]})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, backoff=EXACT)
    async with watched_pool({"s": server}, policy=policy) as pool:
        session = await pool.acquire("s")
        async with trio.open_nursery() as nursery:
            callers = Callers(pool, nursery)
            await callers.start(1)
            assert len(server.connections) == 2
            assert callers.got == {}
            await trio.sleep(0.5)
            session.release()
        assert callers.got == {0: (0.5, "ok")}


async def test_R5_with_another_dial_under_way_nobody_is_told_of_a_failed_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [slow(1), slow(4)], "handshake": [error(OSError)]})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, backoff=Backoff(first=10))
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(2)
    assert callers.got == {0: (4, "ok"), 1: (4, "ok")}


async def test_R5_when_the_last_of_several_dials_fails_all_are_told(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": [slow(1), slow(2)], "handshake": error(OSError)})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(3)
    assert callers.got == dict.fromkeys(range(3), (2, ConnectError))


async def test_R5_when_the_only_session_dies_during_the_backoff_its_waiters_are_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """They were not told of the failed dial, because the session might have served them."""
    server = ScriptedServer(gates={"spawn": [ok, error(OSError)]})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, backoff=Backoff(first=10, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool:
        session = await pool.acquire("s")
        await session.list_tools()
        async with trio.open_nursery() as nursery:
            callers = Callers(pool, nursery)
            await callers.start(2)
            await trio.sleep(1)
            server.kill()
        assert callers.got == dict.fromkeys(range(2), (1, ServerUnavailableError))


async def test_R5_freed_capacity_always_wakes_somebody(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever frees the only place: a release, a death, a failed close, a drain, an old session's retirement."""
    server = ScriptedServer()
    policy = PoolPolicy(max_in_flight=1, drain_timeout=1, close_timeout=1, max_lifetime=1000)
    served: list[float] = []
    async with watched_pool({"s": server}, policy=policy) as pool:
        for number, free in enumerate(
            [
                lambda session: session.release(),
                lambda session: server.kill(),
                lambda session: nursery.start_soon(pool.drain, "s"),
                lambda session: server.gates.__setitem__("close", [error(OSError)]) or server.kill(),
                lambda session: server.gates.__setitem__("close", [never]) or server.kill(),
            ]
        ):
            session = await pool.acquire("s")
            began = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def wait(began: float = began) -> None:
                    async with pool.session("s") as mine:
                        await mine.list_tools()
                        served.append(trio.current_time() - began)

                nursery.start_soon(wait)
                await settle()
                free(session)
            assert len(served) == number + 1
            session.release()
    assert served == [0, 0, 1, 0, 1]


async def test_R5_a_dial_aborted_by_a_drain_is_made_again_for_its_waiters(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [never, slow(1)], "close": [slow(2, shielded=True)]})
    ledger = Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(3)
        await trio.sleep(5)
        await pool.drain("s")
        assert check_books(pool).closed_drained == 1
    assert callers.got == dict.fromkeys(range(3), (8, "ok"))  # after two seconds of closing (R9), and one of dialling
    assert ledger.story(DialFailed, SessionOpened, SessionClosed)[0][-1] == "drained"
    assert server.peak_open == 1


async def test_R5_a_server_with_wait_keeps_its_callers_until_the_next_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError), error(OSError)]})
    policy = PoolPolicy(backoff=EXACT, when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        callers = Callers(pool, nursery)
        await callers.start(2)
        await trio.sleep(0.5)
        await callers.start(1)
    assert callers.got == dict.fromkeys(range(3), (3, "ok"))
    assert [c.dialled_at for c in server.connections] == [0, 1, 3]


async def test_R9_a_failed_dial_that_is_no_successors_counts_although_a_predecessor_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else the lane would dial for `min_sessions` again at once, and again."""
    server = ScriptedServer()
    policy = PoolPolicy(min_sessions=2, max_sessions=2, max_in_flight=1, drain_timeout=100, backoff=EXACT)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        async with pool.session("s") as session:
            await session.list_tools()
            await settle()
            server.gates["spawn"] = error(OSError)
            nursery.start_soon(pool.drain, "s")
            await trio.sleep(8)
        nursery.cancel_scope.cancel()
    # Two sessions; then a successor, whose failure counts against nobody and ends the old session that is idle; then those
    # for the second of `min_sessions`.
    assert [c.dialled_at for c in server.connections] == [0, 0, 0, *(0, 1, 3, 7)]


async def test_R5_after_a_backoff_each_scope_dials_for_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError), slow(1), slow(1), slow(1)]})
    policy = PoolPolicy(backoff=EXACT)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        with pytest.raises(ConnectError):
            await pool.wait_ready("s")
        with pytest.raises(ServerUnavailableError):
            await pool.call_tool("s", "echo", {"text": "x"}, scope="a")
        await trio.sleep(1)
        lanes = [Callers(pool, nursery, scope=key) for key in "abc"]
        for lane in lanes:
            await lane.start(1)
        assert server.open_connections == 3
    assert [lane.got for lane in lanes] == [{0: (2, "ok")}] * 3
    assert len(server.connections) == 4


async def test_R5_a_custom_factory_that_fails_is_told_with_its_own_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def factory() -> Any:
        raise LookupError("no such shop")

    async with watched_pool({"s": CustomServer(factory)}) as pool:
        with pytest.raises(ConnectError, match="no such shop") as caught:
            await pool.wait_ready()
        assert isinstance(caught.value.__cause__, LookupError)
        assert (caught.value.server, caught.value.phase) == ("s", "connect")


async def test_wait_ready_raises_the_first_ConnectError_bare_and_the_other_dials_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bad = ScriptedServer(gates={"spawn": [slow(1)], "handshake": error(OSError)})
    servers = {"good": ScriptedServer(), "slow": ScriptedServer(gates={"spawn": slow(5)}), "bad": bad}
    async with watched_pool(servers) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.wait_ready()
        assert (caught.value.server, trio.current_time()) == ("bad", 1)
        await pool.wait_ready("good", "slow")
        assert trio.current_time() == 5
        assert len(servers["slow"].connections) == 1
        assert check_books(pool).leases_in_flight == 0


async def test_wait_ready_returns_when_the_session_lives_although_others_hold_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": slow(1)})
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool, trio.open_nursery() as nursery:

        async def hog() -> None:
            async with pool.session("s"):
                await trio.sleep(100)

        nursery.start_soon(hog)
        await settle()
        await pool.wait_ready("s")
        assert trio.current_time() == 1
        nursery.cancel_scope.cancel()


async def test_R5_a_failed_handshake_is_told_before_its_clean_up_which_close_timeout_bounds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": error(OSError("no")), "close": slow(50)})
    async with watched_pool({"s": server}, policy=PoolPolicy(close_timeout=5)) as pool:
        began = trio.current_time()
        with pytest.raises(ConnectError):
            await pool.call_tool("s", "echo", {"text": "x"})
        assert trio.current_time() == began
        assert pool.statistics().sessions_closing == 1
        await trio.sleep(4.9)
        assert pool.statistics().sessions_closing == 1
        await trio.sleep(0.2)
        assert pool.statistics().size == 0


async def test_a_connect_error_out_of_a_dial_keeps_its_kind_and_learns_whose_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    what = AuthenticationError("the key has expired", server="elsewhere")

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        await trio.lowlevel.checkpoint()
        raise what
        yield

    async with watched_pool({"s": CustomServer(connect)}) as pool:
        with pytest.raises(AuthenticationError, match="the key has expired") as caught:
            await pool.call_tool("s", "x")
        assert caught.value is not what
        assert (caught.value.server, caught.value.phase) == ("s", "connect")


async def test_R13_a_trusted_server_without_tools_is_not_asked_for_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listed: list[str] = []

    class Watched(mcp.Client):
        async def list_tools(self, **_: Any) -> types.ListToolsResult:  # type: ignore[override]
            listed.append("listed")
            return types.ListToolsResult(tools=[])

    async def list_resources(context: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[])

    def connect(server: Any) -> CustomServer:
        return CustomServer(lambda: Watched(server), trusted=True)

    without = connect(Server("without", on_list_resources=list_resources))
    async with watched_pool({"without": without, "with": connect(MCPServer("with"))}) as pool:
        await pool.wait_ready("without")
        await trio.sleep(1)
        assert listed == []
        await pool.wait_ready("with")
        await trio.sleep(1)
        assert listed == ["listed"]


async def test_R14_an_interrupt_while_the_tools_are_listed_comes_out_bare(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Interrupted(mcp.Client):
        async def list_tools(self, **_: Any) -> types.ListToolsResult:  # type: ignore[override]
            await trio.sleep(1)
            raise KeyboardInterrupt

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with Interrupted(MCPServer("s")) as client:
            yield client

    with pytest.raises(KeyboardInterrupt):
        async with watched_pool({"s": CustomServer(connect, trusted=True)}) as pool:
            await pool.wait_ready("s")
            await trio.sleep(10)
