"""What a step costs does not grow with the number of connections, lanes, waiters or names. Work is counted, not time.

Counted are the lines of the library that run. What Python does in one line, such as looking through a list by `in`, does not
show; `benchmarks/` measures that in seconds.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    Pool,
    PoolPolicy,
    Server,
    Session,
    TooManyWaitersError,
    UnknownServerError,
    open_pool,
)

from .books import settle

FLAT = 1.3
FOREVER = PoolPolicy(idle_timeout=math.inf, max_in_flight=1, drain_timeout=math.inf)


class Hollow(Server):
    """A server whose sessions exist and can do nothing: what is counted is the pool's work alone."""

    def __init__(self, *, fails: bool = False, closing: Callable[[], float] = lambda: 0) -> None:
        self.fails = fails
        self.closing = closing
        self.links: list[Any] = []

    @asynccontextmanager
    async def _connect(self, link: Any) -> AsyncIterator[Any]:
        self.links.append(link)
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise OSError
        inside = SimpleNamespace(list_tools=None, validate_tool_result=None)
        yield SimpleNamespace(session=inside, log_level=None)
        await trio.sleep(self.closing())


class Work:
    """Counts the lines of the library that run in a block, in all tasks."""

    lines = 0

    def __enter__(self) -> Work:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if "/trio_mcp_pool/" in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.lines += event == "line"
        return self._line


async def work(do: Callable[[], Awaitable[object]]) -> int:
    """How many lines it takes, what it sets going included."""
    await settle()
    with Work() as counted:
        await do()
        await settle()
    return counted.lines


async def flat(trial: Callable[[int], Awaitable[float]], small: int = 10, large: int = 1000) -> None:
    """Assert that it takes as much work in a large pool as in a small one."""
    few, many = await trial(small), await trial(large)
    assert few > 0
    assert many <= FLAT * few, f"{few:g} lines with {small}, {many:g} with {large}"


@asynccontextmanager
async def pool_of(n: int, *, policy: PoolPolicy = FOREVER, held: int = 0) -> AsyncIterator[tuple[Pool, list[Session]]]:
    """A pool with `n` connections of one server, of which so many are held."""
    policy = replace(policy, max_sessions=n)
    async with open_pool({"s": Hollow()}, policy=policy, max_connecting=n) as pool:
        sessions: list[Session] = []

        async def acquire() -> None:
            sessions.append(await pool.acquire("s"))

        async with trio.open_nursery() as nursery:
            for _ in range(n):
                nursery.start_soon(acquire)
        for session in sessions[held:]:
            session.release()
        yield pool, sessions[:held]
        for session in sessions[:held]:
            session.release()


@asynccontextmanager
async def lanes_of(n: int, **options: Any) -> AsyncIterator[Pool]:
    """A pool with `n` lanes, one session in each."""
    async with open_pool({"s": Hollow()}, policy=FOREVER, max_connecting=n, **options) as pool:

        async def use(key: int) -> None:
            async with pool.session("s", scope=key):
                pass

        async with trio.open_nursery() as nursery:
            for key in range(n):
                nursery.start_soon(use, key)
        yield pool


@asynccontextmanager
async def waiters(pool: Pool, n: int, server: str = "s", scope: Any = None) -> AsyncIterator[list[float]]:
    """So many tasks that wait for a session, one after the other; cancelled in the end."""
    served: list[float] = []
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            async with pool.session(server, scope=scope):
                served.append(trio.current_time())

        for _ in range(n):
            nursery.start_soon(wait)
        await settle()
        yield served
        nursery.cancel_scope.cancel()


# Connections.


