"""What each number of the policy does, at exact virtual times."""

from __future__ import annotations

import contextvars
import math
from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import (
    AcquireTimeoutError,
    Backoff,
    ConnectError,
    CustomServer,
    DialStarted,
    PoolPolicy,
    SessionClosed,
    SessionOpened,
    TooManyWaitersError,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, slow

from .books import Ledger, check_books, settle, watched_pool


async def test_min_sessions_are_dialled_unasked_kept_ready_and_replaced(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer(gates={"spawn": slow(1)}), Ledger()
    policy = PoolPolicy(min_sessions=2, max_sessions=3, idle_timeout=10)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})  # so its death is nothing that its dial has to answer for
        await trio.sleep_until(50)
        assert check_books(pool).sessions_idle == 2
        server.kill(1)
        server.kill(2)
        await settle()
        assert check_books(pool).sessions_connecting == 2
        await trio.sleep(50)
        assert check_books(pool).sessions_idle == 2
    assert [(at, what) for at, what, *_ in ledger.story(SessionOpened)] == [
        (1, "SessionOpened"),
        (1, "SessionOpened"),
        (51, "SessionOpened"),
        (51, "SessionOpened"),
    ]


async def test_the_surplus_over_min_sessions_idles_out_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(min_sessions=1, max_sessions=4, max_in_flight=1, idle_timeout=10)
    async with watched_pool({"s": server}, policy=policy) as pool:
        held = [await pool.acquire("s") for _ in range(4)]
        await trio.sleep(5)
        for session in held:
            session.release()
        await trio.sleep_until(14.999)
        assert check_books(pool).size == 4
        await trio.sleep_until(15.001)
        assert (check_books(pool).size, check_books(pool).closed_idle) == (1, 3)
        await trio.sleep(1000)
        assert check_books(pool).size == 1


