"""A worker: `python examples/temporal_agent/worker.py ADDRESS`. Start as many as there is work for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent import Agent
from temporalio.client import Client
from temporalio.worker import Worker

import trio_mcp_pool.cli
from trio_mcp_pool import StdioServer
from trio_mcp_pool.temporal import PoolPlugin

NOTEBOOK = str(Path(trio_mcp_pool.cli.__file__).parent / "_servers" / "notebook.py")
SERVER = StdioServer(sys.executable, [NOTEBOOK])


async def main(address: str) -> None:
    """Run until stdin ends, or the process is killed."""
    client = await Client.connect(address)
    plugin = PoolPlugin({"library": SERVER, "notebook": SERVER})
    async with Worker(client, task_queue="agents", workflows=[Agent], plugins=[plugin]):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
