"""Idle sessions and old ones end at exact times, and a lease taken at the last instant is never lost (R7)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_pool import PoolPolicy, open_pool
from trio_mcp_pool.testing import ScriptedServer, slow

from ._audit import on_virtual_time

CALL = ("a", "echo", {"text": "x"})
FOREVER = 1e6


def closed_at(server: ScriptedServer) -> list[float | None]:
    return [connection.closed_at for connection in server.connections]


async def test_R7_an_idle_session_is_closed_when_its_time_is_up_and_not_before(autojump_clock: MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(2), "call": slow(3)})
    async with open_pool({"a": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        await pool.call_tool(*CALL)  # from 0 to 5
        await trio.sleep(FOREVER)
        assert closed_at(server) == [15]
        assert pool.statistics().closed_idle == 1


async def test_R7_every_use_moves_the_time_and_what_counts_is_the_end_of_the_last_lease(
    autojump_clock: MockClock,
) -> None:
    server = ScriptedServer()
    async with open_pool({"a": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        for _ in range(4):
            await pool.call_tool(*CALL)
            await trio.sleep(7)
        async with pool.session("a"):  # from 28
            await trio.sleep(50)
            async with pool.session("a"):
                await trio.sleep(1)
            await trio.sleep(20)
        await trio.sleep(FOREVER)
        assert closed_at(server) == [28 + 50 + 1 + 20 + 10]


async def test_R7_a_session_that_nobody_ever_took_idles_out_as_well(autojump_clock: MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(2)})
    async with open_pool({"a": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        with trio.move_on_after(1):
            await pool.acquire("a")
        await trio.sleep(FOREVER)
        assert closed_at(server) == [12]
        assert pool.statistics().acquires == 0


async def test_only_the_surplus_over_min_sessions_idles_out(autojump_clock: MockClock) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(idle_timeout=10, min_sessions=1, max_sessions=3, max_in_flight=1)
    async with open_pool({"a": server}, policy=policy) as pool:
        async with trio.open_nursery() as nursery:
            server.gates["call"] = slow(1)
            for _ in range(3):
                nursery.start_soon(pool.call_tool, *CALL)
        await trio.sleep(9.5)
        assert pool.statistics().sessions_idle == 3
        await trio.sleep(FOREVER)
        assert sorted(closed_at(server), key=str) == [11, 11, None]
        assert pool.statistics().sessions_idle == 1


async def test_min_sessions_are_kept_open_unasked_and_made_anew_when_they_die(autojump_clock: MockClock) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(idle_timeout=10, min_sessions=2, max_sessions=2)
    async with open_pool({"a": server}, policy=policy) as pool:
        await trio.sleep(FOREVER)
        assert closed_at(server) == [None, None]
        server.kill(1)
        await trio.sleep(100)
        assert pool.statistics().sessions_idle == 2


async def test_max_lifetime_is_shortened_by_five_per_cent_at_most_and_waits_for_the_lease(
    autojump_clock: MockClock,
) -> None:
    policy = PoolPolicy(idle_timeout=FOREVER, max_lifetime=100)
    ends = set()
    for _ in range(20):
        server = ScriptedServer()
        began = trio.current_time()
        async with open_pool({"a": server}, policy=policy) as pool:
            await pool.call_tool(*CALL)
            await trio.sleep(1000)
            [end] = closed_at(server)
            assert end is not None
            assert 95 <= end - began <= 100
            ends.add(end - began)
            async with pool.session("a"):
                began = trio.current_time()
                await trio.sleep(500)
                assert server.connections[1].state == "open"
            await trio.lowlevel.checkpoint()
            await trio.sleep(1)
            assert server.connections[1].closed_at == began + 500
            # A successor was dialled beside it in time. Nobody used that one, so it has no successor of its own.
            successor = server.connections[2]
            assert 95 <= successor.dialled_at - began <= 100
            assert successor.closed_at is not None
            assert 95 <= successor.closed_at - successor.dialled_at <= 100
            assert pool.statistics().closed_lifetime == len(server.connections) == 3
    assert len(ends) > 10


async def test_a_scope_that_is_only_named_idles_out_and_an_open_one_does_not(autojump_clock: MockClock) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(idle_timeout=10, max_lifetime=1000)
    async with open_pool({"a": server}, policy=policy) as pool, pool.open_scope() as mine:
        await pool.call_tool(*CALL, scope="named")
        await mine.call_tool(*CALL)
        await trio.sleep(FOREVER)
        assert closed_at(server) == [10, None]
        assert pool.statistics().max_sessions == 2  # the shared lane's and the open scope's


# The race at the deadline. In each of 1,000 schedules a caller wakes at the very instant at which the session's idle time is
# up, and Trio may run either of the two first.

SCHEDULES = 1000


async def _race(call: Callable[[], Awaitable[object]], at: float) -> None:
    """Call at the given time, from a few tasks that wake then."""
    async with trio.open_nursery() as nursery:

        async def caller() -> None:
            await trio.sleep_until(at)
            await call()

        for _ in range(random.randint(1, 3)):
            nursery.start_soon(caller)


@pytest.mark.parametrize("hold", [False, True], ids=["verb", "lease"])
def test_R7_a_lease_at_the_deadline_is_never_lost(hold: bool) -> None:
    kept = replaced = 0
    for seed in range(SCHEDULES // 2):
        server = ScriptedServer()

        async def main(server: ScriptedServer = server) -> None:
            nonlocal kept, replaced
            async with open_pool({"a": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
                await pool.call_tool(*CALL)

                async def call() -> None:
                    if not hold:
                        await pool.call_tool(*CALL)
                        return
                    async with pool.session("a") as session:
                        for _ in range(3):
                            await session.call_tool("echo", {"text": "x"})
                            await trio.sleep(20)

                await _race(call, 10)
            if len(server.connections) == 1:
                kept += 1
            else:
                replaced += 1
            assert pool.statistics().sessions_lost == 0

        random.seed(seed)
        on_virtual_time(main, seed=seed)
    # Both orders came up, or nothing would have been shown.
    assert kept > SCHEDULES // 10
    assert replaced > SCHEDULES // 10


def test_a_naive_owner_would_lose_about_half_of_these() -> None:
    """The same race against an owner that sleeps until the deadline and then closes, whatever has happened."""
    lost = 0
    for seed in range(SCHEDULES):

        async def main() -> None:
            nonlocal lost
            closed = trio.Event()
            taken = lost_here = False

            async def owner() -> None:
                await trio.sleep_until(10)
                closed.set()

            async def call() -> None:
                nonlocal taken, lost_here
                if not closed.is_set():
                    taken = True
                    await trio.sleep(0.5)  # the call is under way
                    lost_here = lost_here or closed.is_set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(owner)
                await _race(call, 10)
            lost += lost_here

        random.seed(seed)
        on_virtual_time(main, seed=seed)
    assert SCHEDULES * 0.35 < lost < SCHEDULES * 0.85
