"""R9: an old session is lent on while its successor is dialled beside it, so that nobody waits for the longest call."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp.client.subscriptions import SubscriptionLost

from trio_mcp_pool import (
    Backoff,
    CustomServer,
    DialFailed,
    InProcessServer,
    Pool,
    PoolPolicy,
    SessionClosed,
    SessionOpened,
    UnknownServerError,
)
from trio_mcp_pool.testing import ScriptedServer, ToolContext, error, never, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool

AT_ONCE = 0.001
"""On the virtual clock a call that waits for nothing takes no time at all."""


async def which(context: ToolContext) -> str:
    """The number of the connection that serves the call."""
    await trio.lowlevel.checkpoint()
    return str(context.connection)


async def pause(context: ToolContext, seconds: float) -> str:
    await trio.sleep(seconds)
    return str(context.connection)


def server_of(dial: float = 2, **gates: Any) -> ScriptedServer:
    """A server whose first dial is quick and whose others take their time."""
    given = {"handshake": [ok, *[slow(dial)] * 100], **gates}
    return ScriptedServer([which, pause], gates=given)


async def served_by(pool: Pool, scope: Any = None) -> str:
    return text(await pool.call_tool("s", "which", {}, scope=scope))


def lives(server: ScriptedServer) -> list[tuple[float | None, float | None]]:
    """When each connection was open, and when it had gone."""
    return [(c.opened_at, c.closed_at) for c in server.connections]


# Others go on while a long call runs.


async def test_R9_max_lifetime_during_a_long_call_makes_nobody_else_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=2)
    policy = PoolPolicy(max_lifetime=100, idle_timeout=math.inf)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        long: list[tuple[float, str]] = []

        async def call_long() -> None:
            got = text(await pool.call_tool("s", "pause", {"seconds": 3600}))
            long.append((trio.current_time(), got))

        nursery.start_soon(call_long)
        seen = []
        for at in range(0, 300, 1):
            await trio.sleep_until(at)
            with trio.fail_after(AT_ONCE):
                seen.append(await served_by(pool))
        # From the end of its life on the old one was lent for as long as the dial took, and then the new one.
        ends = [at for at in range(1, 300) if seen[at] != seen[at - 1]]
        assert [seen[at] for at in (0, *ends)] == ["1", "2", *["3", "4"][: len(ends) - 1]]
        assert 97 <= ends[0] <= 102
        await trio.sleep_until(3601)
        assert long == [(3600, "1")]
        assert lives(server)[0] == (0, 3600)
        assert server.peak_open == 2


async def test_R9_max_lifetime_during_an_open_listen_makes_nobody_else_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=2)
    policy = PoolPolicy(max_lifetime=100, idle_timeout=math.inf)
    async with watched_pool({"s": server}, policy=policy) as pool:
        async with pool.listen("s", tools_list_changed=True) as changes:
            await trio.sleep(150)
            with trio.fail_after(AT_ONCE):
                assert await served_by(pool) == "2"
            assert lives(server)[0] == (0, None)  # and the stream is still open
            server.notify("notifications/tools/list_changed")
            with trio.fail_after(AT_ONCE):
                await anext(changes)
        await settle()
        assert lives(server)[0] == (0, 150)


async def test_R9_a_drain_during_a_long_call_makes_nobody_else_wait_for_longer_than_a_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=4)
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=60)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 50})
        await trio.sleep(1)
        drained: list[float] = []

        async def drain() -> None:
            await pool.drain("s")
            drained.append(trio.current_time())

        nursery.start_soon(drain)
        for at in (1, 2, 3, 4.9, 5.1, 20, 49):
            await trio.sleep_until(at)
            with trio.fail_after(AT_ONCE):
                assert await served_by(pool) == ("1" if at < 5 else "2")
        await trio.sleep_until(51)
        assert drained == [50]
        assert server.peak_open == 2


async def test_R9_a_drain_under_load_costs_no_exclusive_caller_more_than_the_call_before_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two sessions, two callers at a time, each for a second: with overlap none of them ever waits for a dial."""
    server = ScriptedServer([pause], gates={"handshake": [ok, ok, *[slow(3)] * 10]})
    policy = PoolPolicy(min_sessions=2, max_sessions=2, max_in_flight=1)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await pool.wait_ready()
        waits: list[float] = []
        by: list[str] = []

        async def caller() -> None:
            for _ in range(20):
                began = trio.current_time()
                async with pool.session("s") as session:
                    waits.append(trio.current_time() - began)
                    by.append(text(await session.call_tool("pause", {"seconds": 1})))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            nursery.start_soon(caller)
            await trio.sleep(2.5)
            await pool.drain("s")
            drained_at = trio.current_time()
        assert max(waits) == 0
        assert drained_at <= 2.5 + 2 * 3 + 2
        assert set(by[-2:]) == {"3", "4"}
        assert server.peak_open == 3


