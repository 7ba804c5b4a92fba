"""What seldom happens to sessions, and must come out right all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import (
    AcquireFailed,
    Backoff,
    ConnectError,
    CustomServer,
    DialFailed,
    LeaseEnded,
    OutcomeUnknownError,
    PoolPolicy,
    ServerUnavailableError,
    SessionClosed,
    SessionDied,
    SessionLostError,
    UnknownServerError,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool


async def pause(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


def server_that_pauses() -> ScriptedServer:
    return ScriptedServer({"pause": pause, "echo": lambda text: text})


# Leases.


async def test_R10_a_session_is_in_use_until_its_last_lease_ends_also_where_nobody_observes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        first, second = await pool.acquire("s"), await pool.acquire("s")
        assert first.client is second.client
        first.release()
        stats = check_books(pool)
        assert (stats.sessions_in_use, stats.sessions_idle, stats.leases_in_flight) == (1, 0, 1)
        second.release()
        stats = check_books(pool)
        assert (stats.sessions_in_use, stats.sessions_idle, stats.leases_in_flight) == (0, 1, 0)


async def test_R10_a_lease_that_ends_with_its_session_was_used_until_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    policy = PoolPolicy(drain_timeout=3, max_overlap=0)
    async with watched_pool({"s": server_that_pauses()}, policy=policy, ledger=ledger) as pool:
        await trio.sleep(5)
        held = await pool.acquire("s")
        await trio.sleep(2)
        await pool.drain("s")
        held.release()
        assert [(e.at, e.used) for e in ledger.events if isinstance(e, LeaseEnded)] == [(10, 5)]
        assert pool.statistics().usage_seconds == 5


async def test_R4_a_change_to_more_calls_at_a_time_serves_those_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connect = partial(mcp.Client, MCPServer("s"))

    def described(max_in_flight: int) -> CustomServer:
        return CustomServer(connect, policy=PoolPolicy(max_in_flight=max_in_flight))

    async with watched_pool({"s": described(1)}) as pool, trio.open_nursery() as nursery:
        async with pool.session("s"):
            await trio.sleep(4)
            nursery.start_soon(pool.list_tools, "s")
            await trio.sleep(1)
            assert pool.statistics().tasks_waiting_acquire == 1
            await pool.reconfigure({"s": described(2)})
            await settle()
            stats = pool.statistics()
            assert (stats.tasks_waiting_acquire, stats.acquire_wait_seconds) == (0, 1)


async def test_R4_a_session_that_is_full_is_not_lent_because_its_policy_has_changed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connect = partial(mcp.Client, MCPServer("s"))

    def described(idle_timeout: float) -> CustomServer:
        return CustomServer(connect, policy=PoolPolicy(max_in_flight=1, max_sessions=2, idle_timeout=idle_timeout))

    async with watched_pool({"s": described(10)}) as pool, pool.session("s") as first:
        await pool.reconfigure({"s": described(20)})
        async with pool.session("s") as second:
            assert first.client is not second.client


async def test_R9_a_session_that_is_being_drained_is_not_lent_when_one_of_its_leases_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, policy = server_that_pauses(), PoolPolicy(max_in_flight=3, max_overlap=0)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        first, second = await pool.acquire("s"), await pool.acquire("s")
        nursery.start_soon(pool.drain, "s")
        await settle()
        first.release()
        nursery.start_soon(pool.call_tool, "s", "echo", {"text": "x"})
        await trio.sleep(1)
        assert pool.statistics().tasks_waiting_acquire == 1
        second.release()
    assert [call.connection for call in server.calls] == [2]


async def test_R10_the_time_of_those_who_waited_in_vain_counts(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger()
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(max_in_flight=1), ledger=ledger) as pool:
        async with pool.session("s"), trio.open_nursery() as nursery:
            await trio.sleep(5)

            async def waiter() -> None:
                with pytest.raises(UnknownServerError):
                    await pool.call_tool("s", "echo", {"text": "x"})

            nursery.start_soon(waiter)
            await trio.sleep(2)
            nursery.start_soon(pool.remove_server, "s")
            await settle()
            nursery.cancel_scope.cancel()
        failed = [e for e in ledger.events if isinstance(e, AcquireFailed)]
        assert [(e.at, e.waited) for e in failed] == [(7, 2)]
        assert pool.statistics().acquire_wait_seconds == 2


async def test_R18_a_session_of_min_sessions_that_dies_under_its_first_lease_is_told_of(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(min_sessions=1)) as pool:
        await settle()
        held = pool.acquire_nowait("s")
        server.kill()
        await settle()
        with pytest.raises(SessionLostError):
            await held.call_tool("echo", {"text": "x"})
        held.release()


async def test_R8_the_loss_of_a_scopes_session_is_told_to_who_does_not_want_to_wait_either(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool, pool.open_scope() as scope:
        await scope.list_tools("s")
        server.kill()
        await trio.sleep(1)
        with pytest.raises(SessionLostError):
            scope.acquire_nowait("s")
        assert text(await scope.call_tool("s", "echo", {"text": "x"})) == "x"


# Timers.


async def test_R7_a_session_that_becomes_surplus_while_it_is_idle_ends_at_its_own_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    policy = PoolPolicy(min_sessions=1, max_sessions=2, max_in_flight=1, idle_timeout=10)
    server = ScriptedServer(gates={"spawn": [ok, slow(5)]})
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.wait_ready("s")
        held = await pool.acquire("s")
        with trio.move_on_after(1):
            await pool.acquire("s")  # another session is dialled for it, and will be ready at 5
        held.release()
        await trio.sleep_until(100)
        closed = [(e.connection, e.reason, e.at) for e in ledger.events if isinstance(e, SessionClosed)]
        assert closed == [(1, "idle", 11)]


async def test_R11_a_session_that_was_probed_at_once_is_not_the_next_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000, max_sessions=1)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:

        async def impatient() -> None:
            with trio.move_on_after(1) as scope:
                await pool.call_tool("s", "pause", {"seconds": 1000})
            assert scope.cancelled_caught

        await pool.list_tools("s")
        await impatient()
        await pool.call_tool("s", "echo", {"text": "x"})  # lent as the last resort, probed at once, and heard
        await trio.sleep(1)
        server.stop()
        await impatient()
        since = trio.current_time()
        await trio.sleep(100)
        # Ten seconds of silence, then ten for the answer.
        assert [e.at for e in ledger.events if isinstance(e, SessionClosed)] == [since + 20]


async def test_R4_who_waits_gets_the_suspect_session_where_there_can_be_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_that_pauses()
    policy = PoolPolicy(max_in_flight=1, max_sessions=1)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        answered: list[float] = []

        async def waiter() -> None:
            await pool.call_tool("s", "echo", {"text": "x"})
            answered.append(trio.current_time())

        with trio.move_on_after(3):
            async with trio.open_nursery() as calls:
                calls.start_soon(pool.call_tool, "s", "pause", {"seconds": 1000})
                await trio.sleep(1)
                nursery.start_soon(waiter)
        await trio.sleep(0.5)
        assert answered == [3]


async def test_R4_a_suspect_session_of_which_something_was_heard_is_lent_like_any_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause, "echo": lambda text: text}, eras="legacy")  # the other era asks to be told
    async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=2)) as pool:
        await pool.list_tools("s")
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 1000})
        await trio.sleep(1)
        server.notify("notifications/tools/list_changed")
        await settle()
        await pool.call_tool("s", "echo", {"text": "x"})
        assert pool.statistics().connects == 1


async def test_R11_what_was_heard_before_the_call_was_cancelled_proves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause, "echo": lambda text: text}, eras="legacy")
    async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=2)) as pool:
        await pool.list_tools("s")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 1000})
                await trio.sleep(1)
                server.notify("notifications/tools/list_changed")
                await settle()
                scope.cancel()
        await pool.call_tool("s", "echo", {"text": "x"})
        assert pool.statistics().connects == 2


async def test_R11_who_waits_for_an_unfit_session_gets_it_when_a_probe_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_that_pauses()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000, max_sessions=1)
    answered: list[float] = []
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        await pool.list_tools("s")
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 1000})
        await settle()
        server.stop()
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 1000})

        async def waiter() -> None:
            await pool.call_tool("s", "echo", {"text": "x"})
            answered.append(trio.current_time())

        await trio.sleep_until(15)
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 1000})  # there is no other session for it
        await trio.sleep_until(25)  # probed from 11 to 21: unfit, while the first call runs
        nursery.start_soon(waiter)
        await trio.sleep_until(30)
        assert (answered, pool.statistics().tasks_waiting_acquire) == ([], 1)
        server.resume()
        await trio.sleep_until(60)
        assert answered == [31]  # probed again after ten seconds of silence
        nursery.cancel_scope.cancel()


# Outages.


async def test_R5_a_session_that_lived_for_the_longest_backoff_has_proved_its_server_when_it_dies(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [ok, error(OSError), error(OSError)]})
    policy = PoolPolicy(backoff=Backoff(first=1, factor=2, cap=10, jitter=0), max_sessions=1)
    async with watched_pool({"s": server}, policy=policy) as pool:
        (await pool.acquire("s")).release()  # it answers nothing
        await trio.sleep(1)
        with pytest.raises(ConnectError):
            await pool.acquire("s", scope="other")
        await trio.sleep(19)
        server.kill(1)
        await settle()
        with pytest.raises(ConnectError) as caught:
            await pool.acquire("s")
        assert caught.value.attempt == 1


async def test_R5_but_not_while_the_server_is_in_backoff(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": [ok, error(OSError)]})
    policy = PoolPolicy(backoff=Backoff(first=5, cap=5, jitter=0), max_sessions=1)
    async with watched_pool({"s": server}, policy=policy) as pool:
        (await pool.acquire("s")).release()
        await trio.sleep(18)
        with pytest.raises(ConnectError):
            await pool.acquire("s", scope="other")
        server.kill(1)
        await settle()
        assert pool.statistics().servers["s"].state == "backoff"


async def test_R5_a_session_that_dies_unproved_fails_those_who_wait_for_a_dial_of_its_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, slow_one, ledger = ScriptedServer(), ScriptedServer(gates={"spawn": slow(50)}), Ledger()
    told: list[float] = []
    async with (
        watched_pool({"s": server, "slow": slow_one}, max_connecting=1, ledger=ledger) as pool,
        trio.open_nursery() as nursery,
    ):
        (await pool.acquire("s")).release()  # it answers nothing
        nursery.start_soon(pool.wait_ready, "slow")
        await settle()

        async def caller() -> None:
            with pytest.raises(ServerUnavailableError):
                await pool.acquire("s", scope="other")
            told.append(trio.current_time())

        nursery.start_soon(caller)
        await trio.sleep(0.5)
        server.kill()
        await settle()
        assert told == [0.5]
        failed = [e for e in ledger.events if isinstance(e, AcquireFailed)]
        assert [(e.reason, e.waited, e.queued) for e in failed] == [("rejected", 0.5, True)]
        nursery.cancel_scope.cancel()


# Changes.


async def test_R11_a_session_that_dies_while_it_is_being_drained_is_lost_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(drain_timeout=100, max_overlap=0)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:
        await pool.list_tools("s")

        async def caller() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})

        nursery.start_soon(caller)
        await settle()
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(5)
        server.kill()
        await settle()
        assert ledger.story(SessionDied, SessionClosed) == [(5, "SessionDied", 1), (5, "SessionClosed", 1, "broken")]
        assert check_books(pool).sessions_lost == 1


async def test_R9_a_new_server_of_a_name_gets_its_least_sessions_when_the_old_one_has_made_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    old, new = ScriptedServer(), ScriptedServer()
    policy = PoolPolicy(min_sessions=1, max_sessions=1)
    async with watched_pool({"s": old}, policy=policy, limits=False) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        nursery.start_soon(pool.remove_server, "s")
        await settle()
        pool.add_server("s", new)
        await settle()
        assert new.connections == []
        held.release()
        await settle()
        assert [each.state for each in new.connections] == ["open"]


async def test_R10_a_server_that_was_removed_is_allowed_no_more_than_it_still_has(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_pool({"s": ScriptedServer()}, policy=PoolPolicy(min_sessions=1, max_sessions=8)) as pool:
        async with trio.open_nursery() as nursery:
            held = await pool.acquire("s")
            nursery.start_soon(pool.remove_server, "s")
            await settle()
            assert pool.statistics().max_sessions == 1
            held.release()
        stats = pool.statistics()
        assert (stats.min_sessions, stats.max_sessions) == (0, 0)


async def test_R10_servers_of_one_name_that_leave_at_different_times_are_counted_once_each(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_sessions=4)
    async with watched_pool({}, policy=policy, limits=False) as pool, trio.open_nursery() as nursery:
        held = []
        for _ in range(3):
            pool.add_server("s", ScriptedServer())
            held.append(await pool.acquire("s"))
            nursery.start_soon(pool.remove_server, "s")
            await settle()
        for session in (held[1], held[0], held[2]):
            session.release()
            await settle()
            assert check_books(pool).connects == 3
        assert pool.statistics().size == 0


async def test_R10_the_counters_of_a_name_go_on_when_it_is_added_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        for round_ in (1, 2, 3):
            await pool.list_tools("s")
            assert (pool.statistics().connects, pool.statistics().servers["s"].connects) == (round_, round_)
            await pool.remove_server("s")
            pool.add_server("s", ScriptedServer())
            assert pool.statistics().servers["s"].connects == round_
        for number in range(100):  # which are more names than are remembered one by one
            pool.add_server(f"s{number}", ScriptedServer())
            await pool.remove_server(f"s{number}")
        assert pool.statistics().servers["s"].connects == 3


async def test_R9_a_successor_of_a_session_that_was_never_used_is_not_missed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(min_sessions=1, max_sessions=1)
    server = ScriptedServer(gates={"handshake": [ok, slow(5), slow(5)]})
    async with watched_pool({"s": server}, policy=policy) as pool:
        await pool.wait_ready("s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.drain, "s")
            await trio.sleep(2)
            nursery.start_soon(pool.drain, "s")  # while the successor is being dialled
        await trio.sleep_until(20)
        assert [(c.opened_at, c.closed_at) for c in server.connections] == [(0, 5), (5, 5), (10, None)]


async def test_R9_a_session_whose_lifetime_is_over_while_it_is_being_drained_is_still_drained(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_lifetime=10, drain_timeout=100, max_overlap=0)
    async with watched_pool({"s": server_that_pauses()}, policy=policy) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 30})
        await trio.sleep(5)
        await pool.drain("s")
        assert trio.current_time() == 30
        stats = pool.statistics()
        assert (stats.closed_drained, stats.closed_lifetime) == (1, 0)


async def test_R9_of_a_lifetime_and_a_drain_the_one_that_ends_the_session_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_lifetime=10, drain_timeout=5, max_sessions=1)
    server, ledger = ScriptedServer({"pause": pause}, gates={"handshake": [ok, slow(1000)]}), Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:

        async def caller() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})

        nursery.start_soon(caller)
        await trio.sleep(15)  # it is outdated, and its successor is being dialled
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(10)
        assert (20, "SessionClosed", 1, "drained") in ledger.story(SessionClosed)
        nursery.cancel_scope.cancel()


async def test_R11_a_drain_that_runs_out_in_the_middle_of_a_probe_is_no_death(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(drain_timeout=12, probe_timeout=10, write_timeout=1000, max_sessions=1)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:
        await pool.list_tools("s")

        async def caller() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})

        nursery.start_soon(caller)
        await settle()
        server.stop()
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 1000})
        server.gates["handshake"] = slow(1000)
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(30)
        # Suspect at 1, probed from 11 on; the drain's time is over at 13.
        assert ledger.story(SessionDied, SessionClosed)[0] == (13, "SessionClosed", 1, "drained")
        assert pool.statistics().sessions_lost == 0
        nursery.cancel_scope.cancel()


async def test_R4_a_task_may_wait_for_its_own_session_while_a_probe_decides_about_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = server_that_pauses()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000, max_sessions=1, max_in_flight=2)
    async with watched_pool({"s": server}, policy=policy) as pool, pool.session("s") as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.call_tool, "pause", {"seconds": 1000})
            await settle()
            server.stop()
            with trio.move_on_after(1):
                await session.call_tool("pause", {"seconds": 1000})

            async def resume() -> None:
                await trio.sleep_until(30)
                server.resume()

            nursery.start_soon(resume)
            await trio.sleep_until(25)  # probed from 11 to 21: unfit, while the first call runs
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
            assert trio.current_time() == 31
            nursery.cancel_scope.cancel()


async def test_R9_a_second_drain_bounds_the_calls_on_the_successor_that_the_first_has_dialled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer({"pause": pause}, gates={"handshake": [ok, slow(5), slow(1000)]})
    policy = PoolPolicy(drain_timeout=20, max_sessions=1, max_in_flight=1)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        nursery.start_soon(pool.drain, "s")
        await trio.sleep(2)
        nursery.start_soon(pool.drain, "s")

        async def caller() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})
            assert trio.current_time() == 22
            nursery.cancel_scope.cancel()

        nursery.start_soon(caller)
        await trio.sleep_until(6)
        held.release()


async def test_R9_the_failures_of_successors_are_over_with_the_first_that_is_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"handshake": [ok, error(OSError("no")), ok, error(OSError("no")), ok]})
    policy = PoolPolicy(min_sessions=1, max_sessions=1, max_lifetime=100, backoff=Backoff(first=0.5, jitter=0))
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.wait_ready("s")
        await trio.sleep(250)
        assert [e.error.attempt for e in ledger.events if isinstance(e, DialFailed)] == [1, 1]


async def test_R15_after_an_error_the_shorter_close_timeout_bounds_what_is_being_closed_already(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with mcp.Client(MCPServer("s")) as client:
            yield client
        await trio.sleep_forever()

    def server(close_timeout: float) -> CustomServer:
        return CustomServer(connect, policy=PoolPolicy(close_timeout=close_timeout, idle_timeout=1))

    with pytest.raises(LookupError):
        async with watched_pool({"s": server(30)}) as pool:
            await pool.list_tools("s")
            await trio.sleep(5)
            assert pool.statistics().sessions_closing == 1
            await pool.reconfigure({"s": server(2)})
            raise LookupError
    assert trio.current_time() == 7


async def test_R9_a_drain_bounds_what_drains_for_its_lifetime_already(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_lifetime=10, drain_timeout=5, max_overlap=0)
    async with watched_pool({"s": server_that_pauses()}, policy=policy) as pool, trio.open_nursery() as nursery:

        async def caller() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})
            assert trio.current_time() == 25

        nursery.start_soon(caller)
        await trio.sleep(20)
        await pool.drain("s")


async def test_R9_a_session_that_outlived_its_successors_failure_ends_when_it_is_released_though_nobody_observes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [ok, error(OSError("no")), ok]})
    policy = PoolPolicy(max_lifetime=10, backoff=Backoff(first=100, cap=100), min_sessions=0)
    async with open_pool({"s": server}, policy=policy) as pool:
        async with pool.session("s") as session:
            await session.list_tools()
            await trio.sleep(20)
            assert pool.statistics().sessions_in_use == 1
        await settle()
        stats = check_books(pool)
        assert (stats.size, stats.closed_lifetime) == (0, 1)


async def test_R9_after_a_change_to_fewer_the_surplus_ends_when_it_is_released_though_nobody_observes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connect = partial(mcp.Client, MCPServer("s"))

    def described(max_sessions: int) -> CustomServer:
        return CustomServer(connect, policy=PoolPolicy(max_in_flight=1, max_sessions=max_sessions))

    async with open_pool({"s": described(2)}) as pool:
        async with pool.session("s"), pool.session("s"):
            await pool.reconfigure({"s": described(4)})
            assert check_books(pool).max_sessions == 4
            await pool.reconfigure({"s": described(1)})
            stats = check_books(pool)
            assert (stats.size, stats.max_sessions) == (2, 2)
        await settle()
        stats = check_books(pool)
        assert (stats.size, stats.max_sessions) == (1, 1)


async def test_R9_a_changed_policy_holds_for_the_sessions_that_there_are_whatever_their_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with mcp.Client(MCPServer("s")) as client:
            yield client
        await trio.sleep(50)

    def described(lifetime: float) -> CustomServer:
        return CustomServer(
            connect,
            policy=PoolPolicy(
                max_in_flight=1, max_sessions=2, idle_timeout=5, max_lifetime=lifetime, close_timeout=100, max_overlap=0
            ),
        )

    async with watched_pool({"s": described(1000)}) as pool:
        first = await pool.acquire("s")
        async with pool.session("s"):
            first.release()
            await trio.sleep(10)  # the first is being closed
            assert pool.statistics().sessions_closing == 1
            await pool.reconfigure({"s": described(20)})
            await trio.sleep(15)
            assert pool.statistics().closed_lifetime == 0
        await trio.sleep(100)
        assert pool.statistics().closed_lifetime == 1


async def test_R11_a_changed_probe_timeout_holds_for_the_sessions_that_there_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never_answer(**_: Any) -> Any:
        await trio.sleep_forever()

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        server = MCPServer("s")
        server.add_tool(pause)
        async with mcp.Client(server, mode="legacy") as client:
            client.session.send_ping = never_answer  # type: ignore[method-assign]
            yield client

    ledger = Ledger()
    before, after = (CustomServer(connect, policy=PoolPolicy(probe_timeout=seconds)) for seconds in (100, 5))
    async with watched_pool({"s": before}, ledger=ledger) as pool:
        await pool.list_tools("s")
        await pool.reconfigure({"s": after})
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 1000})
        await trio.sleep(100)
        # Five seconds of silence, then five for the answer.
        assert ledger.story(SessionDied) == [(11, "SessionDied", 1)]


def client_with(pings: list[float]) -> AbstractAsyncContextManager[mcp.Client]:
    """A client of which the pool does not know what it hears, and that notes its pings."""
    server = MCPServer("s")
    server.add_tool(pause)

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async with mcp.Client(server, mode="legacy") as client:
            real = client.session.send_ping

            async def send_ping(**options: Any) -> Any:
                pings.append(trio.current_time())
                return await real(**options)

            client.session.send_ping = send_ping  # type: ignore[method-assign]
            yield client

    return connect()


async def test_R11_a_session_that_answered_its_probe_is_not_suspect_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pings: list[float] = []
    server = CustomServer(partial(client_with, pings), policy=PoolPolicy(min_sessions=1, probe_timeout=5))
    async with watched_pool({"s": server}) as pool:
        await pool.list_tools("s")
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 1000})
        await trio.sleep(100)
    assert pings == [6]


async def test_R11_a_session_that_nobody_uses_is_probed_no_more_often_than_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pings: list[float] = []
    policy = PoolPolicy(min_sessions=1, probe_interval=10)
    async with watched_pool({"s": CustomServer(partial(client_with, pings))}, policy=policy):
        await trio.sleep(35)
    assert pings == [10, 20, 30]
