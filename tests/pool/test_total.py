"""R10b: `max_sessions_total` over all lanes, whose place is taken when a dial starts; and `close_scope`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    Pool,
    PoolClosedError,
    PoolPolicy,
    SessionClosed,
    TooManyWaitersError,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, slow

from .books import Ledger, check_books, settle, watched_pool

KEEP = PoolPolicy(idle_timeout=math.inf)


@asynccontextmanager
async def limited(
    servers: dict[str, ScriptedServer], total: int, *, policy: PoolPolicy = KEEP, observed: bool = True
) -> AsyncIterator[Pool]:
    """A pool with `max_sessions_total`, in which never more than so many connections exist."""
    ledger = Ledger()
    async with open_pool(
        servers, policy=policy, max_sessions_total=total, observers=[ledger] if observed else []
    ) as pool:
        ledger.pool = pool
        yield pool
        check_books(pool)
    if observed:
        ledger.verify()
    began: list[tuple[float, int]] = []
    for server in servers.values():
        for c in server.connections:
            assert c.closed_at is not None
            began += [(c.dialled_at, 1), (c.closed_at, -1)]
    now = 0
    for _, change in sorted(began):  # at the same moment a place is given back before it is taken
        now += change
        assert now <= total


async def use(pool: Pool, server: str = "s", scope: Any = None) -> None:
    await pool.call_tool(server, "echo", {"text": "x"}, scope=scope)


def open_now(servers: dict[str, ScriptedServer]) -> set[str]:
    return {name for name, server in servers.items() if server.open_connections}


@pytest.mark.parametrize("observed", [True, False])
async def test_R10b_the_least_recently_used_idle_session_makes_room(
    observed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    servers = {name: ScriptedServer() for name in "abcd"}
    async with limited(servers, 3, observed=observed) as pool:
        for name in "abc":
            await use(pool, name)
            await trio.sleep(1)
        await use(pool, "a")  # now "b" is the one used longest ago
        await use(pool, "d")
        assert trio.current_time() == 3
        assert open_now(servers) == {"a", "c", "d"}
        assert check_books(pool).servers["b"].closed_idle == 1
        await use(pool, "b")
        assert open_now(servers) == {"a", "d", "b"}
        assert check_books(pool).size == 3


async def test_R10b_a_place_that_the_first_in_the_queue_no_longer_needs_goes_to_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer() for name in "ab"}
    policy = PoolPolicy(idle_timeout=math.inf, max_sessions=2, max_in_flight=1)
    async with limited(servers, 1, policy=policy) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("a")
        first = trio.CancelScope()

        async def use_a() -> None:
            with first:
                await use(pool, "a")

        nursery.start_soon(use_a)
        await settle()
        nursery.start_soon(use, pool, "b")
        await settle()
        first.cancel()
        await settle()
        held.release()
        await settle()
        assert len(servers["b"].calls) == 1


async def test_R10b_dials_that_were_withdrawn_before_they_began_had_no_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer(gates={"spawn": slow(1)}) for name in "ab"}
    servers["bad"] = ScriptedServer(gates={"spawn": error(OSError)})
    async with limited(servers, 1) as pool, trio.open_nursery() as nursery:

        async def fail(key: int) -> None:
            with pytest.raises(ConnectError):
                await use(pool, "bad", key)

        for key in range(4):
            nursery.start_soon(fail, key)
        await settle()
        for name in "ab":
            nursery.start_soon(use, pool, name)
    assert [len(servers[name].calls) for name in "ab"] == [1, 1]


async def test_R10b_it_holds_over_all_scopes_of_a_server(autojump_clock: trio.testing.MockClock) -> None:
    servers = {"s": ScriptedServer()}
    async with limited(servers, 2) as pool:
        for key in range(20):
            await use(pool, scope=key)
            assert check_books(pool).size <= 2
        assert servers["s"].peak_open == 2


async def test_R10b_a_place_is_free_when_the_old_session_has_really_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {"a": ScriptedServer(gates={"close": slow(4)}), "b": ScriptedServer()}
    async with limited(servers, 1) as pool:
        await use(pool, "a")
        await use(pool, "b")
        assert trio.current_time() == 4


async def test_R10b_where_none_is_idle_the_session_with_the_fewest_leases_takes_no_new_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer() for name in "abc"}
    async with limited(servers, 2) as pool, trio.open_nursery() as nursery:
        leases = [await pool.acquire("a"), await pool.acquire("a"), await pool.acquire("b")]
        got: list[float] = []

        async def caller() -> None:
            await use(pool, "c")
            got.append(trio.current_time())

        nursery.start_soon(caller)
        await trio.sleep(5)
        assert got == []
        with pytest.raises(trio.WouldBlock):
            pool.acquire_nowait("b")
        pool.acquire_nowait("a").release()
        await leases[2].list_tools()  # its lease goes on
        leases[2].release()
        await settle()
        assert got == [5]
        assert open_now(servers) == {"a", "c"}
        for lease in leases[:2]:
            lease.release()


async def test_R10b_callers_are_served_in_their_turn_over_all_servers(autojump_clock: trio.testing.MockClock) -> None:
    servers = {name: ScriptedServer() for name in "abcdef"}
    async with limited(servers, 1) as pool, trio.open_nursery() as nursery:
        order: list[tuple[float, str]] = []

        async def caller(name: str) -> None:
            async with pool.session(name):
                order.append((trio.current_time(), name))
                await trio.sleep(1)

        for name in "cafebd":
            nursery.start_soon(caller, name)
            await settle()
    assert order == [(at, name) for at, name in enumerate("cafebd")]


async def test_R10b_a_caller_that_gives_up_does_not_keep_the_others_from_their_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer() for name in "abc"}
    async with limited(servers, 1) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("a")
        got: list[float] = []

        async def impatient() -> None:
            with trio.move_on_after(1):
                await use(pool, "b")

        async def patient() -> None:
            await use(pool, "c")
            got.append(trio.current_time())

        nursery.start_soon(impatient)
        await settle()
        nursery.start_soon(patient)
        await trio.sleep(5)
        held.release()
        await trio.sleep(1)
        assert got == [5]


async def test_R10b_a_dial_that_fails_gives_its_place_back(autojump_clock: trio.testing.MockClock) -> None:
    servers = {"bad": ScriptedServer(gates={"handshake": error(OSError)}), "good": ScriptedServer()}
    async with limited(servers, 1, policy=PoolPolicy(backoff=Backoff(first=100, cap=100))) as pool:
        async with trio.open_nursery() as nursery:

            async def bad() -> None:
                with pytest.raises(ConnectError, match="could not be reached"):
                    await use(pool, "bad")

            nursery.start_soon(bad)
            await settle()
            nursery.start_soon(use, pool, "good")
        assert trio.current_time() == 0


async def test_R10b_a_server_in_backoff_does_not_block_the_queue(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(backoff=Backoff(first=50, jitter=0), when_unavailable="wait")
    servers = {"bad": ScriptedServer(gates={"handshake": [error(OSError)]}), "good": ScriptedServer()}
    async with limited(servers, 1, policy=policy) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(use, pool, "bad")
        await trio.sleep(1)
        await use(pool, "good")
        assert trio.current_time() == 1


async def test_R10b_dials_for_min_sessions_and_for_replacement_never_end_a_session_of_another_lane(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {
        "kept": ScriptedServer(policy=PoolPolicy(min_sessions=1)),
        "a": ScriptedServer(),
        "b": ScriptedServer(),
    }
    async with limited(servers, 3) as pool:
        await settle()
        for name in "ab":
            async with pool.session(name) as session:
                await session.list_tools()
        servers["kept"].kill()
        await trio.sleep(2)
        await use(pool, "kept")
        assert check_books(pool).size == 3
        async with pool.session("a") as held:
            await held.list_tools()
            # No place for a successor, and none is made: the drain takes its time, and is strict.
            with trio.move_on_after(5):
                await pool.drain("a")
            assert open_now(servers) == {"kept", "a", "b"}
            assert [len(s.connections) for s in servers.values()] == [2, 1, 1]


def test_R10b_the_sum_of_min_sessions_must_be_smaller_than_the_total() -> None:
    kept = PoolPolicy(min_sessions=2, max_sessions=4)

    async def main() -> None:
        servers = {"a": ScriptedServer(policy=kept), "b": ScriptedServer(policy=kept)}
        with pytest.raises(
            ValueError, match=r"the sum of min_sessions \(4\) must be smaller than max_sessions_total \(4\)"
        ):
            async with open_pool(servers, max_sessions_total=4):
                pass
        async with open_pool(servers, max_sessions_total=5) as pool:
            before = dict(pool.servers)
            with pytest.raises(ValueError, match="sum of min_sessions"):
                pool.add_server("c", ScriptedServer(policy=kept))
            with pytest.raises(ValueError, match="sum of min_sessions"):
                await pool.reconfigure({**servers, "c": ScriptedServer(policy=kept)})
            assert dict(pool.servers) == before

    trio.run(main)


@pytest.mark.parametrize("total", [0, -1, 1.5, True, "3"])
async def test_max_sessions_total_is_checked(total: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_sessions_total must be"):
        async with open_pool({}, max_sessions_total=total):
            pass


async def test_R10b_where_only_sessions_of_open_scope_hold_all_places_a_caller_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {"s": ScriptedServer()}
    async with limited(servers, 2) as pool:
        async with pool.open_scope("a") as a, pool.open_scope("b") as b:
            for scope in (a, b):
                await scope.call_tool("s", "echo", {"text": "x"})
            with pytest.raises(TooManyWaitersError, match="close one of them, or raise max_sessions_total") as caught:
                await use(pool)
            assert caught.value.server == "s"
            assert caught.value.statistics is not None
            assert caught.value.statistics.size == 2
            assert check_books(pool).connects_failed == 0  # at once: nothing was queued for it
            async with pool.open_scope("c") as c:
                with pytest.raises(TooManyWaitersError):
                    await c.call_tool("s", "echo", {"text": "x"})
            await a.call_tool("s", "echo", {"text": "x"})  # those who have a session go on
        await use(pool)


async def test_R10b_callers_that_wait_are_told_when_scopes_come_to_hold_all_places(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {"s": ScriptedServer(), "t": ScriptedServer()}
    async with limited(servers, 1) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("t")
        told: list[float] = []
        async with pool.open_scope("mine") as scope:

            async def first() -> None:
                await scope.call_tool("s", "echo", {"text": "x"})

            async def second() -> None:
                with pytest.raises(TooManyWaitersError):
                    await use(pool)
                told.append(trio.current_time())

            nursery.start_soon(first)
            await settle()
            nursery.start_soon(second)
            await trio.sleep(3)
            assert told == []
            held.release()
            await trio.sleep(1)
            assert told == [3]
        await settle()
        assert pool.statistics().size == 0  # nothing is dialled for those who were told


async def test_R10b_sessions_of_open_scope_are_never_ended_for_others(autojump_clock: trio.testing.MockClock) -> None:
    servers = {"s": ScriptedServer(), "t": ScriptedServer()}
    async with limited(servers, 2) as pool, pool.open_scope("mine") as scope:
        await scope.call_tool("s", "echo", {"text": "x"})
        for key in range(5):
            await use(pool, "t", scope=key)
        await scope.call_tool("s", "echo", {"text": "x"})
        assert len(servers["s"].connections) == 1


async def test_R10b_a_caller_in_backoff_of_no_place_is_no_failure_of_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {"s": ScriptedServer()}
    async with limited(servers, 1) as pool:
        async with pool.open_scope("mine") as scope:
            await scope.call_tool("s", "echo", {"text": "x"})
            with pytest.raises(TooManyWaitersError):
                await use(pool)
        assert pool.statistics().servers["s"].last_error is None
        await use(pool)


async def test_R10b_many_callers_of_many_lanes_are_all_served_under_a_small_total(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer(gates={"spawn": slow(0.1), "close": slow(0.1)}) for name in "abcd"}
    async with limited(servers, 3, policy=PoolPolicy(max_in_flight=2, max_sessions=2)) as pool:
        served = 0

        async def caller(number: int) -> None:
            nonlocal served
            for round in range(3):
                async with pool.session("abcd"[(number + round) % 4], scope=[None, "x"][number % 2]):
                    await trio.sleep(0.5)
                    served += 1

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(caller, number)
        assert served == 120
        assert check_books(pool).tasks_waiting_acquire == 0


# close_scope.


async def test_close_scope_ends_the_sessions_of_a_shared_key_of_all_servers_and_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer(gates={"close": slow(2)}) for name in "ab"}
    ledger = Ledger()
    async with watched_pool(servers, ledger=ledger) as pool:
        for name in "ab":
            await use(pool, name, "mine")
            await use(pool, name, "other")
        await pool.close_scope("mine")
        assert trio.current_time() == 2
        stats = check_books(pool)
        assert (stats.size, stats.closed_drained) == (2, 2)
        assert {e.scope for e in ledger.events if isinstance(e, SessionClosed)} == {"mine"}
        await use(pool, "a", "mine")  # the key may be used again
        assert check_books(pool).size == 3


async def test_close_scope_gives_running_leases_drain_timeout_and_its_waiters_a_new_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(max_in_flight=1, drain_timeout=10)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        got: list[float] = []

        async def holder() -> None:
            async with pool.session("s", scope="mine") as session:
                await session.list_tools()
                await trio.sleep(100)

        async def waiter() -> None:
            await use(pool, "s", "mine")
            got.append(trio.current_time())

        nursery.start_soon(holder)
        await settle()
        nursery.start_soon(waiter)
        await trio.sleep(1)
        await pool.close_scope("mine")
        assert trio.current_time() == 11
        await settle()
        assert got == [11]
        assert server.peak_open == 1
        nursery.cancel_scope.cancel()


async def test_close_scope_of_a_key_that_nobody_uses_does_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        await use(pool)
        with trio.testing.assert_checkpoints():
            await pool.close_scope("never heard of")
        assert check_books(pool).size == 1


async def test_close_scope_refuses_the_key_of_an_open_scope_block_and_None(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        async with pool.open_scope("mine") as scope:
            await scope.call_tool("s", "echo", {"text": "x"})
            with pytest.raises(ValueError, match="owned by an open_scope block, which closes it when it ends"):
                await pool.close_scope("mine")
            await scope.call_tool("s", "echo", {"text": "x"})
        with pytest.raises(ValueError, match="None names no scope"):
            await pool.close_scope(None)
        with pytest.raises(TypeError, match="must be hashable"):
            await pool.close_scope([])
    with pytest.raises(PoolClosedError):
        await pool.close_scope("mine")
