"""A worker in a process of its own, for tests that kill it: `python -m tests.temporal.worker SCRIPT` (a JSON object)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import trio
from temporalio.client import Client
from temporalio.worker import Worker

from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import scripted_stdio_server, slow

from .flows import Calls, Scoped


async def main(script: dict[str, Any]) -> None:
    """Run until killed, or until stdin ends."""
    for _ in range(20):
        try:
            client = await Client.connect(script["address"])
            break
        except RuntimeError:
            await asyncio.sleep(0.5)  # the server is busy

    async def hold() -> dict[str, str]:
        """The environment of a server that never starts: it says that the dial is due, and waits."""
        Path(script["hold"]).touch()
        await trio.sleep_forever()
        return {}

    servers = {}
    for name, log in script["servers"].items():
        gates = {stage: slow(seconds) for stage, seconds in script.get("slow", {}).items()}
        more: dict[str, Any] = {"env": hold} if "hold" in script else {}
        servers[name] = scripted_stdio_server(log=log, gates=gates, **more)
    plugin = PoolPlugin(servers, **({"max_scopes": script["max_scopes"]} if "max_scopes" in script else {}))
    async with Worker(
        client,
        task_queue=script["queue"],
        workflows=[Calls, Scoped] if script.get("workflows", True) else [],
        plugins=[plugin],
        max_concurrent_activities=50,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