# The limits while sessions overlap.


async def test_R9_exclusive_stays_exclusive_while_sessions_overlap(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(dial=1)
    policy = PoolPolicy(max_in_flight=1, drain_timeout=100)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        running = peak = 0

        async def caller() -> None:
            nonlocal running, peak
            async with pool.session("s") as session:
                running += 1
                peak = max(peak, running)
                await session.call_tool("pause", {"seconds": 5})
                running -= 1

        for _ in range(5):
            nursery.start_soon(caller)
        await trio.sleep(1)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(2)
        assert server.open_connections == 2  # the successor is there, but no second lease
        with pytest.raises(trio.WouldBlock):
            pool.acquire_nowait("s")
        await trio.sleep(100)
        assert peak == 1


@pytest.mark.parametrize("reason", ["lifetime", "drain"])
async def test_R9_with_max_overlap_0_two_sessions_never_live_at_the_same_time(
    reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = server_of(dial=2, close=slow(1))
    policy = PoolPolicy(max_overlap=0, max_lifetime=100 if reason == "lifetime" else math.inf, drain_timeout=500)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 200})
        await trio.sleep(101)
        if reason == "drain":
            nursery.start_soon(pool.drain, "s")
            await settle()
        assert await served_by(pool) == "2"
        assert trio.current_time() == 203  # old away in 1 s, then new in 2 s
        assert server.peak_open == 1


