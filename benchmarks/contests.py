"""The contests: who is measured against whom, doing what.

Each contest opens its contenders side by side in one Trio run, gives them their turns, and returns rows. The numbers of
calls, megabytes, lanes and waiters come from `Plan`, which the quick mode scales down.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mcp
import trio
from mcp.client.stdio import StdioServerParameters
from mcp.server import MCPServer

from trio_mcp_pool import InProcessServer, Pool, PoolPolicy, Session, StdioServer, open_pool

from . import bridges
from .bare import BlockingServer, open_multiplexer
from .measure import Row, Sample, Stopwatch, Turn, interleave

ECHO = str(Path(__file__).with_name("echo_server.py"))
ARGUMENTS = {"text": "hello"}

Tool = Callable[[str, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything."""

    rounds: int = 25
    calls: int = 400
    """Calls, leases or hand-overs in one turn."""
    concurrent: int = 50
    big_rounds: int = 5
    megabytes: int = 20
    callers: int = 100
    start_seconds: float = 1.0
    """How long the slower server of the cold start takes before it answers."""
    lanes: int = 1_000
    lane_rounds: int = 9
    waiters: int = 10_000
    few_waiters: int = 10
    tools: int = 10_000
    http_rounds: int = 7
    crowd: int = 500

    def quick(self) -> Plan:
        """Everything once and small: enough to see that it runs, not to learn anything."""
        return replace(
            self,
            rounds=2,
            calls=50,
            big_rounds=2,
            megabytes=1,
            callers=20,
            start_seconds=0.1,
            lanes=30,
            lane_rounds=2,
            waiters=300,
            tools=100,
            http_rounds=2,
            crowd=20,
        )


Told = Callable[[], None]


def command() -> list[str]:
    """How the echo server is started."""
    return [sys.executable, ECHO]


def echo_server() -> StdioServer:
    """The echo server as the pool knows it."""
    return StdioServer(sys.executable, (ECHO,))


@asynccontextmanager
async def open_client() -> AsyncIterator[mcp.Client]:
    """What a user writes by hand: the SDK's client on the SDK's transport."""
    async with mcp.Client(StdioServerParameters(command=sys.executable, args=[ECHO])) as client:
        await client.list_tools()
        yield client


def through(pool: Pool, server: str) -> Tool:
    """The pool's own verb as a function of the tool, with no frame of ours around it."""
    return partial(pool.call_tool, server)


# Turns.


def in_sequence(call: Tool, calls: int, tool: str = "echo", arguments: dict[str, Any] = ARGUMENTS) -> Turn:
    """One call after the other."""

    async def turn() -> Sample:
        with Stopwatch() as watch:
            for _ in range(calls):
                await call(tool, arguments)
        return watch.sample(calls)

    return turn


