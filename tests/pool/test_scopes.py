"""Scopes: `scope=` shares with those who name it, `open_scope` owns its corner."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    ConnectError,
    OutcomeUnknownError,
    Pool,
    PoolClosedError,
    PoolPolicy,
    ScopedPool,
    SessionClosed,
    SessionLostError,
    SessionOpened,
    UnknownServerError,
)
from trio_mcp_pool.testing import ScriptedServer, error, ok, slow

from .books import Ledger, check_books, numbers, settle, text, watched_pool


def remembering() -> ScriptedServer:
    """A server whose sessions remember: every connection has a notebook of its own."""
    notes: dict[int, list[str]] = {}

    def remember(context: Any, what: str) -> str:
        notes.setdefault(context.connection, []).append(what)
        return " ".join(notes[context.connection])

    return ScriptedServer({"remember": remember})


async def note(pool: Pool | ScopedPool, what: str, **where: Any) -> str:
    return text(await pool.call_tool("s", "remember", {"what": what}, **where))


async def test_a_scope_is_shared_by_callers_that_name_it_and_by_no_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = remembering()
    async with watched_pool({"s": server}) as pool:
        assert await note(pool, "a", scope="one") == "a"
        assert await note(pool, "b", scope="two") == "b"
        assert await note(pool, "c") == "c"
        assert await note(pool, "d", scope="one") == "a d"
        async with pool.session("s", scope=("one", 1)) as session:
            assert session.server == "s"
        assert len(server.connections) == 4
        assert check_books(pool).servers["s"].max_sessions == 4


async def test_a_scopes_sessions_idle_out_and_its_empty_lane_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = remembering(), Ledger()
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=10), ledger=ledger) as pool:
        for key in range(5):
            await note(pool, "x", scope=key)
        before = numbers(check_books(pool))
        assert check_books(pool).max_sessions == 6
        await trio.sleep(11)
        after = check_books(pool)
        assert (after.max_sessions, after.size, after.closed_idle) == (1, 0, 5)
        assert after.acquires == before["acquires"]
        assert {e.scope for e in ledger.events if isinstance(e, SessionClosed)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("failure", ["dial", "unknown", "would block"])
async def test_a_scope_in_which_nothing_came_to_be_leaves_no_lane(
    failure: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    async with watched_pool({"s": server}) as pool:
        for key in range(10):
            with pytest.raises((ConnectError, UnknownServerError, trio.WouldBlock)):
                if failure == "dial":
                    await pool.call_tool("s", "echo", {"text": "x"}, scope=key)
                elif failure == "unknown":
                    await pool.call_tool("t", "echo", {"text": "x"}, scope=key)
                else:
                    pool.acquire_nowait("s", scope=key)
        await trio.sleep(100)
        assert check_books(pool).max_sessions == 1


async def test_min_sessions_are_kept_outside_of_scopes_only(autojump_clock: trio.testing.MockClock) -> None:
    server = remembering()
    async with watched_pool({"s": server}, policy=PoolPolicy(min_sessions=1, idle_timeout=5)) as pool:
        await note(pool, "x", scope="one")
        assert len(server.connections) == 2
        await trio.sleep(100)
        stats = check_books(pool)
        assert (stats.size, stats.closed_idle, stats.min_sessions) == (1, 1, 1)


async def test_open_scope_has_one_session_per_server_that_is_never_idled_out_nor_retired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = remembering(), Ledger()
    policy = PoolPolicy(idle_timeout=1, max_lifetime=2, max_sessions=5, min_sessions=0)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        async with pool.open_scope("mine") as corner:
            assert corner.key == "mine"
            assert repr(corner) == "<ScopedPool 'mine': open>"
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(note, corner, "x")
            await trio.sleep(1000)
            assert await note(corner, "y") == "x x x y"
        assert repr(corner) == "<ScopedPool 'mine': closed>"
        assert ledger.story(SessionOpened, SessionClosed) == [
            (0, "SessionOpened", 1),
            (1000, "SessionClosed", 1, "drained"),
        ]
        assert check_books(pool).closed_drained == 1


async def test_open_scope_owns_its_key(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": remembering()}) as pool:
        async with pool.open_scope("mine") as corner:
            with pytest.raises(ValueError, match="'mine' is open or in use already"):
                async with pool.open_scope("mine"):
                    pytest.fail("opened twice")
            for use in (
                partial(pool.call_tool, "s", "remember", {"what": "x"}, scope="mine"),
                partial(pool.acquire, "s", scope="mine"),
            ):
                with pytest.raises(ValueError, match="owned by an open_scope block"):
                    await use()
            assert await note(corner, "a") == "a"
            with pytest.raises(ValueError, match="owned by an open_scope block"):
                await note(pool, "x", scope="mine")
            with pytest.raises(ValueError, match="cannot name another scope"):
                await note(corner, "x", scope="other")
        await note(pool, "x", scope="shared")
        with pytest.raises(ValueError, match="in use already"):
            async with pool.open_scope("shared"):
                pytest.fail("opened a key that others use")
        async with pool.open_scope("mine") as corner:  # free again
            assert await note(corner, "a") == "a"
        assert await note(pool, "now shared", scope="mine") == "now shared"


async def test_fresh_scopes_share_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": remembering()}) as pool:
        async with pool.open_scope() as one, pool.open_scope() as two:
            assert await note(one, "a") == "a"
            assert await note(two, "b") == "b"
            assert one.key != two.key
            assert check_books(pool).size == 2
        assert check_books(pool).size == 0


async def test_servers_can_be_added_and_overridden_inside(autojump_clock: trio.testing.MockClock) -> None:
    outer, inner, extra = remembering(), remembering(), remembering()
    async with watched_pool({"s": outer}) as pool:
        async with pool.open_scope(servers={"s": inner, "extra": extra}) as corner:
            await note(corner, "x")
            await corner.call_tool("extra", "remember", {"what": "x"})
            await note(pool, "x")
            with pytest.raises(UnknownServerError):
                await pool.call_tool("extra", "remember", {"what": "x"})
            with pytest.raises(UnknownServerError, match="did you mean 'extra'"):
                await corner.call_tool("extras", "remember", {"what": "x"})
            await corner.wait_ready()
            assert [len(s.connections) for s in (outer, inner, extra)] == [1, 1, 1]
        assert [s.open_connections for s in (outer, inner, extra)] == [1, 0, 0]
        stats = check_books(pool)
        assert stats.servers["extra"].closed_drained == 1


@pytest.mark.parametrize("how", ["idle", "in use"])
async def test_when_a_scopes_session_dies_the_next_call_gets_one_error_and_the_one_after_has_a_new_session(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    server, ledger = remembering(), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool, pool.open_scope("mine") as corner:
        assert await note(corner, "a") == "a"
        if how == "idle":
            server.kill()
            await settle()
        else:
            server.gates["stream"] = [error(OSError)]
            with pytest.raises(OutcomeUnknownError):
                await note(corner, "b")
        with pytest.raises(SessionLostError, match="what it remembered"):
            await note(corner, "c")
        assert await note(corner, "d") == "d"
        server.kill()
        await settle()
        with pytest.raises(SessionLostError):
            corner.acquire_nowait("s")
        with pytest.raises(trio.WouldBlock):
            corner.acquire_nowait("s")
        assert check_books(pool).sessions_lost == 2


async def test_a_call_that_was_lost_unwritten_is_the_one_that_gets_the_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = remembering()
    async with watched_pool({"s": server}) as pool, pool.open_scope() as corner:
        await note(corner, "a")
        server.stop()

        async def kill() -> None:
            await settle()
            server.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(SessionLostError):
                await note(corner, "b")
        assert await note(corner, "c") == "c"


async def test_a_failed_dial_is_no_lost_session(autojump_clock: trio.testing.MockClock) -> None:
    server = remembering()
    server.gates["spawn"] = [error(OSError), ok]
    async with watched_pool({"s": server}) as pool, pool.open_scope() as corner:
        with pytest.raises(ConnectError):
            await note(corner, "a")
        await trio.sleep(1)
        assert await note(corner, "b") == "b"


@pytest.mark.parametrize("ending", ["clean", "raising", "cancelled"])
async def test_a_scopes_end_closes_all_of_it_in_the_order_of_R2(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def work(seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"

    server = ScriptedServer({"work": work}, gates={"close": slow(1)})
    record: list[tuple[float, str]] = []

    async def call(corner: ScopedPool) -> None:
        try:
            await corner.call_tool("s", "work", {"seconds": 10})
            record.append((trio.current_time(), "ok"))
        except OutcomeUnknownError as why:
            record.append((trio.current_time(), type(why).__name__))

    async with watched_pool({"s": server}) as pool, trio.open_nursery() as outside:
        with trio.CancelScope() as scope:
            try:
                async with pool.open_scope("k") as corner:
                    outside.start_soon(call, corner)
                    await trio.sleep(2)
                    mine = await corner.acquire("s")  # the body's own lease ends with it
                    if ending == "raising":
                        raise ZeroDivisionError
                    if ending == "cancelled":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            except ZeroDivisionError:
                pass
        record.append((trio.current_time(), "left"))
        assert "released" in repr(mine)
        with pytest.raises(PoolClosedError, match="scope 'k' is closed"):
            await corner.call_tool("s", "work", {"seconds": 1})
        assert (server.open_connections, check_books(pool).closed_drained) == (0, 1)
    if ending == "clean":
        assert record == [(10, "ok"), (11, "left")]
    else:
        assert record == [(2, "OutcomeUnknownError"), (3, "left")]


async def test_a_scope_that_overstays_its_close_keeps_its_key_and_its_place_in_the_books(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = remembering()
    async with watched_pool({"s": server}, policy=PoolPolicy(close_timeout=1)) as pool:
        server.gates["close"] = [slow(20, shielded=True)]
        async with pool.open_scope("k") as corner:
            await note(corner, "a")
        assert trio.current_time() == 1.5
        assert numbers(check_books(pool))["connects"] == 1
        with pytest.raises(ValueError, match="'k'"):
            await note(pool, "b", scope="k")
        assert numbers(check_books(pool))["connects"] == 1
        await trio.sleep(20)
        assert await note(pool, "b", scope="k") == "b"
        assert numbers(check_books(pool))["connects"] == 2


async def test_a_server_taken_out_while_a_scope_uses_it_is_closed_with_the_scope(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = remembering()
    async with watched_pool({"s": server}, limits=False) as pool, trio.open_nursery() as nursery:
        with pytest.raises(ZeroDivisionError):
            async with pool.open_scope("k") as corner:
                lease = await corner.acquire("s")

                async def hold() -> None:
                    async with corner.session("s"):
                        await trio.sleep(20)

                nursery.start_soon(hold)
                await settle()
                nursery.start_soon(pool.remove_server, "s")
                await trio.sleep(1)
                with pytest.raises(UnknownServerError):
                    await note(corner, "x")
                lease.release()
                raise ZeroDivisionError
        assert (trio.current_time(), server.open_connections) == (1, 0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", ["a", 7, ("user", 1), frozenset({1})])
async def test_any_hashable_key_will_do(key: Hashable, autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": remembering()}) as pool:
        await note(pool, "x", scope=key)
        async with pool.open_scope((key, "own")) as corner:
            await note(corner, "x")


async def test_R9_a_server_of_a_scope_is_dialled_anew_only_when_its_session_has_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    own = ScriptedServer(gates={"close": slow(3)})
    async with watched_pool({"s": ScriptedServer()}) as pool, pool.open_scope(servers={"own": own}) as corner:
        await corner.call_tool("own", "echo", {"text": "x"})
        own.kill()
        await settle()
        with pytest.raises(SessionLostError):
            await corner.call_tool("own", "echo", {"text": "x"})
        await corner.call_tool("own", "echo", {"text": "x"})
        assert [(each.opened_at, each.closed_at) for each in own.connections] == [(0, 3), (3, None)]
