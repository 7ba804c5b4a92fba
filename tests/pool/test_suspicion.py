"""When silence is explained and when it is death (R11, R12), at exact virtual times."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server import MCPServer

from trio_mcp_pool import (
    ConnectError,
    CustomServer,
    OutcomeUnknownError,
    PoolPolicy,
    SessionDied,
    SessionLostError,
)
from trio_mcp_pool.testing import ScriptedServer, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool


async def pause(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


def server_that_pauses(**options: Any) -> ScriptedServer:
    return ScriptedServer({"pause": pause, "echo": lambda text: text}, **options)


async def impatient(pool: Any, seconds: float) -> None:
    with trio.move_on_after(seconds) as scope:
        await pool.call_tool("s", "pause", {"seconds": 1000})
    assert scope.cancelled_caught


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
async def test_R11_a_cancelled_call_on_a_server_that_lives_costs_nothing(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server, ledger = server_that_pauses(mode=mode), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await impatient(pool, 2)
        await trio.sleep(100)  # it is probed, and answers
        assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
    assert (len(server.connections), ledger.count(SessionDied)) == (1, 0)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
async def test_R11_a_mute_server_is_found_out_after_a_cancelled_call(
    mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    server, ledger = server_that_pauses(mode=mode), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.list_tools("s")
        server.stop()
        await impatient(pool, 2)
        await trio.sleep(100)
        # Suspect from 2 on; probed after ten seconds of silence; ten seconds for an answer.
        assert ledger.story(SessionDied) == [(22, "SessionDied", 1)]
        await pool.call_tool("s", "echo", {"text": "x"})


async def test_R11_a_server_that_answered_one_probe_is_probed_again_when_it_is_suspect_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.list_tools("s")
        await impatient(pool, 2)
        await trio.sleep(98)  # probed at 12, and it answers
        server.stop()
        await impatient(pool, 2)
        await trio.sleep(100)
        assert ledger.story(SessionDied) == [(122, "SessionDied", 1)]


async def test_R9_a_probe_does_not_prolong_the_time_that_a_drain_gave(autojump_clock: trio.testing.MockClock) -> None:
    server = server_that_pauses(gates={"handshake": [ok, slow(1000)]})
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000, drain_timeout=15, connect_timeout=1000)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        await pool.list_tools("s")

        async def patient() -> None:
            with pytest.raises(OutcomeUnknownError):
                await pool.call_tool("s", "pause", {"seconds": 1000})

        nursery.start_soon(patient)
        await trio.sleep(0)
        await settle()
        server.stop()
        nursery.start_soon(pool.drain, "s")
        await impatient(pool, 2)  # suspect from 2 on, probed from 12 to 22
        await trio.sleep(20)
        assert server.connections[0].closed_at == 15
        nursery.cancel_scope.cancel()


async def test_R11_callers_that_keep_cancelling_do_not_hide_that_a_server_is_mute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000, max_in_flight=1)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.list_tools("s")
        server.stop()
        died: list[float] = []
        for _ in range(20):
            await impatient(pool, 4)
            await trio.sleep(0.5)
            died = [e.at for e in ledger.events if isinstance(e, SessionDied)]
            if died:
                break
        # Suspect at 4, lent again at 4.5 and probed at once, with ten seconds for an answer. Later calls are not protected.
        assert died == [14.5]


async def test_R11_a_busy_server_that_cannot_answer_a_probe_keeps_its_long_call_and_gets_no_new_lease(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        done: list[tuple[float, str]] = []

        async def call(name: str, seconds: float) -> None:
            await pool.call_tool("s", "pause", {"seconds": seconds})
            done.append((trio.current_time(), name))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "long", 30)
            await settle()
            server.stop()  # one thread, and it is busy
            await impatient(pool, 2)
            await trio.sleep_until(25)  # probed at 12, unanswered at 22
            with pytest.raises(trio.WouldBlock):
                pool.acquire_nowait("s")
            await trio.sleep_until(31)
            server.resume()
            await settle()
            assert done == [(31, "long")]
            await trio.sleep_until(40)
            nursery.start_soon(call, "next", 1)
        assert done[1:] == [(41, "next")]
    assert (ledger.count(SessionDied), len(server.connections)) == (0, 1)


async def test_R11_a_server_that_is_heard_from_before_its_probe_is_fit_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After a failed probe under a running call, any byte will do."""
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=1000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.call_tool, "s", "pause", {"seconds": 500})
        await settle()
        server.stop()
        await impatient(pool, 2)
        await trio.sleep_until(23)
        server.resume()
        server.notify("notifications/message", {"level": "info", "data": "here I am"})
        await trio.sleep_until(33)
        with trio.fail_after(1):
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
        nursery.cancel_scope.cancel()
    assert ledger.count(SessionDied) == 0


