"""The defects of other managers and pools, one test each, named after the defect."""

from __future__ import annotations

from typing import Any

import mcp
import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    ConnectError,
    HttpServer,
    OutcomeUnknownError,
    PoolClosedError,
    PoolPolicy,
    ServerUnavailableError,
    SessionClosed,
    SessionDied,
    StdioServer,
)
from trio_mcp_pool.testing import ScriptedServer, error, hold, never, ok, slow

from .books import Ledger, check_books, numbers, settle, text, watched_pool


async def pause(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


# The ancestor: one shared future per server, evicted on any exception.


async def test_T1_one_cancelled_waiter_cancels_the_dial_of_all(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(2)})
    got: list[str] = []
    first = trio.CancelScope()
    async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            with first if number == 0 else trio.CancelScope():
                got.append(text(await pool.call_tool("s", "echo", {"text": str(number)})))

        for number in range(20):
            nursery.start_soon(call, number)
            await settle()
        await trio.sleep(1)
        first.cancel()
    assert sorted(got, key=int) == [str(number) for number in range(1, 20)]
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    "fault", ["invalid params", "tool error", "unknown tool", "timeout", "cancelled", "no resource"]
)
async def test_T2_any_exception_evicts_the_session_under_other_callers(
    fault: str, autojump_clock: trio.testing.MockClock
) -> None:
    def bad() -> str:
        raise mcp.MCPError(-32602, "Invalid params") if fault == "invalid params" else ValueError("bad")

    server, ledger = ScriptedServer({"pause": pause, "bad": bad}), Ledger()
    done: list[float] = []
    async with watched_pool({"s": server}, ledger=ledger) as pool, trio.open_nursery() as nursery:

        async def sibling() -> None:
            await pool.call_tool("s", "pause", {"seconds": 10})
            done.append(trio.current_time())

        nursery.start_soon(sibling)
        await trio.sleep(1)
        if fault in ("tool error", "unknown tool"):
            assert (await pool.call_tool("s", "bad" if fault == "tool error" else "worse")).is_error
        elif fault == "cancelled":
            with trio.move_on_after(2):
                await pool.call_tool("s", "pause", {"seconds": 100})
        else:
            with pytest.raises(mcp.MCPError):
                if fault == "timeout":
                    await pool.call_tool("s", "pause", {"seconds": 100}, read_timeout_seconds=2)
                elif fault == "no resource":
                    await pool.read_resource("s", "memo://none")
                else:
                    await pool.call_tool("s", "bad")
        await pool.list_tools("s")
    assert done == [10]
    assert len(server.connections) == 1
    assert (ledger.count(SessionDied), ledger.count(SessionClosed)) == (0, 1)


@pytest.mark.parametrize("end", ["idle", "killed", "drained", "failed dial"])
async def test_T3_a_second_process_starts_while_the_first_still_closes(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"close": slow(3, shielded=True)})
    policy = PoolPolicy(idle_timeout=5, connect_timeout=2)
    if end == "failed dial":
        server.gates["handshake"] = [never, ok]
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        if end == "failed dial":
            with pytest.raises(ConnectError):
                await pool.wait_ready()
            await trio.sleep(1)  # the backoff is over, cleaning up is not
        else:
            await pool.call_tool("s", "echo", {"text": "w"})  # a session that is proved
            await trio.sleep(2)  # and unused for long enough to be replaced strictly
        if end == "idle":
            await trio.sleep(3.5)
        elif end == "killed":
            await pool.call_tool("s", "echo", {"text": "x"})  # so that its death is no failure of its dial
            server.kill()
            await settle()
        elif end == "drained":
            nursery.start_soon(pool.drain, "s")
            await settle()
        await pool.call_tool("s", "echo", {"text": "x"})
        first, second = server.connections[:2]
        assert first.closed_at is not None
        assert second.dialled_at >= first.closed_at
        assert server.peak_open == 1


