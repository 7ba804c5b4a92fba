"""Drain, add, remove and reconfigure while calls run, and what an observer sees; R8 and R9 on the way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Event,
    OutcomeUnknownError,
    PoolPolicy,
    SessionClosed,
    SessionOpened,
    StdioServer,
    UnknownServerError,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, slow

from .books import Ledger, check_books, settle, text, watched_pool


async def pause(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


async def test_drain_replaces_every_connection_and_drops_no_call(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer({"pause": pause}), Ledger()
    policy = PoolPolicy(max_sessions=2, max_in_flight=1, drain_timeout=30)
    done: list[tuple[float, str]] = []
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:

        async def call(seconds: float) -> None:
            result = text(await pool.call_tool("s", "pause", {"seconds": seconds}))
            done.append((trio.current_time(), result))

        nursery.start_soon(call, 5)
        await settle()
        (await pool.acquire("s")).release()  # a second one, idle
        await pool.drain("s")
        assert trio.current_time() == 5
        nursery.start_soon(call, 1)
    assert sorted(done) == [(5, "done"), (6, "done")]
    *story, a, b = ledger.story(SessionOpened, SessionClosed)
    assert [*story, *sorted((a, b))] == [
        (0, "SessionOpened", 1),
        (0, "SessionOpened", 2),
        # Both were used within the last second, so each gets its successor beside it, one at a time (`max_overlap=1`).
        (0, "SessionOpened", 3),
        (0, "SessionClosed", 2, "drained"),
        (0, "SessionOpened", 4),
        (5, "SessionClosed", 1, "drained"),
        (6, "SessionClosed", 3, "shutdown"),
        (6, "SessionClosed", 4, "shutdown"),
    ]


async def test_drain_cuts_what_outlasts_drain_timeout(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"pause": pause}, gates={"close": slow(2)})
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=4)) as pool:

        async def call() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 100})
            assert trio.current_time() == 4

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await settle()
            await pool.drain("s")
        assert (trio.current_time(), check_books(pool).closed_drained) == (6, 1)


async def test_a_cancelled_drain_goes_on_without_its_caller(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(5)})
    async with watched_pool({"s": server}) as pool:
        await pool.wait_ready()
        with trio.move_on_after(1) as scope:
            await pool.drain("s")
        assert scope.cancelled_caught
        await pool.wait_ready()
        assert trio.current_time() == 5
        assert check_books(pool).closed_drained == 1


async def test_draining_twice_keeps_the_earlier_deadline(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=10)) as pool, trio.open_nursery() as nursery:
        session = await pool.acquire("s")
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(4)
        await pool.drain("s")
        assert trio.current_time() == 10
        session.release()


async def test_drain_forgets_the_backoff(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": [error(FileNotFoundError)]})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(Exception, match="FileNotFoundError"):
            await pool.wait_ready()
        with pytest.raises(Exception, match="is in backoff for another"):
            await pool.wait_ready()
        await pool.drain("s")
        await pool.wait_ready()
        assert trio.current_time() == 0


async def test_remove_server_refuses_at_once_tells_waiters_and_lets_leases_finish(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause})
    record: list[tuple[float, str]] = []
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1), limits=False) as pool:

        async def call(seconds: float) -> None:
            try:
                await pool.call_tool("s", "pause", {"seconds": seconds})
                record.append((trio.current_time(), "ok"))
            except UnknownServerError as why:
                record.append((trio.current_time(), str(why)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 5)
            await settle()
            nursery.start_soon(call, 5)
            await trio.sleep(1)
            nursery.start_soon(pool.remove_server, "s")
            await settle()
            with pytest.raises(UnknownServerError):
                await pool.acquire("s")
        assert record == [(1, "server 's' was removed from the pool"), (5, "ok")]
        stats = check_books(pool)
        assert (stats.closed_drained, stats.max_sessions, stats.servers["s"].acquires) == (1, 0, 1)
        pool.add_server("s", ScriptedServer())  # the name is free, its counters go on
        await pool.wait_ready("s")
        assert check_books(pool).servers["s"].connects == 2


async def test_R10_the_peaks_of_a_name_are_those_of_all_servers_that_had_it_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_sessions=2, max_in_flight=1)
    async with (
        watched_pool({"s": ScriptedServer()}, policy=policy, limits=False) as pool,
        trio.open_nursery() as nursery,
    ):
        old = await pool.acquire("s")
        nursery.start_soon(pool.remove_server, "s")
        await settle()
        pool.add_server("s", ScriptedServer())
        new = await pool.acquire("s")
        stats = check_books(pool).servers["s"]
        assert (stats.sessions_in_use, stats.peak_in_use) == (2, 2)
        old.release()
        new.release()
        await settle()
        stats = check_books(pool).servers["s"]
        assert (stats.sessions_in_use, stats.peak_in_use) == (0, 2)


async def test_reconfigure_touches_only_what_differs(autojump_clock: trio.testing.MockClock) -> None:
    same, old, gone, new = (ScriptedServer({"pause": pause}) for _ in range(4))
    done: list[float] = []
    async with watched_pool({"same": same, "changed": old, "gone": gone}, limits=False) as pool:
        await pool.wait_ready()

        async def call(name: str) -> None:
            await pool.call_tool(name, "pause", {"seconds": 5})
            done.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for name in ("same", "changed", "gone"):
                nursery.start_soon(call, name)
            await trio.sleep(1)
            nursery.start_soon(pool.reconfigure, {"same": same, "changed": new, "fresh": ScriptedServer()})
            await settle()
            with pytest.raises(UnknownServerError):
                await pool.acquire("gone")
            await pool.wait_ready("fresh")
        await pool.wait_ready("changed")
        assert done == [5, 5, 5]
        assert [len(s.connections) for s in (same, old, gone, new)] == [1, 1, 1, 1]
        assert [s.open_connections for s in (same, old, gone, new)] == [1, 0, 0, 1]


async def test_R9_a_dial_that_waits_for_its_turn_is_one_of_the_server_as_it_is_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow_one = ScriptedServer(gates={"spawn": slow(5)})
    before, after = ScriptedServer(), ScriptedServer()
    async with watched_pool({"slow": slow_one, "s": before}, max_connecting=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.wait_ready, "slow")
        await settle()
        nursery.start_soon(pool.call_tool, "s", "echo", {"text": "x"})
        await settle()
        await pool.reconfigure({"slow": slow_one, "s": after})
    assert (before.connections, [call.tool for call in after.calls]) == ([], ["echo"])


async def test_reconfigure_goes_by_equality_and_not_by_identity() -> None:
    server = StdioServer("no-such-command", ["a"], env={"A": "b"})
    assert replace(server) == server
    assert StdioServer("no-such-command", ("a",), env={"A": "b"}) == server
    assert StdioServer("no-such-command", ("a",), env={"A": "c"}) != server
    assert StdioServer("no-such-command", ("a",), env={"A": "b"}, policy=PoolPolicy()) != server


async def test_a_reconfiguration_that_is_wrong_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        await pool.wait_ready()
        with pytest.raises(TypeError):
            await pool.reconfigure({"t": ScriptedServer(), "u": 3})  # type: ignore[dict-item]
        assert list(pool.statistics().servers) == ["s"]
        await pool.call_tool("s", "echo", {"text": "x"})
        assert len(server.connections) == 1


async def test_reconfigure_brings_a_new_policy_into_force(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}, limits=False) as pool:
        await pool.wait_ready()
        await pool.reconfigure({"s": ScriptedServer(policy=PoolPolicy(min_sessions=2, max_sessions=3))})
        await settle()
        stats = check_books(pool)
        assert (stats.max_sessions, stats.sessions_idle) == (3, 2)


async def test_R9_a_replacement_waits_for_the_old_one_to_be_gone(autojump_clock: trio.testing.MockClock) -> None:
    old = ScriptedServer(gates={"close": slow(3)})
    new = ScriptedServer()
    async with watched_pool({"s": old}) as pool, trio.open_nursery() as nursery:
        await pool.wait_ready()
        nursery.start_soon(pool.reconfigure, {"s": new})
        await settle()
        await pool.call_tool("s", "echo", {"text": "x"})
    assert old.connections[0].closed_at == 3
    assert new.connections[0].dialled_at == 3


async def test_R8_evicting_an_idle_session_leaves_its_younger_sibling_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = ScriptedServer(), Ledger()
    policy = PoolPolicy(max_sessions=2, max_in_flight=1, idle_timeout=10)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        first = await pool.acquire("s")
        second = await pool.acquire("s")
        first.release()
        await trio.sleep(6)
        second.release()
        await trio.sleep(100)
    assert ledger.story(SessionClosed) == [(10, "SessionClosed", 1, "idle"), (16, "SessionClosed", 2, "idle")]


async def test_R11_no_resource_of_one_session_is_touched_by_the_death_of_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause})
    policy = PoolPolicy(max_sessions=3, max_in_flight=1)
    ends: list[str] = []
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def call() -> None:
            try:
                await pool.call_tool("s", "pause", {"seconds": 5})
                ends.append("ok")
            except OutcomeUnknownError:
                ends.append("lost")

        for _ in range(3):
            nursery.start_soon(call)
            await settle()
        server.kill(2)
    assert sorted(ends) == ["lost", "ok", "ok"]


class Broken:
    """An observer that raises at every event."""

    def __init__(self) -> None:
        self.told = 0

    def event(self, e: Event, /) -> None:
        self.told += 1
        raise RuntimeError("observer")


async def test_an_observer_that_raises_is_logged_and_skipped(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, ledger = Broken(), Ledger()
    async with open_pool({"s": ScriptedServer()}, observers=[broken, ledger]) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
    assert broken.told == len(ledger.events) > 4
    assert "an observer of type Broken raised" in caplog.text


async def test_events_are_told_in_order_as_one_record(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer(gates={"spawn": slow(2), "close": slow(1)}), Ledger()
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=10), ledger=ledger) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
        await trio.sleep(20)
    assert ledger.story() == [
        (0, "WaitStarted"),
        (0, "DialStarted", 1),
        (2, "SessionOpened", 1),
        (2, "LeaseStarted", 1),
        (2, "LeaseEnded", 1),
        (13, "SessionClosed", 1, "idle"),
        (22, "PoolClosed"),
    ]


async def test_R9_no_session_is_dialled_for_a_waiter_whom_it_could_not_serve(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An exclusive session drains: its successor may not be lent beside it. With no idle time it would be dialled for ever."""
    server = ScriptedServer()
    policy = PoolPolicy(max_in_flight=1, idle_timeout=0)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        session = await pool.acquire("s")
        nursery.start_soon(pool.drain, "s")
        nursery.start_soon(pool.call_tool, "s", "echo", {"text": "x"})
        await trio.sleep(3)
        assert [c.dialled_at for c in server.connections] == [0, 0]
        session.release()
    assert trio.current_time() == 3
    assert [c.dialled_at for c in server.connections] == [0, 0, 3]