async def test_R11_a_read_timeout_makes_suspect_as_a_cancellation_does(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = server_that_pauses(), Ledger()
    async with watched_pool({"s": server}, policy=PoolPolicy(write_timeout=1000), ledger=ledger) as pool:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await trio.sleep(1)
                server.stop()

            nursery.start_soon(stop)
            with pytest.raises(mcp.MCPError):
                await pool.call_tool("s", "pause", {"seconds": 9}, read_timeout_seconds=3)
        await trio.sleep(100)
        assert ledger.story(SessionDied) == [(23, "SessionDied", 1)]


@pytest.mark.parametrize("heard", [False, True])
async def test_R12_an_idle_session_is_probed_every_probe_interval(
    heard: bool, autojump_clock: trio.testing.MockClock
) -> None:
    server, ledger = server_that_pauses(), Ledger()
    policy = PoolPolicy(probe_interval=30, probe_timeout=5, write_timeout=1000, idle_timeout=10_000)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.list_tools("s")
        if heard:
            await trio.sleep(20)
            await pool.list_tools("s")  # no probe until thirty seconds after this
            server.stop()
        else:
            await trio.sleep(40)  # probed at 30
            server.stop()
        await trio.sleep(500)
    assert [at for at, *_ in ledger.story(SessionDied)] == ([55] if heard else [65])


async def test_R12_an_unread_request_is_death_after_write_timeout(autojump_clock: trio.testing.MockClock) -> None:
    server, ledger = server_that_pauses(), Ledger()
    async with watched_pool({"s": server}, policy=PoolPolicy(write_timeout=4), ledger=ledger) as pool:
        await pool.list_tools("s")
        server.stop()
        async with pool.session("s") as session:
            with pytest.raises(SessionLostError):
                await session.call_tool("echo", {"text": "x"})
        assert ledger.story(SessionDied) == [(4, "SessionDied", 1)]
        assert server.calls == []


async def test_a_custom_client_that_says_connection_closed_is_probed_before_it_is_believed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The code is also that of one lost answer, on a session that is well."""
    server = MCPServer("m")

    @server.tool()
    async def lose() -> str:
        raise mcp.MCPError(-32000, "Connection closed")

    ledger = Ledger()
    async with watched_pool({"s": CustomServer(lambda: mcp.Client(server))}, ledger=ledger) as pool:
        with pytest.raises(mcp.MCPError):
            await pool.call_tool("s", "lose")
        await pool.list_tools("s")
        assert check_books(pool).connects == 1
    assert ledger.count(SessionDied) == 0


async def test_waiters_of_a_scope_get_the_error_of_a_lost_session_once(autojump_clock: trio.testing.MockClock) -> None:
    server = server_that_pauses()
    told: list[str] = []
    async with watched_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool, pool.open_scope() as corner:
        await corner.list_tools("s")  # a session that is proved

        async def call() -> None:
            try:
                await corner.call_tool("s", "pause", {"seconds": 1})
                told.append("ok")
            except (OutcomeUnknownError, SessionLostError) as why:
                told.append(type(why).__name__)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
                await settle()
            server.kill()
    assert sorted(told) == ["OutcomeUnknownError", "SessionLostError", "ok"]


async def test_R6_a_session_that_reaches_nobody_leaves_no_trace_in_the_numbers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The only waiter is cancelled in every tick of the dial's end, one run each."""
    for ticks in range(80):
        server = ScriptedServer(gates={"spawn": slow(1)})
        async with watched_pool({"s": server}) as pool, trio.open_nursery() as nursery:

            async def wait() -> None:
                (await pool.acquire("s")).release()

            nursery.start_soon(wait)
            await trio.sleep(1)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            await settle_shielded()
            stats = check_books(pool)
            assert (stats.acquires, stats.acquires_cancelled) in ((1, 0), (0, 1))
            assert stats.peak_in_use == stats.acquires


async def settle_shielded() -> None:
    with trio.CancelScope(shield=True):
        await settle()


async def test_R5_a_dial_that_ends_at_the_very_moment_of_its_deadline_is_one_or_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes: set[str] = set()
    for seed in range(30):
        random.seed(seed)
        server = ScriptedServer(gates={"spawn": slow(2)})
        async with watched_pool({"s": server}, policy=PoolPolicy(connect_timeout=2)) as pool:
            try:
                await pool.call_tool("s", "echo", {"text": "x"})
                outcomes.add("ok")
            except ConnectError:
                outcomes.add("failed")
            assert trio.current_time() == 2 * (seed + 1)
    assert outcomes <= {"ok", "failed"}


async def test_R11_the_answer_to_another_call_ends_the_suspicion_where_no_bytes_are_heard(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pings: list[float] = []

    class Client(mcp.Client):
        """A client that is not the pool's, so that the answers alone are seen. Its server answers nothing but calls."""

        async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> types.CallToolResult:
            await trio.sleep(float(name))
            return types.CallToolResult(content=[])

    @asynccontextmanager
    async def connect() -> AsyncIterator[mcp.Client]:
        async def ping(**_: Any) -> None:
            pings.append(trio.current_time())
            await trio.sleep_forever()

        async with Client(MCPServer("custom"), mode="legacy") as client:
            client.session.send_ping = ping  # type: ignore[method-assign, assignment]
            yield client

    async with watched_pool({"s": CustomServer(connect)}, policy=PoolPolicy(probe_timeout=10)) as pool:
        await pool.call_tool("s", "0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.call_tool, "s", "5")
            with trio.move_on_after(2):
                await pool.call_tool("s", "1000")
        await trio.sleep(100)
        await pool.call_tool("s", "0")
        assert (pings, check_books(pool).connects) == ([], 1)
