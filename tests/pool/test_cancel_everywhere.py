"""Every way into the pool, cancelled at every point at which it can be cancelled; and Ctrl-C at every point of a program.

A task can be cancelled, or interrupted, only where it lets go of the processor. So an instrument counts the steps of the
task under test and cancels it after the n-th, for n = 0, 1, 2, ... until it gets through without being cancelled. After
each of these runs the books balance, nothing is left, and the pool serves the next caller as if nothing had been.
"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_mcp_pool import Pool, PoolError, PoolPolicy, open_pool
from trio_mcp_pool.testing import ScriptedServer, error, slow

from ._audit import Auditor, on_virtual_time

pytestmark = pytest.mark.exhaustive

POLICY = PoolPolicy(drain_timeout=4, close_timeout=3, connect_timeout=5, max_sessions=2, max_in_flight=2)
BOUND = POLICY.drain_timeout + POLICY.close_timeout + 0.5
# No way into the pool has so many steps; a run that gets here would never get through.
MOST_STEPS = 2000


class At(trio.abc.Instrument):
    """Does something once, after the n-th step of one task, or of any. Step 0 is before the first."""

    def __init__(self, n: int, then: Callable[[], None], *, of_any: bool = False) -> None:
        self.n = n
        self.then = then
        self.of_any = of_any
        self.task: object = None
        self.steps = 0
        self.done = False

    def arm(self) -> None:
        """From here on the current task's steps count."""
        self.task = trio.lowlevel.current_task()
        self._look()

    def disarm(self) -> None:
        self.task = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task or (self.of_any and self.task is not None):
            self.steps += 1
            self._look()

    def _look(self) -> None:
        if self.steps == self.n and not self.done:
            self.done = True
            self.then()


class World:
    """One pool over two servers, some of it in use by others."""

    def __init__(self, gates: dict[str, Any]) -> None:
        self.servers = {name: ScriptedServer(gates=gates) for name in ("a", "b")}
        self.auditor = Auditor()
        self.faults: list[str] = []

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with open_pool(self.servers, policy=POLICY, observers=[self.auditor]) as pool:
            self.auditor.pool = pool
            yield pool
        self.check_nothing_left(tasks)

    def check_nothing_left(self, tasks: int) -> None:
        self.auditor.check_closed()
        self.faults += self.auditor.faults
        for server in self.servers.values():
            if server.open_connections:
                self.faults.append(f"left open: {server.connections}")
        if trio.lowlevel.current_statistics().tasks_living != tasks:
            self.faults.append("tasks are left")

    async def still_serves(self, pool: Pool) -> None:
        """Nobody holds or waits for anything, and the next caller is served."""
        self.check_nothing_held(pool)
        for server in self.servers.values():
            server.gates.clear()
        for name in ("a", "b"):
            try:
                with trio.fail_after(60):
                    await pool.drain(name)  # forget what failed
                    await pool.call_tool(name, "echo", {"text": "next"})
            except (PoolError, trio.TooSlowError) as exc:
                self.faults.append(f"the next caller of {name}: {exc!r}")
        self.check_nothing_held(pool)

    def check_nothing_held(self, pool: Pool) -> None:
        stats = pool.statistics()
        if stats.leases_in_flight or stats.tasks_waiting_acquire:
            self.faults.append(f"a lease or a waiter is left: {stats}")


async def acquire(pool: Pool, world: World) -> None:
    session = await pool.acquire("a")
    session.release()


async def acquire_full(pool: Pool, world: World) -> None:
    """Every place is taken, and given back while it waits."""
    sessions = []
    try:
        for _ in range(3):
            sessions.append(await pool.acquire("a"))  # those before a cancellation must be given back
        async with trio.open_nursery() as nursery:

            async def give_back() -> None:
                await trio.sleep(1)
                for session in sessions:
                    session.release()

            async def other() -> None:
                (await pool.acquire("a")).release()

            nursery.start_soon(give_back)
            nursery.start_soon(other)
            (await pool.acquire("a")).release()
    finally:
        for session in sessions:
            session.release()


async def session(pool: Pool, world: World) -> None:
    async with pool.session("a") as held:
        await held.call_tool("echo", {"text": "x"})
        await trio.lowlevel.checkpoint()
        await held.list_tools()


async def call_tool(pool: Pool, world: World) -> None:
    await pool.call_tool("a", "echo", {"text": "x"})
    await pool.call_tool("a", "echo", {"text": "y"})