async def test_R10_after_a_change_to_fewer_the_old_sessions_are_allowed_until_they_have_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause}, policy=PoolPolicy(max_sessions=2, max_in_flight=1))
    limits: list[tuple[float, int, int]] = []

    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 3})
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 5})
        await settle()

        def note() -> None:
            numbers = pool.statistics().servers["s"]
            limits.append((trio.current_time(), numbers.size, numbers.max_sessions))

        note()
        nursery.start_soon(pool.reconfigure, {"s": ScriptedServer(policy=PoolPolicy(max_sessions=1))})
        await settle()
        note()
        await trio.sleep(4)
        note()
        assert text(await pool.call_tool("s", "echo", {"text": "new"})) == "new"
        note()
    # At 3 there is room for one new session beside the old one that still works, and so the call at 4 waits for nobody.
    assert limits == [(0, 2, 2), (0, 2, 2), (4, 2, 1), (4, 2, 1)]


async def test_R9_where_there_is_no_room_for_a_successor_an_idle_old_session_goes_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    old = ScriptedServer({"pause": pause}, policy=PoolPolicy(max_sessions=4, max_in_flight=1, drain_timeout=math.inf))
    new, ledger = ScriptedServer(policy=PoolPolicy(max_sessions=1)), Ledger()
    async with watched_pool({"s": old}, ledger=ledger) as pool, trio.open_nursery() as nursery:
        for seconds in (1, 2, 3, 4):
            nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": seconds})
        await settle()
        await pool.reconfigure({"s": new})
        assert trio.current_time() == 4
    assert [(at, what, *why) for at, what, _, *why in ledger.story(SessionOpened, SessionClosed)[4:]] == [
        *[(at, "SessionClosed", "drained") for at in (1, 2, 3)],
        (3, "SessionOpened"),
        (4, "SessionClosed", "drained"),
        (4, "SessionClosed", "shutdown"),
    ]


async def test_R9_a_session_used_a_moment_ago_is_ended_first_where_there_is_no_room_for_a_successor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    old = ScriptedServer(policy=PoolPolicy(max_sessions=2, max_in_flight=1, drain_timeout=math.inf))
    new = ScriptedServer(policy=PoolPolicy(max_sessions=1))
    async with watched_pool({"s": old}) as pool:
        async with pool.session("s"), pool.session("s"):
            pass
        await pool.reconfigure({"s": new})
        assert trio.current_time() == 0
        assert (old.open_connections, new.open_connections) == (0, 1)