def at_once(call: Tool, calls: int, concurrent: int) -> Turn:
    """As many tasks as `concurrent`, each making its share of the calls, one after the other."""
    share = max(1, calls // concurrent)

    async def caller() -> None:
        for _ in range(share):
            await call("echo", ARGUMENTS)

    async def turn() -> Sample:
        with Stopwatch() as watch:
            async with trio.open_nursery() as nursery:
                for _ in range(concurrent):
                    nursery.start_soon(caller)
        return watch.sample(share * concurrent)

    return turn


# Contests.


async def warm_calls(plan: Plan, told: Told) -> list[Row]:
    """Calls on a live stdio session."""
    servers = {"echo": echo_server(), "sdk": replace(echo_server(), wire="sdk")}
    async with (
        open_pool(servers) as pool,
        open_client() as client,
        open_multiplexer(command()) as multiplexer,
    ):
        callers: dict[str, Tool] = {
            "pool": through(pool, "echo"),
            "mcp.Client": client.call_tool,
            "multiplexer": multiplexer.call_tool,
            "pool, wire='sdk'": through(pool, "sdk"),
        }

        def leased(tool: Callable[[Session], Tool], turn: Callable[[Tool], Turn]) -> Turn:
            # The lease is held for the turn only: beside a held one the pool's own would never find the session idle.
            async def hold() -> Sample:
                async with pool.session("echo") as session:
                    return await turn(tool(session))()

            return hold

        def turns(turn: Callable[[Tool], Turn]) -> dict[str, Turn]:
            return {name: turn(call) for name, call in callers.items()} | {
                "Session": leased(lambda session: session.call_tool, turn),
                "session.client": leased(lambda session: session.client.call_tool, turn),
            }

        single = turns(lambda call: in_sequence(call, plan.calls))
        many = turns(lambda call: at_once(call, plan.calls, plan.concurrent))
        one = await interleave(single, plan.rounds, told=told)
        all_of = await interleave(many, plan.rounds, told=told)

    def row(key: str, title: str, ours: str, theirs: str, bound: float | None, samples: dict[str, list[Sample]]) -> Row:
        names = {
            "pool": "pool.call_tool",
            "multiplexer": "bare multiplexer",
            "Session": "Session.call_tool",
            "session.client": "Session.client.call_tool",
        }
        return Row(key, title, names.get(ours, ours), names.get(theirs, theirs), bound, samples[ours], samples[theirs])

    at = f"{plan.concurrent} at once"
    return [
        row("sequence", "warm call, in sequence", "pool", "mcp.Client", 0.42, one),
        row("concurrent", f"warm call, {at}", "pool", "mcp.Client", 0.22, all_of),
        row("bare", f"warm call, {at}", "pool", "multiplexer", 1.6, all_of),
        row("added", "call on a session of the pool", "pool", "Session", 1.05, one),
        row("bare-sequence", "warm call, in sequence", "pool", "multiplexer", None, one),
        row("added-concurrent", f"call on a session of the pool, {at}", "pool", "Session", None, all_of),
        row("added-client", "call on a session of the pool", "pool", "session.client", None, one),
        row("sdk-sequence", "warm call on the SDK's wire, in sequence", "pool, wire='sdk'", "mcp.Client", None, one),
        row("sdk-concurrent", f"warm call on the SDK's wire, {at}", "pool, wire='sdk'", "mcp.Client", None, all_of),
    ]


async def leases(plan: Plan, told: Told) -> list[Row]:
    """Acquire and release of an idle session."""
    async with open_pool({"echo": in_process()}) as pool:
        await pool.wait_ready("echo")
        limiter = trio.CapacityLimiter(1)

        async def lease() -> Sample:
            with Stopwatch() as watch:
                for _ in range(plan.calls):
                    session = await pool.acquire("echo")
                    session.release()
            return watch.sample(plan.calls)

        async def block() -> Sample:
            with Stopwatch() as watch:
                for _ in range(plan.calls):
                    async with pool.session("echo"):
                        pass
            return watch.sample(plan.calls)

        async def limit() -> Sample:
            with Stopwatch() as watch:
                for _ in range(plan.calls):
                    async with limiter:
                        pass
            return watch.sample(plan.calls)

        got = await interleave({"lease": lease, "block": block, "limiter": limit}, plan.rounds, told=told)
    against = "CapacityLimiter"
    return [
        Row("lease", "acquire and release of an idle session", "pool", against, 3, got["lease"], got["limiter"]),
        Row(
            "lease-block",
            "'async with' of an idle session",
            "pool.session",
            against,
            None,
            got["block"],
            got["limiter"],
        ),
    ]


async def big_lines(plan: Plan, told: Told) -> list[Row]:
    """One result line of many megabytes."""
    arguments = {"megabytes": plan.megabytes}
    blocking = BlockingServer(command())

    async def readline(name: str, arguments: dict[str, Any]) -> Any:
        return blocking.call_tool(name, arguments)

    try:
        async with open_pool({"echo": echo_server()}) as pool, open_client() as client:
            callers: dict[str, Tool] = {
                "pool": through(pool, "echo"),
                "mcp.Client": client.call_tool,
                "blocking": readline,
            }
            turns = {name: in_sequence(call, 1, "big", arguments) for name, call in callers.items()}
            got = await interleave(turns, plan.big_rounds, told=told)
    finally:
        blocking.close()
    title = f"a result line of {plan.megabytes} MB"
    floor = "readline and json.loads"
    return [
        Row("big", title, "pool.call_tool", "mcp.Client", 0.20, got["pool"], got["mcp.Client"]),
        Row("big-floor", title, "pool.call_tool", floor, None, got["pool"], got["blocking"]),
        Row("big-least", title, floor, "mcp.Client", None, got["blocking"], got["mcp.Client"]),
    ]


async def cold_start(plan: Plan, told: Told) -> list[Row]:
    """Many first callers of a server that does not run yet, and one."""
    pids: list[int] = []

    def turn(callers: int, server: StdioServer) -> Turn:
        async def first_calls() -> Sample:
            answers: set[str] = set()

            async def caller(pool: Pool) -> None:
                result = await pool.call_tool("echo", "pid")
                answers.add(result.content[0].text)  # type: ignore[union-attr]

            watch = Stopwatch()
            # Leases enough for all callers on the one session: the default of 64 would make the rest wait their turn.
            async with open_pool({"echo": server}, policy=PoolPolicy(max_in_flight=callers)) as pool:
                with watch:
                    async with trio.open_nursery() as nursery:
                        for _ in range(callers):
                            nursery.start_soon(caller, pool)
            pids.append(len(answers))
            return watch.sample(1)

        return first_calls

    fast = echo_server()
    slow = replace(fast, args=(*fast.args, str(plan.start_seconds)))
    at_once = {"many": turn(plan.callers, fast), "one": turn(1, fast)}
    got = await interleave(at_once, plan.rounds, told=told)
    later = {"many": turn(plan.callers, slow), "one": turn(1, slow)}
    got_later = await interleave(later, plan.big_rounds, warm_up=0, told=told)
    processes = max(pids)
    note = "one process" if processes == 1 else f"{processes} processes, not one"

    def row(key: str, title: str, bound: float | None, samples: dict[str, list[Sample]]) -> Row:
        ours = f"{plan.callers} callers"
        return Row(key, title, ours, "one call", bound, samples["many"], samples["one"], note, processes == 1)

    title = f"{plan.callers} first callers of a cold server"
    slower = f"which takes {plan.start_seconds:g} s to start"
    return [row("cold", title, 1.25, got), row("cold-slow", f"{title}, {slower}", None, got_later)]


def in_process(policy: PoolPolicy | None = None) -> InProcessServer:
    """An echo server that costs no process, for what does not concern the wire."""
    server = MCPServer("echo")

    @server.tool()
    def echo(text: str) -> str:
        return text

    return InProcessServer(server, policy=policy)


async def many_lanes(plan: Plan, told: Told) -> list[Row]:
    """A call on one lane, a process, with and without a crowd of other lanes, in process, open in the same pool."""
    servers = {"echo": echo_server(), "crowd": in_process()}

    def turn(lanes: int) -> Turn:
        async def call_with_lanes() -> Sample:
            async with open_pool(servers) as pool:

                async def open_lane(number: int) -> None:
                    async with pool.session("crowd", scope=number):
                        pass

                async with trio.open_nursery() as nursery:
                    for number in range(lanes - 1):
                        nursery.start_soon(open_lane, number)
                await pool.call_tool("echo", "echo", ARGUMENTS)
                if pool.statistics().size != lanes:
                    raise AssertionError(f"{pool.statistics().size} sessions, not {lanes}")
                return await in_sequence(through(pool, "echo"), plan.calls)()

        return call_with_lanes

    got = await interleave({"many": turn(plan.lanes), "one": turn(1)}, plan.lane_rounds, told=told)
    title = f"a call with {plan.lanes:,} lanes open"
    return [Row("lanes", title, f"{plan.lanes:,} lanes", "one lane", 1.1, got["many"], got["one"])]


async def hand_over(plan: Plan, told: Told) -> list[Row]:
    """Exclusive leases that pass from waiter to waiter: what one hand-over takes, with a long queue and a short one."""
    server = in_process(PoolPolicy(max_in_flight=1))
    async with open_pool({"echo": server}) as pool:

        def turn(waiters: int, batches: int) -> Turn:
            async def wait() -> None:
                async with pool.session("echo"):
                    pass

            async def pass_on() -> Sample:
                watch = Stopwatch()
                for _ in range(batches):
                    session = await pool.acquire("echo")
                    async with trio.open_nursery() as nursery:
                        for _ in range(waiters):
                            nursery.start_soon(wait)
                        while pool.statistics().tasks_waiting_acquire < waiters:
                            await trio.lowlevel.checkpoint()
                        watch.__enter__()
                        session.release()
                    watch.__exit__(None, None, None)
                return watch.sample(waiters * batches)

            return pass_on

        few = max(1, min(plan.waiters, 10 * plan.calls) // plan.few_waiters)
        turns = {"many": turn(plan.waiters, 1), "few": turn(plan.few_waiters, few)}
        got = await interleave(turns, plan.lane_rounds, told=told)
    return [
        Row(
            "hand-over",
            f"a hand-over with {plan.waiters:,} waiters",
            f"{plan.waiters:,} waiters",
            f"{plan.few_waiters} waiters",
            1.5,
            got["many"],
            got["few"],
        )
    ]


async def from_asyncio(plan: Plan, told: Told) -> list[Row]:
    """Warm calls from an asyncio program, in a thread with an event loop of its own."""

    def in_event_loop() -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
        return asyncio.run(bridges.measure(ECHO, plan.calls, plan.concurrent, plan.rounds, told))

    one, all_of = await trio.to_thread.run_sync(in_event_loop)
    ours, theirs = "AsyncioPool.call_tool", "mcp.Client on asyncio"
    at = f"warm call from asyncio, {plan.concurrent} at once"
    return [
        Row("asyncio", "warm call from asyncio, in sequence", ours, theirs, 2.0, one["pool"], one["mcp.Client"]),
        Row("asyncio-concurrent", at, ours, theirs, 1.0, all_of["pool"], all_of["mcp.Client"]),
    ]


Contest = Callable[[Plan, Told], Awaitable[list[Row]]]

CONTESTS: dict[str, Contest] = {
    "warm calls": warm_calls,
    "leases": leases,
    "big lines": big_lines,
    "cold start": cold_start,
    "many lanes": many_lanes,
    "hand-over": hand_over,
    "asyncio": from_asyncio,
}
