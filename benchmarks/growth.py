"""What grows with the size of a pool: the same operation in a large pool and in a small one.

Nothing should. Each row divides what one operation takes in the large pool by what it takes in the small one, in the same
round; at most 1.3 is promised. The servers are in this process, so that the pool's own work is not hidden behind them.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

import trio

from trio_mcp_pool import Pool, PoolPolicy, TooManyWaitersError, open_pool

from .contests import Plan, Told, in_process
from .measure import Row, Sample, Stopwatch, Turn, interleave

BOUND = 1.3


def row(key: str, title: str, large: int, small: int, unit: str, got: dict[str, list[Sample]]) -> Row:
    """Large against small."""
    return Row(key, title, f"{large:,} {unit}", f"{small:,} {unit}", BOUND, got["large"], got["small"])


async def compare(large: Turn, small: Turn, plan: Plan, told: Told) -> dict[str, list[Sample]]:
    """Both in turn, without the garbage collector: what it takes grows with all that lives, the servers in here included."""

    def uncollected(turn: Turn) -> Turn:
        async def run() -> Sample:
            gc.disable()
            try:
                return await turn()
            finally:
                gc.enable()

        return run

    turns = {"large": uncollected(large), "small": uncollected(small)}
    return await interleave(turns, plan.lane_rounds, told=told)


@asynccontextmanager
async def with_sessions(count: int) -> AsyncIterator[Pool]:
    """A pool with so many idle sessions of one server."""
    policy = PoolPolicy(max_sessions=count, max_in_flight=1)
    async with open_pool({"echo": in_process(policy)}, max_connecting=64) as pool:
        async with trio.open_nursery() as nursery:
            everybody = trio.Event()

            async def hold() -> None:
                async with pool.session("echo"):
                    if pool.statistics().sessions_in_use == count:
                        everybody.set()
                    await everybody.wait()

            for _ in range(count):
                nursery.start_soon(hold)
        yield pool


@asynccontextmanager
async def with_lanes(count: int, policy: PoolPolicy | None = None) -> AsyncIterator[Pool]:
    """A pool with so many lanes, each of a scope of its own and with an idle session."""
    async with open_pool({"echo": in_process(policy)}, max_connecting=64) as pool:

        async def open_lane(number: int) -> None:
            async with pool.session("echo", scope=number):
                pass

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(open_lane, number)
        yield pool


@asynccontextmanager
async def with_kept(count: int) -> AsyncIterator[Pool]:
    """A pool with so many sessions that `min_sessions` keeps."""
    policy = PoolPolicy(max_sessions=count, min_sessions=count)
    async with open_pool({"echo": in_process(policy)}, max_connecting=64) as pool:
        while pool.statistics().sessions_idle < count:
            await trio.lowlevel.checkpoint()
        yield pool


async def entering(pool: AbstractAsyncContextManager[Pool], operations: int) -> Sample:
    """What it takes to enter this block, which does so many operations; leaving it is not counted."""
    watch = Stopwatch()
    async with AsyncExitStack() as stack:
        with watch:
            await stack.enter_async_context(pool)
    return watch.sample(operations)


async def dials(plan: Plan, told: Told) -> list[Row]:
    """First leases of many scopes at once."""

    def turn(scopes: int) -> Turn:
        async def first_leases() -> Sample:
            return await entering(with_lanes(scopes), scopes)

        return first_leases

    large, small = plan.lanes * 4, max(1, plan.lanes // 2)
    got = await compare(turn(large), turn(small), plan, told)
    return [row("growth-dials", "a first lease among many scopes", large, small, "scopes", got)]


async def leases(plan: Plan, told: Told) -> list[Row]:
    """Acquire and release among many idle sessions."""

    def turn(pool: Pool) -> Turn:
        async def acquire_and_release() -> Sample:
            watch = Stopwatch()
            with watch:
                for _ in range(plan.calls):
                    pool.acquire_nowait("echo").release()
            return watch.sample(plan.calls)

        return acquire_and_release

    large, small = plan.lanes, max(1, plan.lanes // 100)
    async with with_sessions(large) as many, with_sessions(small) as few:
        got = await compare(turn(many), turn(few), plan, told)
    return [row("growth-leases", "acquire and release", large, small, "idle sessions", got)]


async def kept(plan: Plan, told: Told) -> list[Row]:
    """Sessions that `min_sessions` keeps."""

    def turn(count: int) -> Turn:
        async def all_ready() -> Sample:
            return await entering(with_kept(count), count)

        return all_ready

    large, small = max(1, plan.lanes * 2 // 5), max(1, plan.lanes // 25)
    got = await compare(turn(large), turn(small), plan, told)
    return [row("growth-kept", "a session of min_sessions", large, small, "sessions", got)]


async def lanes(plan: Plan, told: Told) -> list[Row]:
    """What looks at the whole pool: statistics, and the error that carries them."""
    policy = PoolPolicy(max_in_flight=1, max_waiting=0)
    large, small = plan.lanes, max(1, plan.lanes // 100)

    def statistics(pool: Pool) -> Turn:
        async def look() -> Sample:
            watch = Stopwatch()
            with watch:
                for _ in range(plan.calls):
                    pool.statistics()
            return watch.sample(plan.calls)

        return look

    def rejected(pool: Pool) -> Turn:
        async def too_many() -> Sample:
            watch = Stopwatch()
            holder = await pool.acquire("echo", scope=0)
            with watch:
                for _ in range(plan.calls):
                    try:
                        await pool.acquire("echo", scope=0)
                    except TooManyWaitersError:
                        pass
            holder.release()
            return watch.sample(plan.calls)

        return too_many

    async with with_lanes(large, policy) as many, with_lanes(small, policy) as few:
        looked = await compare(statistics(many), statistics(few), plan, told)
        refused = await compare(rejected(many), rejected(few), plan, told)
    return [
        row("growth-statistics", "statistics()", large, small, "lanes", looked),
        row("growth-rejected", "a TooManyWaitersError", large, small, "lanes", refused),
    ]


async def names(plan: Plan, told: Told) -> list[Row]:
    """Statistics of a pool that many servers have passed through."""
    large, small = plan.lanes * 10, max(1, plan.lanes // 100)

    async def pass_through(pool: Pool, count: int) -> None:
        for number in range(count):
            pool.add_server(f"server {number}", in_process())
            await pool.remove_server(f"server {number}")

    def turn(pool: Pool) -> Turn:
        async def look() -> Sample:
            watch = Stopwatch()
            with watch:
                for _ in range(plan.calls):
                    pool.statistics()
            return watch.sample(plan.calls)

        return look

    async with open_pool({"echo": in_process()}) as many, open_pool({"echo": in_process()}) as few:
        await pass_through(many, large)
        await pass_through(few, max(small, 100))
        got = await compare(turn(many), turn(few), plan, told)
    return [row("growth-names", "statistics() after many servers came and went", large, max(small, 100), "names", got)]


async def waiters(plan: Plan, told: Told) -> list[Row]:
    """One hand-over in a queue ten times as long."""
    from .contests import hand_over

    few = plan.waiters
    got = await hand_over(replace(plan, waiters=few * 10, few_waiters=few), told)
    return [replace(got[0], key="growth-waiters", bound=BOUND, title=f"a hand-over with {few * 10:,} waiters")]


async def growth(plan: Plan, told: Told) -> list[Row]:
    """All of them."""
    found: list[Row] = []
    for contest in (dials, leases, kept, lanes, names, waiters):
        found += await contest(plan, told)
    return found