async def test_min_sessions_of_a_dead_server_are_dialled_at_the_pace_of_the_backoff(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    policy = PoolPolicy(min_sessions=3, max_sessions=3, backoff=Backoff(first=1, factor=2, cap=8, jitter=0))
    async with watched_pool({"s": server}, policy=policy):
        await trio.sleep(30)
    # Three dials that fail together are one outage, and count once.
    assert [c.dialled_at for c in server.connections] == [at for at in (0, 1, 3, 7, 15, 23) for _ in range(3)]


async def test_max_lifetime_is_shortened_by_up_to_five_percent_and_replaced_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(max_lifetime=1000, idle_timeout=math.inf, max_sessions=50, min_sessions=50)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(949.999)
        assert check_books(pool).closed_lifetime == 0
        await trio.sleep_until(1000.001)
        assert check_books(pool).closed_lifetime == 50
        assert check_books(pool).sessions_idle == 50
    ages = sorted(c.closed_at for c in server.connections[:50] if c.closed_at is not None)
    assert 950 <= ages[0] < ages[-1] <= 1000
    assert len(set(ages)) > 40


async def test_max_lifetime_waits_for_running_leases_however_long(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer(), Ledger()
    policy = PoolPolicy(max_lifetime=100, drain_timeout=1)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with pool.session("s") as session, trio.open_nursery() as nursery:
            await trio.sleep(5000)
            await session.list_tools()

            async def next_one() -> None:
                async with pool.session("s") as another:
                    await another.list_tools()

            nursery.start_soon(next_one)  # it waits for nobody
            await settle()
            assert check_books(pool).tasks_waiting_acquire == 0
            assert trio.current_time() == 5000
        await settle()
        (opened, successor_at), (closed, idle_at), *after = [
            (line[1:], line[0]) for line in ledger.story(SessionOpened, SessionClosed) if line[0]
        ]
        # The successor was dialled beside the old one. Nobody used it, so it was closed at the end of its own life, strictly.
        assert (opened, closed) == (("SessionOpened", 2), ("SessionClosed", 2, "lifetime"))
        assert 95 <= successor_at <= 100
        assert 95 <= idle_at - successor_at <= 100
        assert after == [(("SessionOpened", 3), 5000), (("SessionClosed", 1, "lifetime"), 5000)]
        assert server.peak_open == 2


async def test_max_waiting_allows_for_what_the_dials_under_way_will_serve(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": slow(1)})
    policy = PoolPolicy(max_in_flight=2, max_sessions=2, max_waiting=1)
    outcomes: list[tuple[float, str]] = []
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def lease() -> None:
            try:
                async with pool.session("s"):
                    outcomes.append((trio.current_time(), "served"))
                    await trio.sleep(1)
            except TooManyWaitersError as why:
                waiting = why.statistics and why.statistics.tasks_waiting_acquire
                outcomes.append((trio.current_time(), f"{waiting} wait: {why}"))

        for _ in range(6):  # four for the two dials, one waits, one is too many
            nursery.start_soon(lease)
            await settle()
        assert check_books(pool).tasks_waiting_acquire == 5
    assert outcomes == [
        (0, "5 wait: 1 callers wait for server 's' already (max_waiting)"),
        *[(1, "served")] * 4,
        (2, "served"),
    ]


async def test_max_waiting_0_means_that_nobody_waits_for_a_busy_session(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_in_flight=1, max_waiting=0)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def hog() -> None:
            async with pool.session("s"):
                await trio.sleep(1)

        nursery.start_soon(hog)
        await settle()
        with pytest.raises(TooManyWaitersError):
            await pool.acquire("s")
        assert check_books(pool).acquires_rejected == 1


async def test_acquire_timeout_carries_the_last_dials_failure_as_its_cause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError("no route")), never]})
    policy = PoolPolicy(acquire_timeout=5, when_unavailable="wait", backoff=Backoff(first=1, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool:
        with pytest.raises(AcquireTimeoutError, match=r"acquire_timeout \(5 s\)") as caught:
            await pool.acquire("s")
        assert trio.current_time() == 5
        assert isinstance(caught.value.__cause__, ConnectError)
        assert isinstance(caught.value.__cause__.__cause__, OSError)
        assert isinstance(caught.value, TimeoutError)
        stats = check_books(pool)
        assert (stats.acquires_timed_out, stats.acquire_wait_seconds) == (1, 5)


async def test_acquire_timeout_without_a_failed_dial_has_no_cause(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_in_flight=1, acquire_timeout=0)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:
        with pytest.raises(AcquireTimeoutError) as caught:
            await pool.acquire("s")
        assert caught.value.__cause__ is None
        await settle()  # the dial that it asked for goes on
        (await pool.acquire("s")).release()


@pytest.mark.parametrize("stage", ["spawn", "handshake"])
async def test_connect_timeout_covers_the_whole_dial(stage: str, autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": slow(2), stage: slow(2.9)})
    async with watched_pool({"s": server}, policy=PoolPolicy(connect_timeout=3)) as pool:
        if stage == "spawn":
            await pool.wait_ready()
            assert trio.current_time() == 2.9
        else:
            with pytest.raises(ConnectError, match=r"connect_timeout \(3 s\), in phase 'handshake'"):
                await pool.wait_ready()
            assert trio.current_time() == 3


async def test_connect_timeout_begins_when_the_dials_turn_has_come(autojump_clock: trio.testing.MockClock) -> None:
    servers = {f"s{n}": ScriptedServer(gates={"spawn": slow(2)}) for n in range(3)}
    async with watched_pool(servers, policy=PoolPolicy(connect_timeout=3), max_connecting=1) as pool:
        await pool.wait_ready()
        # The place of each dial is lent a second after it began (R5b), and the third one has waited for two of its three.
        assert sorted(s.connections[0].dialled_at for s in servers.values()) == [0, 1, 2]
        assert trio.current_time() == 4


async def test_max_connecting_bounds_the_dials_of_the_whole_pool_in_the_order_of_asking(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {f"s{n}": ScriptedServer(gates={"spawn": slow(1)}) for n in range(7)}
    ledger = Ledger()
    async with watched_pool(servers, max_connecting=3, ledger=ledger) as pool, trio.open_nursery() as nursery:
        for name in servers:
            nursery.start_soon(pool.wait_ready, name)
            await settle()
        assert sum(s.open_connections for s in servers.values()) == 3
        assert check_books(pool).sessions_connecting == 7
    opened = {(e.at, e.server) for e in ledger.events if isinstance(e, SessionOpened)}
    assert opened == {(1 + n // 3, f"s{n}") for n in range(7)}
    assert ledger.count(DialStarted) == 7


async def test_a_dead_server_with_many_sessions_does_not_delay_another(autojump_clock: trio.testing.MockClock) -> None:
    dead, well = ScriptedServer(gates={"handshake": never}), ScriptedServer(gates={"spawn": slow(1)})
    many = PoolPolicy(max_in_flight=1, max_sessions=20)
    servers = {"dead": dead, **{f"well{n}": well for n in range(3)}}
    async with watched_pool(servers, policy=many, max_connecting=4) as pool, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(pool.acquire, "dead")
        await trio.sleep(5)
        assert dead.open_connections == 4
        for n in range(3):
            await pool.wait_ready(f"well{n}")  # it is lent a place at once, for the four have long been held
        assert trio.current_time() == 8
        assert dead.open_connections == 4
        nursery.cancel_scope.cancel()


async def test_R1_owners_run_in_the_context_of_the_pool_and_not_of_a_caller(
    autojump_clock: trio.testing.MockClock,
) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    def factory() -> mcp.Client:
        seen.append(who.get())
        who.set("an owner")
        return mcp.Client(MCPServer("m"))

    who.set("the pool")
    async with watched_pool({"s": CustomServer(factory)}, policy=PoolPolicy(max_sessions=2, max_in_flight=1)) as pool:
        who.set("the body")

        async def call(name: str) -> None:
            who.set(name)
            async with pool.session("s"):
                await trio.sleep(1)
            assert who.get() == name

        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(call, name)
        await pool.drain("s")
        await pool.wait_ready("s")
        assert who.get() == "the body"
    assert seen == ["the pool"] * 4  # both sessions were replaced


async def test_a_servers_own_policy_replaces_the_pools_as_a_whole(autojump_clock: trio.testing.MockClock) -> None:
    own = ScriptedServer(policy=PoolPolicy(max_sessions=3))
    async with watched_pool({"own": own, "s": ScriptedServer()}, policy=PoolPolicy(min_sessions=1)) as pool:
        await settle()
        stats = check_books(pool).servers
        assert [(stats[n].max_sessions, stats[n].min_sessions, stats[n].size) for n in ("own", "s")] == [
            (3, 0, 0),
            (1, 1, 1),
        ]


async def test_backoff_grows_by_its_factor_to_its_cap_and_a_session_that_answers_ends_the_row(
    autojump_clock: trio.testing.MockClock,
) -> None:
    alive = False
    server = ScriptedServer(gates={"spawn": lambda _: slow(0) if alive else error(OSError)})
    policy = PoolPolicy(backoff=Backoff(first=1, factor=3, cap=10, jitter=0), when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool:
        with trio.move_on_after(34):
            await pool.acquire("s")
        assert [c.dialled_at for c in server.connections] == [0, 1, 4, 13, 23, 33]
        alive = True
        await pool.call_tool("s", "echo", {"text": "x"})
        assert trio.current_time() == 43
        alive = False
        server.kill()
        await settle()
        with trio.move_on_after(2.5):
            await pool.acquire("s")
        assert [c.dialled_at for c in server.connections[7:]] == [43, 44]


async def test_a_server_that_shakes_hands_and_dies_at_once_is_not_dialled_in_a_storm(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(min_sessions=1, backoff=Backoff(first=1, factor=2, cap=60, jitter=0))
    observer = _Killer(server)
    async with watched_pool({"s": server}, policy=policy, ledger=observer):
        await trio.sleep(60)
    assert [c.dialled_at for c in server.connections] == [0, 1, 3, 7, 15, 31]


class _Killer(Ledger):
    def __init__(self, server: ScriptedServer) -> None:
        super().__init__()
        self.server = server

    def event(self, e: Any, /) -> None:
        super().event(e)
        if isinstance(e, SessionOpened):
            self.server.kill()


async def test_a_session_that_outlived_the_longest_backoff_ends_the_row_though_nobody_called_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError), error(OSError)]})
    policy = PoolPolicy(min_sessions=1, backoff=Backoff(first=1, factor=2, cap=8, jitter=0))
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(100)
        server.gates["spawn"] = [error(OSError)]
        server.kill()
        await settle()
        with pytest.raises(ConnectError) as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert (caught.value.attempt, caught.value.retry_after) == (1, 1)


async def test_closing_is_counted_by_its_reason(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer(), Ledger()
    policy = PoolPolicy(idle_timeout=10, max_lifetime=20)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.wait_ready()
        await trio.sleep(11)
        await pool.wait_ready()
        await pool.drain("s")
        await pool.call_tool("s", "echo", {"text": "x"})
        server.kill()
        await settle()
        async with pool.session("s"):
            await trio.sleep(30)
        await pool.wait_ready()
    reasons = [e.reason for e in ledger.events if isinstance(e, SessionClosed)]
    # The second idle one is the successor of the one whose lease outlasted `max_lifetime`.
    assert reasons == ["idle", "drained", "broken", "idle", "lifetime", "shutdown"]
    stats = check_books(pool)
    assert [getattr(stats, f"closed_{reason}") for reason in reasons] == [2, 1, 1, 2, 1, 1]


async def test_the_seconds_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": slow(2)})
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool, trio.open_nursery() as nursery:

        async def use() -> None:
            async with pool.session("s"):
                await trio.sleep(3)

        for _ in range(3):
            nursery.start_soon(use)
    stats = check_books(pool)
    assert (stats.connect_seconds, stats.usage_seconds, stats.acquire_wait_seconds) == (2, 9, 2 + 5 + 8)
    assert (stats.peak_in_use, stats.peak_tasks_waiting, stats.acquires, stats.acquires_waited) == (1, 3, 3, 3)