async def test_T4_a_hung_dial_hangs_every_later_caller(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": [never, ok]})
    async with watched_pool({"s": server}, policy=PoolPolicy(connect_timeout=3)) as pool:
        with pytest.raises(ConnectError):
            await pool.wait_ready()
        with pytest.raises(ServerUnavailableError) as caught:
            await pool.wait_ready()
        assert trio.current_time() == 3
        await trio.sleep(caught.value.retry_after)
        await pool.call_tool("s", "echo", {"text": "x"})


async def test_T5_a_late_failure_of_the_old_session_closes_the_new_one(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"pause": pause})
    policy = PoolPolicy(max_sessions=2, max_in_flight=1, drain_timeout=50)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        outcome: list[str] = []

        async def old() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 30})
            outcome.append("lost")

        nursery.start_soon(old)
        await settle()
        nursery.start_soon(pool.drain, "s")
        await settle()
        new = await pool.acquire("s")
        server.kill(1)  # the old one fails late
        await settle()
        assert outcome == ["lost"]
        await new.list_tools()
        await new.call_tool("pause", {"seconds": 60})  # and its drain's deadline passes
        new.release()
        assert [c.state for c in server.connections] == ["closed", "open"]


async def test_T6_death_while_idle_is_noticed_only_by_the_next_call(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = ScriptedServer(), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
        await trio.sleep(10)
        server.kill()
        await trio.sleep(0.2)
        assert check_books(pool).size == 0
        assert ledger.story(SessionDied) == [(10, "SessionDied", 1)]
        await pool.call_tool("s", "echo", {"text": "x"})
        assert (len(server.calls), trio.current_time()) == (2, 10.2)


# Bugs that took pools years.


async def test_assigned_but_not_started(autojump_clock: trio.testing.MockClock) -> None:
    """A session is handed to a task that is cancelled before it runs: the task holds it, or nobody does."""
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool:
        for _ in range(50):
            held = await pool.acquire("s")
            async with trio.open_nursery() as nursery:

                async def task() -> None:
                    async with pool.session("s"):
                        await trio.lowlevel.checkpoint()

                nursery.start_soon(task)
                await settle()
                held.release()  # assigned
                nursery.cancel_scope.cancel()  # not started
            assert check_books(pool).sessions_idle == 1
    assert len(server.connections) == 1


async def test_a_value_and_a_cancellation_arriving_together(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": slow(2)})
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool:
        with trio.move_on_at(2):
            async with pool.session("s") as session:
                await session.list_tools()
        await settle()
        assert check_books(pool).leases_in_flight == 0
        await pool.call_tool("s", "echo", {"text": "x"})
    assert len(server.connections) == 1


async def test_a_health_check_that_swallows_the_cancellation_and_retries(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(probe_interval=5, probe_timeout=10)
    with trio.CancelScope() as scope:
        async with watched_pool({"s": server}, policy=policy) as pool:
            await pool.wait_ready()
            server.stop()
            await trio.sleep(7)  # a probe is under way
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert (scope.cancelled_caught, trio.current_time(), server.open_connections) == (True, 7, 0)


async def test_a_cancelled_waiter_eats_the_wake_up(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(max_in_flight=1)) as pool:
        held = await pool.acquire("s")
        served: list[int] = []
        scopes = [trio.CancelScope() for _ in range(10)]
        async with trio.open_nursery() as nursery:

            async def task(number: int) -> None:
                with scopes[number]:
                    async with pool.session("s"):
                        served.append(number)

            for number in range(10):
                nursery.start_soon(task, number)
                await settle()
            for number in range(9):
                scopes[number].cancel()
            held.release()
        assert served == [9]


async def test_barging(autojump_clock: trio.testing.MockClock) -> None:
    """A task that releases and asks again at once does not overtake those who wait."""
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(max_in_flight=1)) as pool:
        order: list[str] = []
        async with trio.open_nursery() as nursery:

            async def greedy() -> None:
                for _ in range(3):
                    async with pool.session("s"):
                        order.append("greedy")
                        await trio.sleep(1)

            async def patient() -> None:
                for _ in range(3):
                    async with pool.session("s"):
                        order.append("patient")
                        await trio.sleep(1)

            nursery.start_soon(greedy)
            await settle()
            nursery.start_soon(patient)
        assert order == ["greedy", "patient"] * 3


async def test_freed_capacity_wakes_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """A connection that ends makes room for one more dial, for which somebody may be waiting."""
    server = ScriptedServer(gates={"spawn": [ok, error(OSError), ok], "close": [slow(1)]})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool:
        held = await pool.acquire("s")
        with trio.fail_after(5):
            another = await pool.acquire("s")
        server.kill(1)
        await settle()
        with trio.fail_after(5):
            third = await pool.acquire("s")
        for session in (held, another, third):
            session.release()


async def test_the_dial_dies_with_an_impatient_caller_so_it_never_succeeds_under_load(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": slow(5)})
    async with watched_pool({"s": server}) as pool:
        served = 0
        for _ in range(10):
            with trio.move_on_after(1):
                await pool.call_tool("s", "echo", {"text": "x"})
                served += 1
        assert (served, len(server.connections)) == (6, 1) or (served, len(server.connections)) == (5, 1)


async def test_closing_connections_are_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(4)})
    async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=2, max_in_flight=1)) as pool:
        for _ in range(6):
            first, second = await pool.acquire("s"), await pool.acquire("s")
            await first.list_tools()
            await second.list_tools()
            server.kill("all")
            first.release()
            second.release()
            await settle()
            assert check_books(pool).sessions_closing == 2
    assert server.peak_open == 2


