"""R2: the order of leaving, in `open_pool`, in `serve_pool` and through `aclose`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    OutcomeUnknownError,
    Pool,
    PoolClosed,
    PoolClosedError,
    PoolPolicy,
    SessionClosed,
    open_pool,
    serve_pool,
)
from trio_mcp_pool.testing import ScriptedServer, never, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool

Record = list[tuple[float, str]]


async def note(record: Record, name: str, what: Callable[[], Awaitable[Any]]) -> None:
    """Do something and write down when it ended and how."""
    try:
        await what()
    except (PoolClosedError, OutcomeUnknownError) as why:
        record.append((trio.current_time(), f"{name}: {type(why).__name__}"))
    else:
        record.append((trio.current_time(), f"{name}: ok"))


async def test_R2_the_bodys_finally_may_still_lease_and_call(autojump_clock: trio.testing.MockClock) -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with watched_pool({"s": ScriptedServer()}) as pool:
            try:
                raise ZeroDivisionError
            finally:
                said.append(text(await pool.call_tool("s", "echo", {"text": "farewell"})))
    assert said == ["farewell"]


async def test_R2_under_cancellation_the_bodys_finally_shields_itself(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer()
    with trio.move_on_after(3) as scope:
        async with watched_pool({"s": server}) as pool:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                    await pool.call_tool("s", "echo", {"text": "farewell"})
    assert scope.cancelled_caught
    assert (len(server.calls), server.open_connections) == (1, 0)


@pytest.mark.parametrize("ending", ["clean", "raising", "cancelled"])
async def test_R2_waiters_get_the_error_at_once_and_leases_have_drain_timeout_after_a_clean_end_only(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer({"work": slow_work})
    policy = PoolPolicy(max_in_flight=1, drain_timeout=20)
    record: Record = []

    async def work(pool: Pool, seconds: float) -> None:
        async with pool.session("s") as session:
            await session.call_tool("work", {"seconds": seconds})

    async with trio.open_nursery() as outside:
        with trio.CancelScope() as scope:
            try:
                async with watched_pool({"s": server}, policy=policy) as pool:
                    outside.start_soon(note, record, "worker", partial(work, pool, 10))
                    await settle()
                    outside.start_soon(note, record, "waiter", partial(work, pool, 1))
                    await trio.sleep(2)
                    if ending == "raising":
                        raise ZeroDivisionError
                    if ending == "cancelled":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            except ZeroDivisionError:
                record.append((trio.current_time(), "body: ZeroDivisionError"))
        record.append((trio.current_time(), "block left"))
    if ending == "clean":
        assert record == [(2, "waiter: PoolClosedError"), (10, "worker: ok"), (10, "block left")]
    else:
        assert sorted(record[:2]) == [(2, "waiter: PoolClosedError"), (2, "worker: OutcomeUnknownError")]
        assert record[-1] == (2, "block left")
    assert server.open_connections == 0


async def slow_work(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


async def test_R2_a_lease_that_outlives_drain_timeout_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"work": slow_work})
    record: Record = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=5)) as pool:
            outside.start_soon(note, record, "written", partial(pool.call_tool, "s", "work", {"seconds": 100}))
            await settle()
            server.stop()
            outside.start_soon(note, record, "unwritten", partial(pool.call_tool, "s", "work", {"seconds": 100}))
            await trio.sleep(2)
        record.append((trio.current_time(), "block left"))
    assert sorted(record) == [
        (7, "block left"),
        (7, "unwritten: PoolClosedError"),
        (7, "written: OutcomeUnknownError"),
    ]
    assert len(server.calls) == 1


async def test_R2_while_draining_a_lease_may_call_but_no_new_one_is_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    said: list[str] = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": ScriptedServer()}) as pool:

            async def holder(task_status: trio.TaskStatus[None]) -> None:
                async with pool.session("s") as session:
                    task_status.started()
                    await trio.sleep(3)
                    said.append(text(await session.call_tool("echo", {"text": "still here"})))
                    with pytest.raises(PoolClosedError):
                        await pool.acquire("s")
                    with pytest.raises(PoolClosedError):
                        pool.acquire_nowait("s")

            await outside.start(holder)
    assert said == ["still here"]
    assert trio.current_time() == 3


@pytest.mark.parametrize("ending", ["clean", "raising"])
async def test_R2_the_bodys_own_unreleased_leases_end_with_it(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, drain_timeout=30)
    with _expecting(ending):
        async with watched_pool({"s": server}, policy=policy) as pool:
            held = [await pool.acquire("s"), await pool.acquire("s")]
            if ending == "raising":
                raise ZeroDivisionError
    assert trio.current_time() == 0
    assert server.open_connections == 0
    for session in held:
        assert "released" in repr(session)


def _expecting(ending: str) -> Any:
    return pytest.raises(ZeroDivisionError) if ending == "raising" else trio.CancelScope()


async def test_R2_a_call_on_a_lease_that_the_bodys_end_took_away_gets_the_error_that_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The body leases, another task calls through the lease: what matters to it is whether the tool may have run."""
    server = ScriptedServer({"work": slow_work})
    record: Record = []
    async with trio.open_nursery() as outside:
        with pytest.raises(ZeroDivisionError):
            async with watched_pool({"s": server}) as pool:
                session = await pool.acquire("s")
                outside.start_soon(note, record, "written", partial(session.call_tool, "work", {"seconds": 9}))
                await settle()
                server.stop()
                outside.start_soon(note, record, "unwritten", partial(session.call_tool, "work", {"seconds": 9}))
                await settle()
                raise ZeroDivisionError
    assert sorted(record) == [(0, "unwritten: PoolClosedError"), (0, "written: OutcomeUnknownError")]