async def resent(pool: Pool, world: World) -> None:
    await pool.list_tools("a")
    for server in world.servers.values():
        server.gates["stream"] = [error()]
    await pool.read_resource("a", "memo://hello")
    await pool.read_resource("a", "memo://hello")


async def scope(pool: Pool, world: World) -> None:
    async with pool.open_scope("mine") as mine:
        await mine.call_tool("a", "echo", {"text": "x"})
        async with mine.session("b") as held:
            await held.call_tool("echo", {"text": "x"})


async def shared_scope(pool: Pool, world: World) -> None:
    await pool.call_tool("a", "echo", {"text": "x"}, scope="ours")
    (await pool.acquire("b", scope="ours")).release()


async def wait_ready(pool: Pool, world: World) -> None:
    await pool.wait_ready()


async def drain(pool: Pool, world: World) -> None:
    await pool.call_tool("a", "echo", {"text": "x"})
    await pool.drain("a")


async def remove_and_add(pool: Pool, world: World) -> None:
    await pool.call_tool("a", "echo", {"text": "x"})
    try:
        await pool.remove_server("a")
    finally:
        try:
            pool.add_server("a", world.servers["a"])
        except ValueError:
            pass  # cancelled before it was removed


async def reconfigure(pool: Pool, world: World) -> None:
    await pool.wait_ready()
    new = {"a": ScriptedServer(), "b": world.servers["b"]}
    await pool.reconfigure(new)
    await pool.call_tool("a", "echo", {"text": "x"})
    await pool.reconfigure(world.servers)


WAYS_IN = [
    acquire, acquire_full, session, call_tool, resent, scope, shared_scope, wait_ready, drain, remove_and_add, reconfigure,
]  # fmt: skip
GATES: dict[str, dict[str, Any]] = {
    "quick": {},
    "slow": {"spawn": slow(0.5), "handshake": slow(0.5), "call": slow(0.5), "close": slow(0.5)},
    "failing": {"spawn": [error()], "close": error()},
}


def _everywhere(once: Callable[[int], tuple[bool, list[str]]]) -> list[str]:
    """Run it for n = 0, 1, 2, ... until nothing happened to it. All faults, each with its n."""
    failures: list[str] = []
    for n in range(MOST_STEPS):
        random.seed(n)
        happened, faults = once(n)
        failures += [f"step {n}: {fault}" for fault in faults]
        if not happened:
            assert n >= 2, "it has no steps"
            return failures
    return [*failures, "it never got through"]


@pytest.mark.parametrize(
    ("gates", "of_any"), [("quick", False), ("slow", False), ("failing", False), ("quick", True), ("failing", True)]
)
@pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda f: f.__name__)
def test_R3_cancelled_at_any_point_a_caller_leaves_no_trace(
    way_in: Callable[[Pool, World], Awaitable[None]], gates: str, of_any: bool
) -> None:
    """`of_any`: between any two steps of any task, so at every point of the dial, the hand-over and the closing."""

    def once(n: int) -> tuple[bool, list[str]]:
        world = World(dict(GATES[gates]))
        scope = trio.CancelScope()
        at = At(n, scope.cancel, of_any=of_any)

        async def main() -> None:
            async with world.pool() as pool:
                with scope:
                    at.arm()
                    try:
                        await way_in(pool, world)
                    except PoolError as exc:
                        if gates != "failing":
                            world.faults.append(repr(exc))
                    finally:
                        at.disarm()
                await world.still_serves(pool)

        try:
            on_virtual_time(main, seed=n, instruments=[at])
        except Exception as exc:
            world.faults.append(f"{exc!r} came out")
        return at.done, world.faults

    failures = _everywhere(once)
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:20])


async def _busy(pool: Pool, world: World, nursery: trio.Nursery) -> None:
    """Somebody calls, somebody holds, somebody waits, somebody has a scope."""

    async def hold(name: str) -> None:
        try:
            async with pool.session(name) as held:
                await held.call_tool("echo", {"text": "x"})
                await trio.sleep(1)
        except PoolError:
            pass

    async def in_scope() -> None:
        try:
            async with pool.open_scope() as mine:
                await mine.call_tool("a", "echo", {"text": "x"})
        except PoolError:
            pass

    for _ in range(5):
        nursery.start_soon(hold, "a")
    nursery.start_soon(hold, "b")
    nursery.start_soon(in_scope)
    await trio.sleep(0.3)


