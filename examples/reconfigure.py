"""Servers change while the program runs: added, replaced, removed, and not one call is lost.

`reconfigure` takes the whole new set and touches only what differs. Calls that run on a server that goes are finished
first; callers that come later get the new one.
"""

from __future__ import annotations

import trio
from _servers import notebook_command

from trio_mcp_pool import Pool, StdioServer, UnknownServerError, open_pool

command, arguments = notebook_command


async def keep_calling(pool: Pool, pids: list[int], stop: trio.Event) -> None:
    """A worker that notices nothing."""
    while not stop.is_set():
        result = await pool.call_tool("steady", "look_up", {"text": "on and on", "seconds": 0.02})
        pids.append(result.structured_content["pid"])


async def main() -> None:
    """Change everything under a running worker."""
    pids: list[int] = []
    stop = trio.Event()
    steady = StdioServer(command, arguments)
    async with open_pool({"steady": steady, "old": StdioServer(command, arguments)}) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_calling, pool, pids, stop)
            await pool.call_tool("old", "echo", {"text": "still here"})

            pool.add_server("extra", StdioServer(command, arguments))
            print("added:", (await pool.call_tool("extra", "echo", {"text": "hello from extra"})).structured_content)

            await pool.remove_server("extra")
            try:
                await pool.call_tool("extra", "echo", {"text": "hello?"})
            except UnknownServerError as error:
                print("removed:", error)

            # The same description under the same name keeps its sessions; this one differs in its environment.
            await pool.reconfigure({"steady": StdioServer(command, arguments, env={"GENERATION": "2"})})
            try:
                await pool.call_tool("old", "echo", {"text": "hello?"})
            except UnknownServerError as error:
                print("reconfigured:", error)

            await trio.sleep(0.2)
            stop.set()
        statistics = pool.statistics().servers["steady"]
    assert len(set(pids)) == 2, "the worker was served by the old process, then by the new one"
    assert statistics.sessions_lost == 0
    print(f"{len(pids)} calls went through, answered by {len(set(pids))} processes one after the other")


if __name__ == "__main__":
    trio.run(main)