async def test_R2_connections_close_side_by_side_in_the_time_of_the_slowest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {f"s{n}": ScriptedServer(gates={"close": slow(n, shielded=n % 2 == 0)}) for n in range(1, 7)}
    ledger = Ledger()
    async with watched_pool(servers, ledger=ledger) as pool:
        for name in servers:
            await pool.wait_ready(name)
    assert trio.current_time() == 6
    assert ledger.story(SessionClosed, PoolClosed) == [
        *((n, "SessionClosed", n, "shutdown") for n in range(1, 7)),
        (6, "PoolClosed"),
    ]
    (last,) = [e for e in ledger.events if isinstance(e, PoolClosed)]
    assert last.seconds == 6


@pytest.mark.parametrize("how", ["clean", "raising"])
async def test_R2_closing_ends_after_close_timeout_whatever_the_servers_do(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    servers = {f"s{n}": ScriptedServer(gates={"close": never}) for n in range(5)}
    with _expecting(how):
        async with watched_pool(servers, policy=PoolPolicy(close_timeout=4)) as pool:
            await pool.wait_ready()
            if how == "raising":
                raise ZeroDivisionError
    assert trio.current_time() == 4


async def test_R2_what_shields_itself_beyond_close_timeout_is_reported(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(gates={"close": slow(20, shielded=True)})
    async with trio.open_nursery() as nursery:
        pool = await nursery.start(partial(serve_pool, {"s": server}, policy=PoolPolicy(close_timeout=4)))
        await pool.wait_ready()
        await pool.aclose()
        assert trio.current_time() == 4.5
        assert "has not closed within close_timeout" in caplog.text
        assert check_books(pool).sessions_closing == 1
    assert (trio.current_time(), check_books(pool).size) == (20, 0)


@pytest.mark.parametrize("stage", ["spawn", "handshake"])
async def test_R2_a_dial_under_way_is_called_off(stage: str, autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={stage: never})
    record: Record = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": server}) as pool:
            outside.start_soon(note, record, "caller", partial(pool.call_tool, "s", "echo", {"text": "x"}))
            await trio.sleep(1)
    assert record == [(1, "caller: PoolClosedError")]
    assert check_books(pool).closed_shutdown == 1
    assert [c.closed_at for c in server.connections] == [1]


async def test_R2_serve_pool_ends_by_aclose_after_draining(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"work": slow_work})
    record: Record = []
    async with trio.open_nursery() as nursery:
        pool = await nursery.start(partial(serve_pool, {"s": server}))
        nursery.start_soon(note, record, "call", partial(pool.call_tool, "s", "work", {"seconds": 3}))
        await settle()
        await pool.aclose()
        record.append((trio.current_time(), "aclose returned"))
        assert repr(pool) == "<Pool closed: 0 sessions, 0 waiting>"
    assert record == [(3, "call: ok"), (3, "aclose returned")]


async def test_R2_serve_pool_ends_by_cancellation_without_draining(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"work": slow_work}, gates={"close": slow(1)})
    record: Record = []
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as inner:
            pool = await inner.start(partial(serve_pool, {"s": server}))
            nursery.start_soon(note, record, "call", partial(pool.call_tool, "s", "work", {"seconds": 3}))
            await settle()
            inner.cancel_scope.cancel()
        record.append((trio.current_time(), "serve_pool left"))
    assert record == [(0, "call: OutcomeUnknownError"), (1, "serve_pool left")]