@pytest.mark.parametrize("held", [0, 0.5, 0.99])
async def test_acquire_and_release_with_many_connections(held: float, autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with pool_of(n, held=int(n * held)) as (pool, _):

            async def use() -> None:
                for _ in range(20):
                    (await pool.acquire("s")).release()
                    pool.acquire_nowait("s").release()

            return await work(use)

    await flat(trial)


async def test_a_death_among_many_connections(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with pool_of(n) as (pool, _):
            server = pool.servers["s"]
            assert isinstance(server, Hollow)

            async def die() -> None:
                server.links[n // 2].lost()

            return await work(die)

    await flat(trial)


async def test_a_drain_for_each_of_its_sessions(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with pool_of(n, held=n) as (pool, held):

            async def drain() -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pool.drain, "s")
                    await settle()
                    for session in held:
                        session.release()
                        await trio.lowlevel.checkpoint()

            return await work(drain) / n

    await flat(trial)


async def test_min_sessions_for_each_of_them(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        policy = PoolPolicy(min_sessions=n, max_sessions=n, idle_timeout=10)

        async def open_and_close() -> None:
            async with open_pool({"s": Hollow()}, policy=policy, max_connecting=n):
                await settle()

        return await work(open_and_close) / n

    await flat(trial, 10, 400)


async def test_closing_sessions_that_go_one_after_the_other_for_each_of_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def trial(n: int) -> float:
        seconds = iter(range(n))
        server = Hollow(closing=lambda: next(seconds) / n)
        policy = PoolPolicy(min_sessions=n, max_sessions=n)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(open_pool({"s": server}, policy=policy, max_connecting=n))
            await settle()
            return await work(stack.aclose) / n

    await flat(trial, 10, 400)


# Lanes.


async def test_acquire_and_release_in_one_of_many_lanes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with lanes_of(n) as pool:

            async def use() -> None:
                for key in range(10):
                    (await pool.acquire("s", scope=key)).release()

            return await work(use)

    await flat(trial)


async def test_dialling_for_each_of_many_scopes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with open_pool({"s": Hollow()}, policy=FOREVER) as pool:

            async def dial() -> None:
                async with trio.open_nursery() as nursery:
                    for key in range(n):
                        nursery.start_soon(use, key)

            async def use(key: int) -> None:
                async with pool.session("s", scope=key):
                    pass

            return await work(dial) / n

    await flat(trial)


async def test_an_outage_for_each_of_many_scopes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        policy = PoolPolicy(backoff=Backoff(first=100, cap=100))
        async with open_pool({"s": Hollow(fails=True)}, policy=policy) as pool:

            async def use(key: int) -> None:
                with pytest.raises(ConnectError):
                    await pool.acquire("s", scope=key)

            async def fail() -> None:
                async with trio.open_nursery() as nursery:
                    for key in range(n):
                        nursery.start_soon(use, key)

            return await work(fail) / n

    await flat(trial)


async def test_entering_and_leaving_a_scope_among_many(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with lanes_of(n) as pool:

            async def use() -> None:
                async with pool.open_scope("mine") as scope:
                    (await scope.acquire("s")).release()

            return await work(use)

    await flat(trial)


async def test_statistics_of_many_lanes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with lanes_of(n) as pool:

            async def poll() -> None:
                assert pool.statistics().size == n
                await trio.lowlevel.checkpoint()

            return await work(poll)

    await flat(trial)


async def test_too_many_waiters_with_many_lanes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        policy = replace(FOREVER, max_waiting=0)
        servers = {"s": Hollow()}
        async with open_pool(servers, policy=policy, max_connecting=n) as pool:
            held = [await pool.acquire("s", scope=key) for key in range(n)]

            async def reject() -> None:
                with pytest.raises(TooManyWaitersError):
                    await pool.acquire("s", scope=3)

            lines = await work(reject)
            for session in held:
                session.release()
            return lines

    await flat(trial)


# Waiters.


async def test_serving_each_of_many_waiters(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with pool_of(1, held=1) as (pool, held), waiters(pool, n) as served:

            async def serve() -> None:
                held[0].release()
                await settle()

            lines = await work(serve)
            assert len(served) == n
            return lines / n

    await flat(trial)


async def test_joining_and_leaving_a_long_queue(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with pool_of(1, held=1) as (pool, _), waiters(pool, n):

            async def give_up() -> None:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(pool.acquire, "s")
                        await settle()
                        scope.cancel()

            return await work(give_up)

    await flat(trial)


async def test_telling_each_of_many_waiters_that_their_server_was_removed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def trial(n: int) -> float:
        async with pool_of(1, held=1) as (pool, held), trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(UnknownServerError):
                    await pool.acquire("s")

            for _ in range(n):
                nursery.start_soon(wait)

            async def remove() -> None:
                nursery.start_soon(pool.remove_server, "s")
                await settle()
                held[0].release()

            return await work(remove) / n

    await flat(trial)


# max_sessions_total.


async def test_making_room_among_many_idle_lanes(autojump_clock: trio.testing.MockClock) -> None:
    async def trial(n: int) -> float:
        async with lanes_of(n, max_sessions_total=n) as pool:

            async def use() -> None:
                for key in range(5):
                    (await pool.acquire("s", scope=n + key)).release()

            return await work(use)

    await flat(trial)


async def test_acquire_and_release_while_others_wait_for_a_place_among_many_busy_lanes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def trial(n: int) -> float:
        servers = {"s": Hollow(), "t": Hollow()}
        policy = PoolPolicy(idle_timeout=math.inf, max_in_flight=4, drain_timeout=math.inf)
        async with open_pool(servers, policy=policy, max_connecting=n, max_sessions_total=n) as pool:
            held = [await pool.acquire("s", scope=key) for key in range(n)]
            async with waiters(pool, 1, "t"):

                async def use() -> None:
                    for key in range(1, 10):
                        (await pool.acquire("s", scope=key)).release()

                lines = await work(use)
            for session in held:
                session.release()
            return lines

    await flat(trial)


# Names that came and went.


async def test_names_that_were_removed_cost_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """The counters of the last few are kept by name, those of all others in one sum."""

    async def trial(n: int) -> float:
        async with open_pool({"s": Hollow()}, policy=FOREVER) as pool:
            for number in range(n):
                name = f"tenant {number}"
                pool.add_server(name, Hollow())
                (await pool.acquire(name)).release()
                await pool.remove_server(name)

            async def poll() -> None:
                stats = pool.statistics()
                assert (stats.acquires, stats.closed_drained, len(stats.servers)) == (n, n, 1 + 64)
                pool.add_server("another", Hollow())
                await pool.remove_server("another")

            return await work(poll)

    await flat(trial, 100, 1000)


def objects() -> int:
    """How many objects there are, beside those that Trio keeps until the deadline of a scope that has been left."""
    gc.collect()
    return sum(type(each).__name__ not in ("CancelScope", "CancelReason", "tuple") for each in gc.get_objects())


async def memory(round: Callable[[int], Awaitable[None]]) -> tuple[int, int]:
    """The number of objects that Python knows after a few rounds and after many more."""
    counts: list[int] = []
    for first, last in ((0, 300), (300, 1500)):
        for number in range(first, last):
            await round(number)
        await settle()
        counts.append(objects())
    return counts[0], counts[1]


async def test_memory_is_flat_over_servers_that_came_and_went(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool({"s": Hollow()}) as pool:

        async def round(number: int) -> None:
            name = f"tenant {number}"
            pool.add_server(name, Hollow())
            (await pool.acquire(name)).release()
            (await pool.acquire(name, scope=number)).release()
            await pool.remove_server(name)

        few, many = await memory(round)
        assert many - few < 300


@pytest.mark.parametrize("kind", ["shared and idle", "shared and closed", "open_scope", "with own servers", "failed"])
async def test_memory_is_flat_over_scopes_that_came_and_went(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(idle_timeout=1, backoff=Backoff(first=0.5, cap=0.5))
    server = Hollow(fails=kind == "failed")
    async with open_pool({"s": server}, policy=policy) as pool:

        async def round(number: int) -> None:
            server.links.clear()
            if kind == "failed":
                with pytest.raises(ConnectError):
                    await pool.acquire("s", scope=number)
                await trio.sleep(1)
            elif kind.startswith("shared"):
                (await pool.acquire("s", scope=number)).release()
                if kind == "shared and closed":
                    await pool.close_scope(number)
                elif number % 50 == 0:
                    await trio.sleep(3)
            else:
                own = {"own": Hollow()} if kind == "with own servers" else None
                async with pool.open_scope(number if number % 2 else None, servers=own) as scope:
                    (await scope.acquire("own" if own else "s")).release()

        few, _ = await memory(round)
        await trio.sleep(5)
        assert objects() - few < 300
        stats = pool.statistics()
        assert stats.size == 0
        assert stats.connects == 1500


async def test_memory_is_flat_over_drains_and_deaths(autojump_clock: trio.testing.MockClock) -> None:
    server = Hollow()
    policy = PoolPolicy(backoff=Backoff(first=0.001, cap=0.001))
    async with open_pool({"s": server}, policy=policy) as pool:

        async def round(number: int) -> None:
            await trio.sleep(1)
            (await pool.acquire("s")).release()
            if number % 2:
                server.links[-1].lost()
                await trio.sleep(1)
            else:
                await pool.drain("s")
            del server.links[:-1]

        few, many = await memory(round)
        assert many - few < 300
