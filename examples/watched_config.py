"""A pool follows its configuration file: servers come and go as the file is edited, and calls go on meanwhile.

`watch_config` gives every change of the file; `reconfigure` touches only what differs. A file that is broken for a moment
changes nothing and is told of.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import trio
from _servers import notebook_command

from trio_mcp_pool import Pool, open_pool
from trio_mcp_pool.config import watch_config

command, arguments = notebook_command
NOTEBOOK = {"command": command, "args": arguments}


async def follow(path: Path, pool: Pool, seen: trio.MemorySendChannel[str]) -> None:
    """Keep the pool in line with the file, for as long as the program runs."""
    with seen:
        async for change in watch_config(path, interval=0.1):
            for problem in change.problems:
                print("problem:", str(problem).replace(str(path.parent), "."))
            await pool.reconfigure(change.servers)
            await seen.send(
                f"added {sorted(change.added)}, removed {sorted(change.removed)}, changed {sorted(change.changed)}"
            )


def save(path: Path, text: str) -> None:
    """Replace the file at once, as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def main() -> None:
    """Edit a file under a running pool."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mcp.json"
        save(path, json.dumps({"mcpServers": {"steady": NOTEBOOK}}))
        send, receive = trio.open_memory_channel[str](0)
        async with open_pool({}) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(follow, path, pool, send)
            print("the file is read:", await receive.receive())
            first = await pool.call_tool("steady", "pid")

            save(path, json.dumps({"mcpServers": {"steady": NOTEBOOK, "second": NOTEBOOK}}))
            print("a server more:", await receive.receive())
            await pool.call_tool("second", "write", {"text": "hello"})

            save(path, '{"mcpServers": {')
            print("half a file:", await receive.receive())

            save(path, json.dumps({"mcpServers": {"steady": NOTEBOOK}}))
            print("one less:", await receive.receive())
            again = await pool.call_tool("steady", "pid")
            assert first.structured_content == again.structured_content, "an equal server keeps its session"
            print("the steady server kept its process all the while")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
