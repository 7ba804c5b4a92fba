"""What a pool keeps up to date and lets go of while it works: timers, peaks, errors."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    CustomServer,
    DialStarted,
    Event,
    InProcessServer,
    LeaseStarted,
    Pool,
    PoolPolicy,
    Session,
    SessionDied,
    SessionLostError,
    SessionOpened,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

from .books import Ledger, settle, text, watched_pool


def living(kind: str) -> int:
    """How many objects of a class of that name there are."""
    gc.collect()
    return sum(type(each).__name__ == kind for each in gc.get_objects())


# Timers.


async def test_R15_the_timers_of_dials_that_are_over_do_not_pile_up(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(connect_timeout=3600, idle_timeout=0.5)
    async with open_pool({"s": ScriptedServer()}, policy=policy) as pool:
        for _ in range(250):
            await pool.call_tool("s", "echo", {"text": "x"})
            await trio.sleep(1)
        assert pool.statistics().connects == 250
        assert living("Timer") < 200


async def test_R15_nor_do_those_of_dials_that_failed(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    policy = PoolPolicy(connect_timeout=3600, backoff=Backoff(first=0.1, cap=0.1, jitter=0))
    async with open_pool({"s": server}, policy=policy) as pool:
        for _ in range(250):
            with pytest.raises(ConnectError):
                await pool.wait_ready("s")
            await trio.sleep(0.1)
        assert pool.statistics().connects_failed == 250
        assert living("Timer") < 200


@pytest.mark.parametrize("used", [True, False])
async def test_R10_nothing_but_numbers_stays_of_servers_that_were_removed(
    used: bool, autojump_clock: trio.testing.MockClock
) -> None:
    before = living("Lane"), living("Entry")
    async with open_pool({}) as pool:
        for n in range(50):
            pool.add_server(f"s{n}", ScriptedServer())
            if used:
                await pool.call_tool(f"s{n}", "echo", {"text": "x"})
            await pool.remove_server(f"s{n}")
        assert pool.statistics().acquires == 50 * used
        assert living("Lane") - before[0] < 10
        assert living("Entry") - before[1] < 10


async def test_R5_a_backoff_that_begins_anew_after_a_drain_ends_in_its_own_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    down = True
    server = ScriptedServer(gates={"spawn": lambda _: error(OSError) if down else ok})
    policy = PoolPolicy(backoff=Backoff(first=1, factor=10, jitter=0), when_unavailable="wait")
    answered: list[float] = []
    async with open_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def caller() -> None:
            await pool.call_tool("s", "echo", {"text": "x"})
            answered.append(trio.current_time())

        nursery.start_soon(caller)
        await trio.sleep(2)  # the second failure came at 1, and is followed by ten seconds
        await pool.drain("s")  # dialled at once, for the third time
        await settle()
        down = False
    assert answered == [3]


async def test_R2_R5_in_the_shielded_clean_up_of_a_cancelled_body_a_mute_dial_still_has_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": never})
    told: list[tuple[type[BaseException], float]] = []
    with trio.move_on_after(1):
        async with open_pool({"s": server}, policy=PoolPolicy(connect_timeout=10)) as pool:
            try:
                await trio.sleep_forever()
            finally:
                with trio.fail_after(100, shield=True):
                    try:
                        await pool.call_tool("s", "echo", {"text": "x"})
                    except ConnectError as exc:
                        told.append((type(exc), trio.current_time()))
    assert told == [(ConnectError, 11)]


async def test_R2_R5_in_the_shielded_clean_up_of_a_cancelled_body_a_backoff_still_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    down = True
    server = ScriptedServer(gates={"spawn": lambda _: error(OSError) if down else ok})
    policy = PoolPolicy(backoff=Backoff(first=5, jitter=0), when_unavailable="wait")
    answered: list[float] = []
    with trio.move_on_after(1):
        async with open_pool({"s": server}, policy=policy) as pool:
            try:
                await pool.call_tool("s", "echo", {"text": "x"})
            finally:
                down = False
                with trio.fail_after(100, shield=True):
                    await pool.call_tool("s", "echo", {"text": "x"})
                    answered.append(trio.current_time())
    assert answered == [5]


# Peaks.


@pytest.mark.parametrize("opened", [watched_pool, open_pool])
async def test_R10_the_peak_of_a_server_counts_sessions_that_are_in_use_together(
    opened: Callable[..., Any], autojump_clock: trio.testing.MockClock
) -> None:
    """With an observer and without: a release without one takes a shorter way."""
    policy = PoolPolicy(max_sessions=2, max_in_flight=1)
    server = ScriptedServer()
    async with opened({"s": server, "t": ScriptedServer()}, policy=policy) as pool:

        def peaks() -> list[int]:
            stats = pool.statistics()
            return [stats.peak_in_use, stats.servers["s"].peak_in_use, stats.servers["t"].peak_in_use]

        async with pool.session("s"):  # one after the other
            pass
        async with pool.session("s"):
            pass
        async with pool.session("t"):
            pass
        assert peaks() == [1, 1, 1]
        async with pool.session("s") as session:
            await session.call_tool("echo", {"text": "x"})
            server.kill()
            with pytest.raises(SessionLostError):
                await session.call_tool("echo", {"text": "x"})
        async with pool.session("s"):  # after one that died while it was in use
            pass
        assert peaks() == [1, 1, 1]
        async with pool.session("s"), pool.session("s"), pool.session("t"):
            pass
        assert peaks() == [3, 2, 1]


async def test_R10_the_peak_of_waiters_of_a_server_counts_those_that_wait_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_sessions=1, max_in_flight=1)
    async with watched_pool({"s": ScriptedServer(), "t": ScriptedServer()}, policy=policy) as pool:

        async def once(name: str) -> None:
            async with pool.session(name):
                pass

        await once("s")
        for name, callers in [("s", 2), ("s", 2), ("t", 1)]:
            async with pool.session(name), trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(once, name)
                await settle()
                nursery.cancel_scope.cancel()
        stats = pool.statistics()
        assert [stats.peak_tasks_waiting, *(stats.servers[name].peak_tasks_waiting for name in "st")] == [2, 2, 1]


# Errors.


class Mishap(Exception):
    """What a dial raises."""

    def __init__(self, raised: list[weakref.ref[Mishap]]) -> None:
        raised.append(weakref.ref(self))


async def test_R15_the_error_of_a_dial_is_held_by_no_cycle(autojump_clock: trio.testing.MockClock) -> None:
    raised: list[weakref.ref[Mishap]] = []

    def connect() -> Any:
        raise Mishap(raised)

    policy = PoolPolicy(backoff=Backoff(first=1, cap=1, jitter=0))
    async with open_pool({"s": CustomServer(connect)}, policy=policy) as pool:
        gc.collect()
        gc.disable()
        try:
            for _ in range(4):
                try:
                    await pool.call_tool("s", "echo", {"text": "x"})
                except ConnectError:
                    pass
                await trio.sleep(2)
            # The last one is what the statistics show.
            assert [each() is None for each in raised] == [True, True, True, False]
        finally:
            gc.enable()


# The session that was set up.


async def test_R2_a_session_that_was_configured_closes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async def configure(session: Session) -> None:
        await session.call_tool("echo", {"text": "hello"})

    async with watched_pool({"s": ScriptedServer(configure=configure)}) as pool:
        assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
        await pool.drain("s")
        await pool.call_tool("s", "echo", {"text": "x"})
    assert trio.current_time() == 0


# What was removed.


async def nothing_done_in(pool: Pool, *names: str) -> None:
    """One after the other, scopes with a server of that name, which nobody calls."""
    for name in names:
        async with pool.open_scope(servers={name: ScriptedServer()}):
            pass


async def test_R10_the_names_of_the_servers_that_were_removed_last_are_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({}) as pool:
        await nothing_done_in(pool, *(f"s{n}" for n in range(70)))
        assert list(pool.statistics().servers) == [f"s{n}" for n in range(6, 70)]


async def test_R10_a_name_counts_as_removed_when_the_last_server_of_that_name_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({}) as pool:
        async with pool.open_scope(servers={"twice": ScriptedServer()}):
            await nothing_done_in(pool, "twice", "once")
        await nothing_done_in(pool, *(f"s{n}" for n in range(63)))
        assert list(pool.statistics().servers) == ["twice", *(f"s{n}" for n in range(63))]


# Finding.


async def test_keys_of_the_same_hash_are_different_scopes(autojump_clock: trio.testing.MockClock) -> None:
    assert hash(-1) == hash(-2)
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        for key in (-1, -2, -1.0):
            await pool.call_tool("s", "echo", {"text": "x"}, scope=key)
        assert [call.connection for call in server.calls] == [1, 2, 1]


# Replacing.


@pytest.mark.parametrize(("total", "dialled"), [(1, 1), (2, 2)])
async def test_R9_R10b_a_drain_dials_a_successor_only_where_the_pool_has_a_place_for_it(
    total: int, dialled: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pool({"s": ScriptedServer()}, max_sessions_total=total) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
        await pool.drain("s")
        assert (trio.current_time(), pool.statistics().connects) == (0, dialled)


async def test_R9_a_successor_of_a_server_that_is_replaced_by_another_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    old, new = ScriptedServer(gates={"handshake": [ok, slow(5)]}), ScriptedServer()
    ledger = Ledger()
    async with watched_pool({"s": old}, ledger=ledger) as pool, trio.open_nursery() as nursery:
        async with pool.session("s"):
            nursery.start_soon(pool.drain, "s")
            await trio.sleep(1)
            nursery.start_soon(pool.reconfigure, {"s": new})
            await trio.sleep(1)
        await pool.call_tool("s", "echo", {"text": "x"})
        await trio.sleep(10)
        assert [call.tool for call in new.calls] == ["echo"]
    assert ledger.story(DialStarted, SessionOpened) == [
        (0, "DialStarted", 1),
        (0, "SessionOpened", 1),
        (0, "DialStarted", 2),
        (1, "DialStarted", 3),
        (1, "SessionOpened", 3),
    ]


async def test_wait_lost_returns_at_once_for_a_session_that_is_drained(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_overlap=0, drain_timeout=60)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool, trio.open_nursery() as nursery:
        async with pool.session("s") as session:
            nursery.start_soon(pool.drain, "s")
            await settle()
            with trio.fail_after(5):
                await session.wait_lost()
            assert trio.current_time() == 0


# What is told, and when.


async def test_R17_what_an_observer_does_is_told_after_what_it_was_told_of(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[list[str]] = [[], []]

    class Busy:
        """Leases a session when it hears of one."""

        def event(self, e: Event) -> None:
            told[0].append(type(e).__name__)
            if isinstance(e, SessionOpened):
                pool.acquire_nowait("s").release()

    class Other:
        def event(self, e: Event) -> None:
            told[1].append(type(e).__name__)

    async with open_pool({"s": ScriptedServer()}, observers=[Busy(), Other()]) as pool:
        await pool.wait_ready("s")
        assert told[0] == told[1]
        assert told[0][-3:] == ["SessionOpened", "LeaseStarted", "LeaseEnded"]


async def test_a_session_that_does_not_close_is_reported_with_its_process_if_it_has_one(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(gates={"close": slow(50, shielded=True)})
    async with open_pool({"s": server}, policy=PoolPolicy(close_timeout=3)) as pool:
        await pool.wait_ready("s")
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ["server 's': its session has not closed within close_timeout (no process known)"]


# Many sessions, one after the other.


async def test_R10_sessions_that_have_gone_do_not_hide_a_surplus(autojump_clock: trio.testing.MockClock) -> None:
    many = PoolPolicy(max_sessions=3, max_in_flight=1, idle_timeout=1)
    server = InProcessServer(MCPServer("inside"), policy=many)
    async with watched_pool({"s": server}, limits=False) as pool:
        for _ in range(3):
            await pool.list_tools("s")
            await trio.sleep(2)
        assert pool.statistics().closed_idle == 3
        async with pool.session("s"), pool.session("s"), pool.session("s"):
            pass
        assert pool.statistics().size == 3
        await pool.reconfigure({"s": replace(server, policy=PoolPolicy(max_sessions=1))})
        await settle()
        assert pool.statistics().size == 1


@pytest.mark.parametrize("seed", range(20))
async def test_R4_the_next_session_is_always_the_least_used_and_among_equals_the_one_lent_last(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    chance = random.Random(seed)
    ledger, server = Ledger(), ScriptedServer()
    policy = PoolPolicy(min_sessions=5, max_sessions=5, max_in_flight=3)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        while pool.statistics().sessions_idle < 5:
            await trio.sleep(1)
        living = [e.connection for e in ledger.events if isinstance(e, SessionOpened)]
        held: list[tuple[int, Session]] = []
        lent: list[int] = []
        for step in range(150):
            leases = [number for number, _ in held]
            if held and chance.random() < 0.5:
                held.pop(chance.randrange(len(held)))[1].release()
            elif len(held) < 3 * len(living):
                session = pool.acquire_nowait("s")
                number = [e.connection for e in ledger.events if isinstance(e, LeaseStarted)][-1]
                last = {each: when for when, each in enumerate(lent)}
                free = [each for each in living if leases.count(each) < 3]
                assert number == min(free, key=lambda each: (leases.count(each), -last.get(each, -1), each)), step
                held.append((number, session))
                lent.append(number)
            if step == 75:
                server.kill(chance.randint(1, 5))
                await settle()
                (victim,) = [e.connection for e in ledger.events if isinstance(e, SessionDied)]
                living.remove(victim)
                living += [e.connection for e in ledger.events if isinstance(e, SessionOpened)][5:]
                held = [(number, session) for number, session in held if number != victim]
        for _, session in held:
            session.release()


async def test_R4_sessions_that_are_lent_and_given_back_in_turn_a_hundred_times_can_still_be_lent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(min_sessions=2, max_sessions=2, max_in_flight=3)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:
        while pool.statistics().sessions_idle < 2:
            await trio.sleep(1)
        held = [pool.acquire_nowait("s") for _ in range(2)]
        for turn in range(100):
            held[turn % 2].release()
            held[turn % 2] = pool.acquire_nowait("s")
            assert held[0].client is not held[1].client
            # Among equals the one that was lent last comes first.
            third = pool.acquire_nowait("s")
            assert third.client is held[turn % 2].client
            third.release()
        for session in held:
            session.release()
