"""What the fault matrix on real servers cannot show exactly: when, on the virtual clock, a failing server is tried again and a
silent one is asked for a sign of life."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    AuthenticationError,
    Backoff,
    ConnectError,
    DialFailed,
    DialStarted,
    OutcomeUnknownError,
    Pool,
    PoolPolicy,
    ServerUnavailableError,
    SessionDied,
    SessionOpened,
)
from trio_mcp_pool.testing import Gate, ScriptedServer, error, ok, slow

from .books import Ledger, settle, text, watched_pool

EXACT = Backoff(jitter=0)


async def echo(pool: Pool, server: str = "s") -> str:
    return text(await pool.call_tool(server, "echo", {"text": "hello"}))


async def keep_asking(pool: Pool, until: float, server: str = "s") -> None:
    """Ask again as soon as the pool says that it is worth it."""
    while trio.current_time() < until:
        try:
            await echo(pool, server)
        except ConnectError as exc:
            await trio.sleep(exc.retry_after)
        except OutcomeUnknownError:
            pass


# When a failing server is tried again.


async def test_the_dials_of_a_dead_server_are_the_backoffs_sequence(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"spawn": error()})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=EXACT), ledger=ledger) as pool:
        await keep_asking(pool, 180)
    dials = [e.at for e in ledger.events if isinstance(e, DialStarted)]
    assert dials == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 123.5]


async def test_jitter_shifts_every_wait_by_at_most_its_share(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"spawn": error()})
    policy = PoolPolicy(backoff=Backoff(cap=8, jitter=0.25))
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await keep_asking(pool, 300)
    dials = [e.at for e in ledger.events if isinstance(e, DialStarted)]
    waits = [later - earlier for earlier, later in pairwise(dials)][4:]
    assert all(6 <= wait <= 10 for wait in waits)
    assert len({round(wait, 6) for wait in waits}) == len(waits) > 20


async def test_every_failure_says_how_many_there_were_and_when_to_come_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"spawn": error()})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=EXACT), ledger=ledger) as pool:
        await keep_asking(pool, 3)
        with pytest.raises(ConnectError):
            await echo(pool)
        with pytest.raises(ServerUnavailableError) as caught:
            await echo(pool)
    failed = [e.error for e in ledger.events if isinstance(e, DialFailed)]
    assert [(e.attempt, e.retry_after) for e in failed] == [(1, 0.5), (2, 1), (3, 2), (4, 4)]
    assert isinstance(caught.value.__cause__, ConnectionError)


@pytest.mark.parametrize(
    "failure",
    [FileNotFoundError("no such command"), PermissionError("not executable"), AuthenticationError("no", server="s")],
    ids=lambda e: type(e).__name__,
)
async def test_what_does_not_mend_itself_is_tried_again_at_the_backoffs_cap(
    failure: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"spawn": error(failure)})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=EXACT), ledger=ledger) as pool:
        await keep_asking(pool, 130)
    assert [e.at for e in ledger.events if isinstance(e, DialStarted)] == [0, 60, 120]


@pytest.mark.parametrize("how", ["drain", "reconfigure"])
async def test_what_does_not_mend_itself_is_tried_at_once_after_somebody_saw_to_it(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"spawn": error(FileNotFoundError("no such command"))})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=EXACT)) as pool:
        with pytest.raises(ConnectError):
            await echo(pool)
        with pytest.raises(ServerUnavailableError) as caught:
            await echo(pool)
        assert caught.value.retry_after == 60
        server.gates["spawn"] = ok
        if how == "drain":
            await pool.drain("s")
        else:
            await pool.reconfigure({"s": ScriptedServer()})
        assert await echo(pool) == "hello"
        assert trio.current_time() == 0


async def test_a_server_that_crashes_on_every_start_costs_the_others_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its dials per minute are what the backoff allows, and the calls to the other take as long as without it."""
    ledger = Ledger()

    def crash(_: int) -> Gate:
        return error(ConnectionError("it went down"))

    servers = {"bad": ScriptedServer(gates={"handshake": crash}), "good": ScriptedServer(gates={"call": slow(0.1)})}
    took: list[float] = []
    async with watched_pool(servers, policy=PoolPolicy(backoff=EXACT), max_connecting=1, ledger=ledger) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_asking, pool, 300.0, "bad")
            for _ in range(200):
                began = trio.current_time()
                await echo(pool, "good")
                took.append(round(trio.current_time() - began, 9))
                await trio.sleep(1)
    assert set(took) == {0.1}
    dials = [e.at for e in ledger.events if isinstance(e, DialStarted) and e.server == "bad"]
    assert len([at for at in dials if at < 60]) == 7
    assert max(len([at for at in dials if start <= at < start + 60]) for start in range(60, 240)) <= 2


