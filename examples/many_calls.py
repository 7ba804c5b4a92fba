"""Ten thousand calls over four processes, with bounded concurrency and progress.

The policy bounds what the server sees: four processes with sixteen calls on each. The workers bound what the program has
under way. Neither needs to know of the other.
"""

from __future__ import annotations

import sys
import time

import trio
from _servers import notebook_command

from trio_mcp_pool import Pool, PoolPolicy, StdioServer, open_pool

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
WORKERS = 64


async def worker(pool: Pool, jobs: trio.MemoryReceiveChannel[int], answers: dict[int, int]) -> None:
    """Take jobs until there are none left."""
    async for number in jobs:
        result = await pool.call_tool("words", "echo", {"text": str(number)})
        assert result.structured_content["text"] == str(number)
        answers[number] = result.structured_content["pid"]


async def show_progress(answers: dict[int, int]) -> None:
    """Tell how far it is, every half second."""
    while True:
        await trio.sleep(0.5)
        print(f"  {len(answers):6} of {CALLS}", flush=True)


async def main() -> None:
    """Spread the calls over the processes."""
    answers: dict[int, int] = {}
    policy = PoolPolicy(max_sessions=4, max_in_flight=16)
    async with open_pool({"words": StdioServer(*notebook_command)}, policy=policy) as pool:
        began = time.perf_counter()
        async with trio.open_nursery() as progress:
            progress.start_soon(show_progress, answers)
            send, receive = trio.open_memory_channel[int](0)
            async with trio.open_nursery() as nursery:
                for _ in range(WORKERS):
                    nursery.start_soon(worker, pool, receive, answers)
                with send:
                    for number in range(CALLS):
                        await send.send(number)
            progress.cancel_scope.cancel()
        took = time.perf_counter() - began
        peak = pool.statistics().peak_in_use
    processes = set(answers.values())
    assert len(answers) == CALLS
    assert len(processes) == 4 >= peak
    print(f"{CALLS} calls by {len(processes)} processes in {took:.1f} s, {took / CALLS * 1e6:.0f} us a call")


if __name__ == "__main__":
    trio.run(main)