@pytest.mark.parametrize("of_any", [False, True])
@pytest.mark.parametrize("gates", list(GATES))
@pytest.mark.parametrize("ending", ["block", "aclose", "aclose in a task"])
def test_R2_closing_that_is_cancelled_at_any_point_still_closes_everything(
    ending: str, gates: str, of_any: bool
) -> None:
    def once(n: int) -> tuple[bool, list[str]]:
        world = World(dict(GATES[gates]))
        block, task = trio.CancelScope(), trio.CancelScope()
        at = At(n, (task if ending == "aclose in a task" else block).cancel, of_any=of_any)

        async def close_in_a_task(pool: Pool) -> None:
            with task:
                at.arm()
                await pool.aclose()
            at.disarm()
            if pool.statistics().size:
                world.faults.append("aclose left before all was closed")

        async def main() -> None:
            tasks = trio.lowlevel.current_statistics().tasks_living
            async with trio.open_nursery() as nursery:
                with block:
                    async with open_pool(world.servers, policy=POLICY, observers=[world.auditor]) as pool:
                        world.auditor.pool = pool
                        with trio.CancelScope(shield=True):
                            await _busy(pool, world, nursery)
                        began = trio.current_time()
                        if ending == "aclose in a task":
                            nursery.start_soon(close_in_a_task, pool)
                            await trio.sleep(BOUND)
                        else:
                            at.arm()
                        if ending == "aclose":
                            await pool.aclose()
                at.disarm()
                if trio.current_time() > began + BOUND:
                    world.faults.append(f"closing took {trio.current_time() - began}")
            world.check_nothing_left(tasks)

        try:
            on_virtual_time(main, seed=n, instruments=[at])
        except Exception as exc:
            world.faults.append(f"{exc!r} came out")
        return at.done, world.faults

    failures = _everywhere(once)
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:20])


async def _program(pool: Pool, world: World) -> None:
    """A body that uses all of the pool."""
    await pool.wait_ready()
    await pool.call_tool("a", "echo", {"text": "x"})
    async with pool.session("b") as held:
        await held.call_tool("echo", {"text": "x"})
        await trio.sleep(0.2)
    async with pool.open_scope() as mine:
        await mine.call_tool("a", "echo", {"text": "x"})
    (await pool.acquire("b", scope="ours")).release()
    await pool.drain("a")
    await pool.reconfigure({"b": world.servers["b"]})


@pytest.mark.parametrize("others", [False, True], ids=["alone", "among others"])
@pytest.mark.parametrize("of_any", [False, True])
@pytest.mark.parametrize("gates", ["quick", "slow"])
def test_R14_an_interrupt_at_any_point_comes_out_bare_and_the_pool_closes(
    gates: str, of_any: bool, others: bool
) -> None:
    def once(n: int) -> tuple[bool, list[str]]:
        world = World(dict(GATES[gates]))
        at = At(n, lambda: signal.raise_signal(signal.SIGINT), of_any=of_any)
        interrupted = False

        async def main() -> None:
            nonlocal interrupted
            tasks = trio.lowlevel.current_statistics().tasks_living
            async with trio.open_nursery() as nursery:
                try:
                    async with open_pool(world.servers, policy=POLICY, observers=[world.auditor]) as pool:
                        world.auditor.pool = pool
                        if others:
                            await _busy(pool, world, nursery)
                        at.arm()
                        await _program(pool, world)
                except BaseException as exc:
                    interrupted = True
                    if type(exc) is not KeyboardInterrupt:
                        world.faults.append(f"came out as {exc!r}")
                finally:
                    at.disarm()
                    closed_at = trio.current_time()
                    left = [str(server.connections) for server in world.servers.values() if server.open_connections]
                    world.auditor.check_closed()
                    world.faults += left
            if trio.current_time() > closed_at + 2:
                world.faults.append("a caller was still waiting")
            if trio.lowlevel.current_statistics().tasks_living != tasks:
                world.faults.append("tasks are left")

        try:
            on_virtual_time(main, seed=n, instruments=[at])
        except KeyboardInterrupt:
            interrupted = True  # it came after the last checkpoint
        except BaseException as exc:
            world.faults.append(f"{exc!r} came out of the run")
        if at.done and not interrupted:
            world.faults.append("the interrupt was lost")
        return at.done, world.faults + world.auditor.faults

    failures = _everywhere(once)
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:20])
