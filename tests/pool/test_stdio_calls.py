"""Plain tool calls through a pool to a real child process: they wait without a cancel scope of their own, so what ends them
early is tried here, too."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import mcp_types as types
import pytest
import trio
from mcp import MCPError

from trio_mcp_pool import (
    Caller,
    InvalidResultError,
    OutcomeUnknownError,
    Pool,
    PoolClosed,
    PoolPolicy,
    SessionClosed,
    SessionLostError,
    StdioServer,
)

from .books import Ledger, check_books, numbers, settle, text, watched_pool

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere the SDK's own wire is used, with scopes")

ECHO = str(Path(__file__).parents[1] / "servers" / "echo_stdio.py")
PATIENCE = 30
ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


def echo(*arguments: str) -> StdioServer:
    """The echo server as a real process."""
    return StdioServer(sys.executable, ("-S", ECHO, *arguments))


async def wait_until_sleeping(pool: Pool, calls: int) -> None:
    """Until the server has read so many calls. It counts those that ask it, too."""
    await settle()
    assert text(await pool.call_tool("s", "count")) == str(calls + 1)


@ERAS
async def test_a_plain_call_returns_what_the_server_answers(era: str) -> None:
    told: list[tuple[str | None, float, float | None, str | None]] = []

    async def on_progress(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
        told.append((caller.tool, progress, total, message))

    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo("--era", era)}) as pool:
            result = await pool.call_tool("s", "echo", {"text": "h\u00e9"})
            assert (text(result), result.is_error) == ("h\u00e9", False)
            result = await pool.call_tool("s", "no such tool")
            assert (text(result), result.is_error) == ("unknown tool no such tool", True)
            seen = json.loads(text(await pool.call_tool("s", "meta", meta={"org.example/trace": "7"})))
            assert seen["org.example/trace"] == "7"
            assert "org.example/trace" not in json.loads(text(await pool.call_tool("s", "meta")))
            assert text(await pool.call_tool("s", "progress", {"steps": 2}, on_progress=on_progress)) == "done"
            assert told == [("progress", 1, 2, "0"), ("progress", 2, 2, "1")]
            assert numbers(check_books(pool))["acquires"] == 5


@ERAS
async def test_a_result_is_checked_against_the_tools_output_schema(era: str) -> None:
    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo("--era", era)}) as pool:
            for _ in range(2):  # before the tools were listed, and after
                fits = await pool.call_tool("s", "structured", {"n": 1.5})
                assert fits.structured_content == {"n": 1.5}
                with pytest.raises(InvalidResultError, match="the tool's own schema") as caught:
                    await pool.call_tool("s", "structured", {"n": "many"})
                assert caught.value.outcome == "answered"
                assert caught.value.result["structuredContent"] == {"n": "many"}
            assert check_books(pool).closed_broken == 0


async def test_fifty_calls_at_once_each_get_their_own_answer() -> None:
    answers: dict[int, str] = {}

    async def one(n: int) -> None:
        answers[n] = text(await pool.call_tool("s", "echo", {"text": str(n) * 50}))

    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo()}) as pool:
            async with trio.open_nursery() as nursery:
                for n in range(50):
                    nursery.start_soon(one, n)
            stats = check_books(pool)
    assert answers == {n: str(n) * 50 for n in range(50)}
    assert (stats.acquires, stats.connects, stats.leases_in_flight) == (50, 1, 0)


@pytest.mark.parametrize("how", ["drain", "aclose", "the body raises"])
async def test_R15_R18_a_call_that_outlasts_drain_timeout_is_cut_before_a_stubborn_server_is_killed(how: str) -> None:
    policy = PoolPolicy(drain_timeout=0.1, close_timeout=0.2, max_overlap=0)
    order: list[str] = []
    errors: list[OutcomeUnknownError] = []
    ledger = Ledger()

    async def call(pool: Pool) -> None:
        with pytest.raises(OutcomeUnknownError) as caught:
            await pool.call_tool("s", "sleep", {"seconds": 600})
        order.append("cut")
        errors.append(caught.value)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as outside:
            try:
                async with watched_pool({"s": echo("--stubborn")}, policy=policy, ledger=ledger) as pool:
                    outside.start_soon(call, pool)
                    await pool.wait_ready("s")
                    await wait_until_sleeping(pool, 1)
                    if how == "drain":
                        await pool.drain("s")
                    elif how == "aclose":
                        await pool.aclose()
                    else:
                        raise ArithmeticError
            except ArithmeticError:
                pass
            order.append("closed")
    assert order == ["cut", "closed"]
    assert [(error.outcome, error.exit_status) for error in errors] == [("unknown", None)]
    assert "was closed after the request was sent" in str(errors[0])
    killed = [pid for e in ledger.events if isinstance(e, SessionClosed) for pid in e.killed]
    assert len(killed) == 1
    assert [list(e.killed) for e in ledger.events if isinstance(e, PoolClosed)] == [killed]


@ERAS
async def test_R11_a_cancelled_call_lets_go_at_once_and_its_neighbour_gets_its_answer(era: str) -> None:
    answers: list[str] = []

    async def neighbour() -> None:
        answers.append(text(await pool.call_tool("s", "sleep", {"seconds": 0.3})))

    async def cancelled() -> None:
        with cancel:
            await pool.call_tool("s", "sleep", {"seconds": 600})
        answers.append("cancelled")

    cancel = trio.CancelScope()
    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo("--era", era, "--log-cancelled")}) as pool:
            await pool.wait_ready("s")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(neighbour)
                nursery.start_soon(cancelled)
                await wait_until_sleeping(pool, 2)
                cancel.cancel()
            assert sorted(answers) == ["cancelled", "slept"]
            stats = check_books(pool)
            assert (stats.leases_in_flight, stats.sessions_idle, stats.connects) == (0, 1, 1)
            # The server was told, and has said so.
            with pytest.raises(OutcomeUnknownError) as caught:
                await pool.call_tool("s", "crash")
            assert "cancelled " in caught.value.stderr_tail


async def test_a_call_that_times_out_leaves_its_session_usable() -> None:
    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo()}) as pool:
            with pytest.raises(MCPError) as caught:
                await pool.call_tool("s", "sleep", {"seconds": 600}, read_timeout_seconds=0.05)
            assert caught.value.code == types.REQUEST_TIMEOUT
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
            assert check_books(pool).connects == 1


async def test_R13_a_call_after_the_death_of_the_session_is_lost_in_a_session_and_dialled_anew_in_the_pool() -> None:
    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo()}) as pool:
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
            async with pool.session("s") as session:
                with pytest.raises(OutcomeUnknownError) as unknown:
                    await session.call_tool("crash", {"status": 7})
                with pytest.raises(SessionLostError) as lost:
                    await session.call_tool("echo", {"text": "x"})
            for error in (unknown.value, lost.value):
                assert (error.exit_status, error.stderr_tail.strip()) == (7, "I am going down")
                assert "the session of server 's' died (exit status 7)" in str(error)
            assert [error.outcome for error in (unknown.value, lost.value)] == ["unknown", "not run"]
            assert text(await pool.call_tool("s", "count")) == "1"
            stats = check_books(pool)
            assert (stats.connects, stats.closed_broken) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="found through /proc")
async def test_R2_processes_that_escaped_are_named_when_the_pool_has_closed() -> None:
    ledger = Ledger()
    with trio.fail_after(PATIENCE):
        async with watched_pool({"s": echo()}, ledger=ledger) as pool:
            escaped = int(text(await pool.call_tool("s", "grandchild", {"setsid": True})))
    try:
        (closed,) = [event for event in ledger.events if isinstance(event, PoolClosed)]
        assert (closed.killed, closed.left_behind) == ((), (escaped,))
    finally:
        os.kill(escaped, signal.SIGKILL)