# When a silent server is asked.


def death_times(ledger: Ledger) -> list[float]:
    return [e.at for e in ledger.events if isinstance(e, SessionDied)]


async def test_R11_a_cancelled_call_and_silence_lead_to_a_probe_and_a_failed_probe_to_death(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=PoolPolicy(probe_timeout=10), ledger=ledger) as pool:
        await echo(pool)
        server.stop()
        with trio.move_on_after(1):
            await echo(pool)
        assert trio.current_time() == 1
        await trio.sleep(18)
        assert death_times(ledger) == []
        await trio.sleep(3)
        # Silence from 1 to 11, then a probe that had until 21.
        assert death_times(ledger) == [21]
        assert await echo(pool) == "hello"
    assert len(server.connections) == 2


async def test_R11_a_cancelled_call_on_a_server_that_talks_leads_to_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"call": [ok, slow(1000), ok]})
    async with watched_pool({"s": server}, policy=PoolPolicy(probe_timeout=10), ledger=ledger) as pool:
        await echo(pool)
        with trio.move_on_after(1):
            await echo(pool)
        await trio.sleep(100)
        assert await echo(pool) == "hello"
    assert death_times(ledger) == []
    assert len(server.connections) == 1


async def test_R11_while_calls_run_a_failed_probe_only_stops_new_leases(autojump_clock: trio.testing.MockClock) -> None:
    """A server with one thread answers no ping while it works, and its long call must not die for that."""
    ledger = Ledger()
    server = ScriptedServer(gates={"call": [ok, slow(100), ok]})
    policy = PoolPolicy(probe_timeout=10, write_timeout=math.inf, max_sessions=2)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await echo(pool)
        answers: list[str] = []
        async with trio.open_nursery() as nursery:

            async def long_call() -> None:
                answers.append(await echo(pool))

            nursery.start_soon(long_call)
            await settle()
            server.stop(1)
            with trio.move_on_after(1):
                await echo(pool)
            await trio.sleep(25)
            # Unfit, so this one goes elsewhere; but not dead, so the long call goes on.
            assert await echo(pool) == "hello"
            assert (len(server.connections), answers, death_times(ledger)) == (2, [], [])
            server.resume(1)
        assert answers == ["hello"]
    assert death_times(ledger) == []


async def test_R12_idle_sessions_are_probed_at_probe_interval(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger()
    server = ScriptedServer()
    policy = PoolPolicy(probe_interval=30, probe_timeout=5, idle_timeout=1000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await echo(pool)
        await trio.sleep(100)
        assert death_times(ledger) == []
        server.stop()  # at 100; the probes were at 30, 60 and 90
        await trio.sleep(24.9)
        assert death_times(ledger) == []
        await trio.sleep(0.2)
        assert death_times(ledger) == [125]


async def test_checkout_of_a_session_pays_no_probe(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger()
    server = ScriptedServer(gates={"stream": slow(1)})
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await echo(pool)
        await trio.sleep(200)
        began = trio.current_time()
        await echo(pool)
        assert trio.current_time() - began == 1
    assert [type(e) for e in ledger.events].count(SessionOpened) == 1