async def test_R9_inside_open_scope_replacement_is_strict(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(dial=2, close=slow(1))
    async with watched_pool({"s": server}) as pool, pool.open_scope("mine") as scope, trio.open_nursery() as nursery:

        async def work() -> None:
            await scope.call_tool("s", "pause", {"seconds": 10})

        nursery.start_soon(work)
        await trio.sleep(1)
        await pool.drain("s")
        assert trio.current_time() == 11
        assert server.peak_open == 1


async def test_R9_max_overlap_binds_how_many_are_replaced_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer([pause])
    for overlap in (1, 2, 3):
        policy = PoolPolicy(min_sessions=4, max_sessions=4, max_overlap=overlap, drain_timeout=100)
        server = ScriptedServer([pause], gates={"handshake": [*[ok] * 4, *[slow(1)] * 50]})
        ledger = Ledger(limits=False)
        async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
            await pool.wait_ready()
            await settle()
            await pool.drain("s")
            assert trio.current_time() - server.connections[0].dialled_at == -(-4 // overlap)
            await settle()
            assert check_books(pool).sessions_idle == 4
        assert server.peak_open == 4 + overlap


async def test_R9_an_unused_session_that_nobody_would_miss_is_replaced_strictly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of()
    async with watched_pool({"s": server}) as pool:
        await served_by(pool)
        await trio.sleep(1.5)  # used longer than a second ago
        await pool.drain("s")
        assert (trio.current_time(), server.open_connections, len(server.connections)) == (1.5, 0, 1)


async def test_R9_a_session_used_within_the_last_second_is_lent_on(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(dial=2)
    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:
        await served_by(pool)
        await trio.sleep(0.9)
        nursery.start_soon(pool.drain, "s")
        await settle()
        with trio.fail_after(AT_ONCE):
            assert await served_by(pool) == "1"
        await trio.sleep_until(3)
        assert await served_by(pool) == "2"
        assert lives(server)[0] == (0, 2.9)


# A successor that cannot be dialled.


async def test_R9_a_successors_failed_dial_counts_against_nobody_while_the_predecessor_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(handshake=[ok, error(OSError), ok])
    backoff = Backoff(first=10, jitter=0)
    policy = PoolPolicy(max_lifetime=100, idle_timeout=math.inf, backoff=backoff)
    ledger = Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with pool.session("s") as held:
            await held.call_tool("which", {})
            await trio.sleep(101)
            (failed,) = [e for e in ledger.events if isinstance(e, DialFailed)]
            assert 95 <= failed.at <= 100
            stats = pool.statistics().servers["s"]
            assert (stats.state, stats.retry_at, stats.last_error) == ("ready", -math.inf, None)
            with trio.fail_after(AT_ONCE):  # lent on past its age
                assert await served_by(pool) == "1"
                # Another lane is not in backoff for it.
                assert await served_by(pool, "other") == "3"
            await trio.sleep_until(failed.at + 9.9)
            assert lives(server)[0] == (0, None)
            assert len(server.connections) == 3
            await trio.sleep_until(failed.at + 10.1)  # tried again after a backoff of its own
            assert len(server.connections) == 4
            assert await served_by(pool) == "4"
        await settle()
        assert lives(server)[0][1] == failed.at + 10.1


async def test_R9_after_a_successors_failed_dial_the_old_session_goes_as_soon_as_no_lease_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(handshake=[ok, error(OSError), ok])
    policy = PoolPolicy(max_lifetime=100, idle_timeout=math.inf, backoff=Backoff(first=10, jitter=0))
    ledger = Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with pool.session("s") as held:
            await held.call_tool("which", {})
            await trio.sleep_until(103)
        assert trio.current_time() == 103
        assert await served_by(pool) == "3"  # strictly: old away, then new
        assert [line[-1] for line in ledger.story(SessionClosed)] == ["failed", "lifetime"]
        assert server.peak_open == 2


async def test_R9_a_successors_failures_are_counted_by_themselves(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(handshake=[ok, error(OSError), error(OSError), ok])
    policy = PoolPolicy(max_lifetime=100, idle_timeout=math.inf, backoff=Backoff(first=10, factor=2, jitter=0))
    ledger = Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with pool.session("s") as held:
            await held.call_tool("which", {})
            await trio.sleep(150)
        failures = [e.error for e in ledger.events if isinstance(e, DialFailed)]
        assert [each.attempt for each in failures] == [1, 2]
        assert [each.retry_after for each in failures] == pytest.approx([10, 20])


async def test_R9_a_drain_in_the_backoff_of_a_successor_dials_at_once(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(handshake=[ok, error(OSError), ok])
    policy = PoolPolicy(drain_timeout=1000, backoff=Backoff(first=50, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        async with pool.session("s") as held:
            await held.call_tool("which", {})
            nursery.start_soon(pool.drain, "s")  # its successor fails
            await trio.sleep(7)
            nursery.start_soon(pool.drain, "s")
            await settle()
            assert [life[0] for life in lives(server)] == [0, None, 7]
            assert await served_by(pool) == "3"


async def test_R9_a_drain_returns_when_the_old_sessions_have_gone_successor_or_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(handshake=[ok, never, never])
    policy = PoolPolicy(drain_timeout=5, connect_timeout=100)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        await served_by(pool)
        await pool.drain("s")
        assert trio.current_time() == 5
        assert lives(server)[0] == (0, 5)
        nursery.cancel_scope.cancel()


async def test_R9_no_successor_is_dialled_in_a_backoff(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(handshake=[ok, error(OSError), ok])
    policy = PoolPolicy(max_sessions=2, max_in_flight=1, max_lifetime=100, backoff=Backoff(first=60, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool:
        async with pool.session("s") as held, trio.open_nursery() as nursery:
            await held.call_tool("which", {})
            await trio.sleep_until(90)
            nursery.start_soon(pool.wait_ready, "s")

            async def second() -> None:
                async with pool.session("s"):
                    pass

            nursery.start_soon(second)  # on demand; it fails, and the server is in backoff until 150
            await settle()
            assert pool.statistics().servers["s"].retry_at == 150
            await trio.sleep_until(149)
            assert len(server.connections) == 2
            await trio.sleep_until(150.1)
            assert len(server.connections) == 3
            nursery.cancel_scope.cancel()


# Drains.


async def test_R9_a_second_drain_does_not_abort_the_dial_of_the_first(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(dial=4)
    ledger = Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool, trio.open_nursery() as nursery:
        await served_by(pool)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(2)
        nursery.start_soon(pool.drain, "s")
        for _ in range(10):
            with trio.fail_after(AT_ONCE):
                await served_by(pool)
            await trio.sleep(1)
        # What the first has dialled is ready at 4, and replaced in its turn by what is ready at 8.
        assert [line[0] for line in ledger.story(SessionOpened)] == [0, 4, 8]
        assert ledger.count(DialFailed) == 0
        assert await served_by(pool) == "3"
        assert check_books(pool).closed_drained == 2


async def test_R9_a_second_drain_waits_for_the_dial_of_the_first_no_longer_than_drain_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(drain_timeout=5, connect_timeout=1000)
    async with watched_pool({"s": server_of(dial=100)}, policy=policy) as pool, trio.open_nursery() as nursery:
        await served_by(pool)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(1)
        begun = trio.current_time()
        await pool.drain("s")
        assert trio.current_time() == begun + 5
        nursery.cancel_scope.cancel()


async def test_R9_a_drain_gives_drain_timeout_from_the_call_on_to_all_sessions_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer([pause], gates={"handshake": [ok, ok, ok, *[slow(4)] * 10]})
    policy = PoolPolicy(max_sessions=3, max_in_flight=1, drain_timeout=10)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        held = [await pool.acquire("s") for _ in range(3)]
        for session in held:
            await session.list_tools()
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(0)
        await settle()
        begun = trio.current_time()
        await pool.drain("s")  # no lease ever ends by itself
        assert trio.current_time() == begun + 10
        assert [c.closed_at for c in server.connections[:3]] == [10, 10, 10]
        for session in held:
            session.release()
        nursery.cancel_scope.cancel()


async def test_R9_a_later_drain_does_not_prolong_the_time_that_an_earlier_one_gave(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=100)
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=10)) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        await held.list_tools()
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(5)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(6)
        assert lives(server)[0] == (0, 10)
        held.release()
        nursery.cancel_scope.cancel()


async def test_R9_a_session_that_grows_too_old_while_it_is_drained_keeps_the_drains_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=100)
    policy = PoolPolicy(drain_timeout=30, max_lifetime=20)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        await held.list_tools()
        await trio.sleep(10)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep_until(45)
        assert lives(server)[0] == (0, 40)
        assert check_books(pool).closed_drained == 1
        held.release()
        nursery.cancel_scope.cancel()


# Reconfigure, remove and add.


def in_process(policy: PoolPolicy, server: mcp.server.MCPServer) -> InProcessServer:
    return InProcessServer(server, policy=policy)


async def test_R9_reconfigure_with_a_changed_policy_alone_keeps_the_sessions_and_applies_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = mcp.server.MCPServer("inside")
    before = PoolPolicy(max_sessions=4, max_in_flight=1, idle_timeout=300)
    ledger = Ledger()
    async with watched_pool({"s": in_process(before, inside)}, ledger=ledger) as pool:
        held = [await pool.acquire("s") for _ in range(4)]
        after = replace(before, max_sessions=2, idle_timeout=50)
        await pool.reconfigure({"s": in_process(after, inside)})
        assert trio.current_time() == 0  # nothing had to be waited for
        assert pool.servers["s"].policy == after
        stats = check_books(pool)
        assert (stats.size, stats.max_sessions, stats.connects) == (4, 4, 4)
        with pytest.raises(trio.WouldBlock):  # four leases run, and two are allowed now
            pool.acquire_nowait("s")
        held[0].release()  # the surplus retires when idle
        held[1].release()
        await settle()
        stats = check_books(pool)
        assert (stats.size, stats.max_sessions, stats.closed_drained) == (2, 2, 2)
        held[2].release()
        pool.acquire_nowait("s").release()
        held[3].release()
        await trio.sleep(49)
        assert check_books(pool).size == 2
        await trio.sleep(2)
        assert check_books(pool).closed_idle == 2
    assert ledger.count(SessionOpened) == 4


async def test_R9_a_changed_policy_with_more_sessions_serves_the_waiters(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = mcp.server.MCPServer("inside")
    before = PoolPolicy(max_sessions=1, max_in_flight=1)
    async with watched_pool({"s": in_process(before, inside)}) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        served: list[float] = []

        async def waiter() -> None:
            async with pool.session("s"):
                served.append(trio.current_time())

        nursery.start_soon(waiter)
        await trio.sleep(3)
        assert served == []
        await pool.reconfigure({"s": in_process(replace(before, max_sessions=2), inside)})
        await settle()
        assert served == [3]
        held.release()


async def test_R9_a_changed_policy_dials_and_retires_what_min_sessions_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = mcp.server.MCPServer("inside")
    one = PoolPolicy(min_sessions=1, max_sessions=3, idle_timeout=5)
    three = replace(one, min_sessions=3)
    async with watched_pool({"s": in_process(one, inside)}) as pool:
        await settle()
        assert check_books(pool).sessions_idle == 1
        await pool.reconfigure({"s": in_process(three, inside)})
        await settle()
        stats = check_books(pool)
        assert (stats.sessions_idle, stats.min_sessions) == (3, 3)
        await trio.sleep(100)
        assert check_books(pool).sessions_idle == 3
        await pool.reconfigure({"s": in_process(one, inside)})
        await trio.sleep(6)
        assert check_books(pool).sessions_idle == 1


@pytest.mark.parametrize("kind", ["held for ever", "slow to close"])
async def test_R9_a_server_that_is_removed_and_added_again_never_has_two_live_sessions(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = server_of(dial=0, close=slow(3))
    policy = PoolPolicy(drain_timeout=20)
    async with watched_pool({"s": server}, policy=policy, limits=False) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        await held.list_tools()
        if kind == "slow to close":
            held.release()
        nursery.start_soon(pool.remove_server, "s")
        await settle()
        with pytest.raises(UnknownServerError):
            await pool.call_tool("s", "which", {})
        pool.add_server("s", server)
        assert await served_by(pool) == "2"
        assert trio.current_time() == (3 if kind == "slow to close" else 23)
        assert server.peak_open == 1
        held.release()


async def test_R9_a_removed_server_counts_in_every_scope_of_its_successor_of_the_same_name_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_of(dial=0, close=slow(3))
    async with watched_pool({"s": server}, limits=False) as pool, trio.open_nursery() as nursery:
        await served_by(pool, "a")
        nursery.start_soon(pool.remove_server, "s")
        await settle()
        pool.add_server("s", server)
        assert await served_by(pool, "b") == "2"
        assert trio.current_time() == 0
        assert await served_by(pool, "a") == "3"
        assert trio.current_time() == 3


async def test_R9_a_changed_server_goes_on_until_its_successor_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    old, new = server_of(), ScriptedServer([which], gates={"handshake": slow(5)})
    async with watched_pool({"s": old}) as pool, trio.open_nursery() as nursery:
        await served_by(pool)
        nursery.start_soon(pool.reconfigure, {"s": new})
        await settle()
        assert pool.servers["s"] is new
        with trio.fail_after(AT_ONCE):
            await served_by(pool)
        assert len(old.calls) == 2
        await trio.sleep_until(5.1)
        await served_by(pool)
        assert (len(old.calls), len(new.calls), old.open_connections) == (2, 1, 0)


async def test_R9_a_listen_that_is_cut_by_a_drain_says_so(autojump_clock: trio.testing.MockClock) -> None:
    server = server_of(dial=1)
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=10)) as pool, trio.open_nursery() as nursery:
        lost: list[float] = []

        async def listen() -> None:
            async with pool.listen("s", tools_list_changed=True) as changes:
                try:
                    async for _ in changes:
                        pass
                except SubscriptionLost:
                    lost.append(trio.current_time())

        nursery.start_soon(listen)
        await settle()
        await pool.drain("s")
        await settle()
        assert lost == [10]


async def test_R9_custom_servers_overlap_too(autojump_clock: trio.testing.MockClock) -> None:
    inside = mcp.server.MCPServer("inside")
    dials: list[float] = []

    def factory() -> Any:
        dials.append(trio.current_time())
        return mcp.Client(inside)

    async with watched_pool({"s": CustomServer(factory)}) as pool, pool.session("s") as held:
        await held.list_tools()
        with trio.move_on_after(1):
            await pool.drain("s")
        assert dials == [0, 0]
        await pool.list_tools("s")
        assert check_books(pool).size == 2