async def test_release_is_not_cancel_safe(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(max_in_flight=1)) as pool:
        with trio.CancelScope() as scope:
            async with pool.session("s"):
                scope.cancel()
        # Leaving did not even notice, and what was leased is free.
        assert not scope.cancelled_caught
        pool.acquire_nowait("s").release()


async def test_a_release_that_waits_without_bound(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer({"pause": pause})
    async with watched_pool({"s": server}) as pool:
        session = await pool.acquire("s")
        server.stop()
        with trio.testing.assert_no_checkpoints():
            session.release()
        assert trio.current_time() == 0


async def test_the_idle_timer_is_never_armed_for_a_session_that_was_never_acquired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = ScriptedServer(gates={"handshake": slow(2)}), Ledger()
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=10), ledger=ledger) as pool:
        with trio.move_on_after(1):
            await pool.acquire("s")
        await trio.sleep_until(100)
    assert ledger.story(SessionClosed) == [(12, "SessionClosed", 1, "idle")]


async def test_idle_expiry_is_ineffective_because_the_surplus_is_used_in_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_in_flight=1, max_sessions=5, idle_timeout=10)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:
        held = [await pool.acquire("s") for _ in range(5)]
        for session in held:
            session.release()
        for _ in range(12):  # steady, light traffic
            await pool.call_tool("s", "echo", {"text": "x"})
            await trio.sleep(1)
        stats = check_books(pool)
        assert (stats.size, stats.closed_idle) == (1, 4)


async def test_close_races_create(autojump_clock: trio.testing.MockClock) -> None:
    for delay in (0.0, 0.5, 1.0, 1.5):
        server = ScriptedServer(gates={"spawn": slow(0.5), "handshake": slow(1)})
        async with trio.open_nursery() as nursery:
            async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=5, max_in_flight=1)) as pool:

                async def call() -> None:
                    try:
                        await pool.call_tool("s", "echo", {"text": "x"})
                    except PoolClosedError:
                        pass

                for _ in range(5):
                    nursery.start_soon(call)
                await trio.sleep(delay)
        assert server.open_connections == 0


async def test_counters_that_drift(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": lambda n: error(OSError) if n % 3 == 0 else ok})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, idle_timeout=1, when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool:
        for number in range(60):
            with trio.move_on_after(0.1 * (number % 7)):
                async with pool.session("s"):
                    await trio.sleep(0.3)
                    if number % 5 == 0:
                        server.kill("all")
            check_books(pool)
        await trio.sleep(100)
        stats = check_books(pool)
        gauges = ("size", "sessions_idle", "sessions_in_use", "tasks_waiting_acquire", "leases_in_flight")
        assert not any(name in numbers(stats) for name in gauges)


async def test_connect_under_the_pools_lock(autojump_clock: trio.testing.MockClock) -> None:
    door = hold()
    servers = {"slow": ScriptedServer(gates={"spawn": door}), "quick": ScriptedServer()}
    async with watched_pool(servers) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.wait_ready, "slow")
        await settle()
        with trio.fail_after(1):
            await pool.call_tool("quick", "echo", {"text": "x"})
            pool.statistics()
            pool.add_server("third", ScriptedServer())
            await pool.remove_server("third")
        door.open()


def test_secrets_in_repr() -> None:
    secrets = ("hunter2", "s3cr3t", "t0ken", "passw0rd")
    servers: list[Any] = [
        StdioServer("server", ["--key", secrets[0]], env={"KEY": secrets[1]}),
        HttpServer(
            f"https://user:{secrets[3]}@host/mcp?key={secrets[0]}", headers={"Authorization": f"Bearer {secrets[2]}"}
        ),
    ]
    for server in servers:
        for shown in (repr(server), str(server), f"{server}", repr({"s": server})):
            assert not [secret for secret in secrets if secret in shown]
