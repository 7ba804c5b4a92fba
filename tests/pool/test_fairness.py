"""R3, R4, R6: taking and holding is one step, and waiters are served in the order in which they came."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_mcp_pool import AcquireTimeoutError, LeaseStarted, Pool, PoolPolicy, Session
from trio_mcp_pool.testing import ScriptedServer, slow

from .books import Ledger, check_books, settle, text, watched_pool

EXCLUSIVE = PoolPolicy(max_in_flight=1)


class Queue:
    """Tasks that lease in the order in which they were started, and the order in which they were served."""

    def __init__(self, pool: Pool, nursery: trio.Nursery) -> None:
        self.pool = pool
        self.nursery = nursery
        self.served: list[tuple[float, str]] = []
        self.scopes: dict[str, trio.CancelScope] = {}

    async def join(self, name: str, hold: float = 1.0) -> None:
        scope = self.scopes[name] = trio.CancelScope()

        async def task() -> None:
            with scope:
                async with self.pool.session("s"):
                    self.served.append((trio.current_time(), name))
                    await trio.sleep(hold)

        self.nursery.start_soon(task)
        await settle()
        check_books(self.pool)


async def test_R4_waiters_are_served_first_come_first_served_with_some_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE) as pool, trio.open_nursery() as nursery:
        queue = Queue(pool, nursery)
        for name in "abcdefgh":
            await queue.join(name)
        queue.scopes["b"].cancel()
        queue.scopes["g"].cancel()
        await trio.sleep(2.5)  # "a" is done, "c" and "d" were served
        queue.scopes["d"].cancel()  # while it holds: the next is served at this moment
        queue.scopes["e"].cancel()  # at the very moment at which it would be next
        await settle()
        stats = check_books(pool)
        assert (stats.acquires_cancelled, stats.tasks_waiting_acquire) == (3, 1)
    assert queue.served == [(0, "a"), (1, "c"), (2, "d"), (2.5, "f"), (3.5, "h")]


async def test_R4_acquire_nowait_never_overtakes(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=2)) as pool:
        first, second = await pool.acquire("s"), await pool.acquire("s")
        async with trio.open_nursery() as nursery:
            queue = Queue(pool, nursery)
            await queue.join("a")
            first.release()
            # The freed place is on its way to the waiter, though it has not run yet.
            with pytest.raises(trio.WouldBlock):
                pool.acquire_nowait("s")
            await settle()
            assert queue.served == [(0, "a")]
            with pytest.raises(trio.WouldBlock):
                pool.acquire_nowait("s")
            second.release()
            pool.acquire_nowait("s").release()
    assert len(server.connections) == 1


async def test_R4_acquire_nowait_would_block_where_it_would_dial(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(trio.WouldBlock):
            pool.acquire_nowait("s")
        await settle()
        assert server.connections == []
        await pool.wait_ready("s")
        session = pool.acquire_nowait("s")
        assert text(await session.call_tool("echo", {"text": "x"})) == "x"
        session.release()


async def test_R4_a_lease_goes_to_the_least_loaded_and_among_equals_to_the_last_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"which": lambda context: str(context.connection)})
    policy = PoolPolicy(min_sessions=3, max_sessions=3, max_in_flight=3)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await settle()

        async def which(session: Session) -> str:
            return text(await session.call_tool("which", {}))

        held = [await pool.acquire("s") for _ in range(3)]
        order = [await which(session) for session in held]
        assert sorted(order) == ["1", "2", "3"]  # one each: the fewest leases
        held[1].release()
        held[0].release()
        again = await pool.acquire("s")
        # Both have none: the one whose lease was given last.
        assert await which(again) == order[1]
        more = await pool.acquire("s")
        assert await which(more) == order[0]
        again.release()
        more.release()
        for _ in range(3):  # and so the surplus is never touched
            async with pool.session("s") as session:
                assert await which(session) == order[0]
        held[2].release()


async def test_R4_a_task_that_would_wait_for_itself_gets_a_RuntimeError(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:
        async with pool.session("s"):
            async with pool.session("s"):
                for _ in range(2):
                    with pytest.raises(
                        RuntimeError, match=r"already holds every session of server 's'.*release one first"
                    ):
                        await pool.acquire("s")
                with pytest.raises(RuntimeError, match="max_sessions or max_in_flight"):
                    await pool.call_tool("s", "echo", {"text": "x"})
                check_books(pool)
                # Another scope is another lane.
                (await pool.acquire("s", scope="other")).release()
            (await pool.acquire("s")).release()


async def test_R4_no_RuntimeError_where_somebody_else_could_release(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:

        async def other(task_status: trio.TaskStatus[None]) -> None:
            async with pool.session("s"):
                task_status.started()
                await trio.sleep(3)

        async with trio.open_nursery() as nursery:
            await nursery.start(other)
            mine = await pool.acquire("s")
            another = await pool.acquire("s")
            assert trio.current_time() == 3
            another.release()
            mine.release()


async def test_R4_no_RuntimeError_while_a_place_is_being_closed(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(2)})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": server}, policy=policy) as pool:
        first, second = await pool.acquire("s"), await pool.acquire("s")
        server.kill(1)
        await settle()
        third = await pool.acquire("s")  # as soon as the dead one has gone
        assert trio.current_time() == 2
        for session in (first, second, third):
            session.release()


async def test_R3_R6_a_session_and_a_cancellation_arriving_together(autojump_clock: trio.testing.MockClock) -> None:
    """In either order within one tick the session has an owner: the waiter that was cancelled, or the next."""
    for cancel_first in (True, False):
        server = ScriptedServer()
        ledger = Ledger()
        async with watched_pool({"s": server}, policy=EXCLUSIVE, ledger=ledger) as pool:
            got: list[str] = []
            held = await pool.acquire("s")
            scopes = {name: trio.CancelScope() for name in "ab"}

            async def take(name: str, scope: trio.CancelScope, got: list[str]) -> None:
                with scope:
                    session = await pool.acquire("s")
                    try:
                        got.append(name)
                        await trio.lowlevel.checkpoint()
                    finally:
                        session.release()

            async with trio.open_nursery() as nursery:
                for name in "ab":
                    nursery.start_soon(take, name, scopes[name], got)
                    await settle()
                if cancel_first:
                    scopes["a"].cancel()
                    held.release()
                else:
                    held.release()
                    scopes["a"].cancel()
                check_books(pool)
            assert got == (["b"] if cancel_first else ["a", "b"])
            stats = check_books(pool)
            assert stats.sessions_idle == 1
            assert stats.acquires == (2 if cancel_first else 3)
            assert stats.acquires_cancelled == cancel_first
            assert stats.peak_in_use == 1


async def test_R3_a_cancelled_acquire_gives_back_what_it_took(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE) as pool:
        await pool.wait_ready("s")
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.acquire("s")
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            async with pool.session("s"):
                pytest.fail("it was cancelled before it entered")
        assert check_books(pool).leases_in_flight == 0
        pool.acquire_nowait("s").release()


async def test_R3_the_deadline_of_acquire_timeout_and_a_release_at_the_same_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whichever comes first, nothing is lost: the caller holds a session, or the session is free."""
    policy = PoolPolicy(max_in_flight=1, acquire_timeout=2)
    outcomes = set()
    for _ in range(20):
        async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:

            async def hold(started: trio.Event) -> None:
                async with pool.session("s"):
                    started.set()
                    await trio.sleep(2)

            async with trio.open_nursery() as nursery:
                started = trio.Event()
                nursery.start_soon(hold, started)
                await started.wait()
                try:
                    session = await pool.acquire("s")
                except AcquireTimeoutError:
                    outcomes.add("timed out")
                else:
                    outcomes.add("served")
                    session.release()
            assert check_books(pool).sessions_idle == 1
    assert outcomes <= {"timed out", "served"}


async def test_releasing_twice_counts_once(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        first, second = await pool.acquire("s"), await pool.acquire("s")
        for _ in range(3):
            first.release()
        assert check_books(pool).leases_in_flight == 1
        second.release()
        assert repr(first) == "<Session 1 of 's': released>"


async def test_R4_among_sessions_that_were_never_lent_the_one_dialled_first_is_lent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    policy = PoolPolicy(min_sessions=4, max_sessions=4, max_in_flight=1)
    async with watched_pool({"s": ScriptedServer()}, policy=policy, ledger=ledger) as pool:
        await trio.sleep(1)
        held = [await pool.acquire("s") for _ in range(4)]
        leased = [e.connection for e in ledger.events if isinstance(e, LeaseStarted)]
        assert leased == [1, 2, 3, 4]
        for session in held:
            session.release()
