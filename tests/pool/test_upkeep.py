"""What a pool keeps up to date and lets go of while it works: timers, peaks, errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    CustomServer,
    PoolPolicy,
    Session,
    SessionLostError,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok

from .books import settle, text, watched_pool


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