async def test_aclose_may_be_called_by_the_body_twice_and_while_it_holds_a_lease(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"close": slow(2)})
    async with watched_pool({"s": server}) as pool:
        session = await pool.acquire("s")
        await pool.aclose()
        assert (trio.current_time(), server.open_connections) == (2, 0)
        with pytest.raises(PoolClosedError):
            await pool.call_tool("s", "echo", {"text": "x"})
        session.release()
        with trio.testing.assert_checkpoints():
            await pool.aclose()
    assert trio.current_time() == 2


async def test_aclose_by_several_tasks_at_once_returns_to_all_when_all_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"close": slow(2)})
    done: list[float] = []
    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:
        await pool.wait_ready()

        async def close() -> None:
            await pool.aclose()
            done.append(trio.current_time())

        for delay in (0, 1, 0.5):
            nursery.start_soon(close)
            await trio.sleep(delay)
    assert done == [2, 2, 2]


@pytest.mark.parametrize("when", ["before", "while draining", "while closing"])
async def test_aclose_under_cancellation_closes_without_draining(
    when: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer({"work": slow_work}, gates={"close": slow(2)})
    record: Record = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": server}) as pool:
            if when != "while closing":
                outside.start_soon(note, record, "call", partial(pool.call_tool, "s", "work", {"seconds": 9}))
                await settle()
            else:
                await pool.wait_ready()
            with trio.CancelScope() as scope:
                if when == "before":
                    scope.cancel()
                else:
                    scope.deadline = trio.current_time() + 1
                await pool.aclose()
            assert scope.cancelled_caught
            assert server.open_connections == 0
            record.append((trio.current_time(), "closed"))
    assert (
        record
        == {
            "before": [(0, "call: OutcomeUnknownError"), (2, "closed")],
            "while draining": [(1, "call: OutcomeUnknownError"), (3, "closed")],
            "while closing": [(2, "closed")],
        }[when]
    )


@pytest.mark.parametrize("gate", [ok, slow(3)])
async def test_closing_races_a_dial_that_ends_at_the_same_moment(
    gate: Any, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"handshake": slow(2), "close": gate})
    record: Record = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": server}) as pool:
            outside.start_soon(note, record, "call", partial(pool.call_tool, "s", "echo", {"text": "x"}))
            await trio.sleep(2)
            await pool.aclose()
    assert record in ([(2, "call: PoolClosedError")], [(2, "call: ok")])
    assert server.open_connections == 0


async def test_the_last_event_is_PoolClosed_and_every_verb_of_a_closed_pool_raises(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    async with open_pool({"s": ScriptedServer()}, observers=[ledger]) as pool:
        await pool.wait_ready()
    assert isinstance(ledger.events[-1], PoolClosed)
    for ask in (
        lambda: pool.acquire("s"),
        lambda: pool.call_tool("s", "echo", {}),
        lambda: pool.wait_ready("s"),
        lambda: pool.drain("s"),
        lambda: pool.remove_server("s"),
        lambda: pool.reconfigure({}),
        lambda: pool.session("s").__aenter__(),
        lambda: pool.open_scope().__aenter__(),
    ):
        with pytest.raises(PoolClosedError):
            await ask()
    for now in (lambda: pool.acquire_nowait("s"), lambda: pool.add_server("t", ScriptedServer())):
        with pytest.raises(PoolClosedError):
            now()
