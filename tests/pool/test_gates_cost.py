"""What a call through the pool costs, counted in task steps instead of seconds: nothing beyond the call itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from trio_mcp_pool import open_pool
from trio_mcp_pool.testing import ScriptedServer

from ._audit import on_virtual_time


class Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.all = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if "run_sync_soon" not in task.name and "autojump" not in task.name.lower():
            self.all += 1


def test_a_warm_call_through_the_pool_takes_no_more_task_steps_than_one_on_its_client() -> None:
    steps = Steps()
    counts: dict[str, int] = {}

    async def main() -> None:
        async with open_pool({"a": ScriptedServer()}) as pool, pool.session("a") as session:
            client = session.client

            async def measure(name: str, call: Callable[[], Awaitable[object]]) -> None:
                await call()
                await trio.testing.wait_all_tasks_blocked()
                before = steps.all
                for _ in range(100):
                    await call()
                counts[name] = steps.all - before

            arguments = {"text": "x"}
            await measure("client", lambda: client.call_tool("echo", arguments))
            await measure("session", lambda: session.call_tool("echo", arguments))
            await measure("pool", lambda: pool.call_tool("a", "echo", arguments))

            async def lease() -> None:
                async with pool.session("a"):
                    pass

            await measure("lease", lease)

    on_virtual_time(main, seed=0, instruments=[steps])
    assert counts["session"] == counts["client"]
    assert counts["pool"] == counts["client"]
    assert counts["lease"] == 100  # the one checkpoint of entering
