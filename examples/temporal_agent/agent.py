"""The workflow: an agent whose model is a list. Yours asks a model, in an activity, what to do next."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from trio_mcp_pool.temporal.workflow import mcp_scope, mcp_server


@workflow.defn
class Agent:
    """Looks words up in parallel, and writes them into a notebook of its own."""

    def __init__(self) -> None:
        self.notes = 0

    @workflow.run
    async def run(self, words: list[str]) -> str:
        """The notebook's lines. Where the notebook is lost, the agent begins a new one."""
        library = mcp_server("library", start_to_close_timeout=timedelta(minutes=1))
        # To look something up twice does no harm, so a call whose worker was lost is made again.
        calls = [library.call_tool("look_up", {"text": word, "seconds": 0.5}, idempotent=True) for word in words]
        found = [text(result) for result in await asyncio.gather(*calls)]
        while True:
            try:
                return await self.write_down(found)
            except ApplicationError as error:
                if error.type not in ("SessionLostError", "OutcomeUnknownError"):
                    raise
                workflow.logger.warning("the notebook is lost, beginning another: %s", error.message)

    async def write_down(self, lines: list[str]) -> str:
        """All lines into one notebook: a session that is this workflow's alone."""
        async with mcp_scope("notebook", heartbeat_timeout=timedelta(seconds=2)) as mine:
            for line in lines:
                await mine.call_tool("write", {"text": line})
                self.notes += 1
                await workflow.sleep(timedelta(seconds=1))
            return text(await mine.call_tool("read"))

    @workflow.query
    def written(self) -> int:
        """How many lines have been written, in all notebooks."""
        return self.notes


def text(result: Any) -> str:
    """A result's text."""
    return str(result.content[0].text)
