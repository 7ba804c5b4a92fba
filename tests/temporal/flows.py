"""The workflows of the tests. They run in Temporal's sandbox, which imports this module anew for each."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import mcp_types as types
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from trio_mcp_pool.temporal.workflow import mcp_scope, mcp_server


def text(result: Any) -> str:
    return result.content[0].text  # type: ignore[no-any-return]


def told(error: ApplicationError) -> dict[str, Any]:
    return {"type": error.type, "message": error.message, **(error.details[0] if error.details else {})}


@workflow.defn
class Calls:
    """Calls one tool after the other: `[server, tool, arguments]`, with options for `mcp_server` and `call_tool`."""

    @workflow.run
    async def run(
        self, calls: list[list[Any]], options: dict[str, Any] | None = None, how: dict[str, Any] | None = None
    ) -> list[Any]:
        said: list[Any] = []
        for server, tool, arguments in calls:
            try:
                said.append(
                    text(await mcp_server(server, **durations(options)).call_tool(tool, arguments, **(how or {})))
                )
            except ApplicationError as error:
                said.append(told(error))
        return said


def durations(options: dict[str, Any] | None) -> dict[str, Any]:
    given = dict(options or {})
    for name in list(given):
        if name.endswith("_timeout"):
            given[name] = timedelta(seconds=given[name])
    if "attempts" in given:
        given["retry_policy"] = RetryPolicy(maximum_attempts=given.pop("attempts"))
    return given


@workflow.defn
class Gather:
    """Calls a tool with many arguments at once."""

    @workflow.run
    async def run(self, server: str, tool: str, many: int, size: int) -> list[Any]:
        handle = mcp_server(server)

        async def call() -> Any:
            try:
                return len(text(await handle.call_tool(tool, {"text": "x" * size})))
            except ApplicationError as error:
                return told(error)

        return list(await asyncio.gather(*(call() for _ in range(many))))


@workflow.defn
class Reads:
    """The verbs that read."""

    @workflow.run
    async def run(self, server: str) -> dict[str, Any]:
        handle = mcp_server(server)
        tools = await handle.list_tools()
        again = await handle.list_tools()
        result = await handle.call_tool("echo", {"text": "x"})
        return {
            "tools": [tool.name for tool in tools.tools],
            "same": tools is again,
            "type": f"{type(result).__module__}.{type(result).__name__}",
            "resource": (await handle.read_resource("memo://hello")).contents[0].text,  # type: ignore[union-attr]
            "completions": [
                (await handle.complete(ref, {"name": "a", "value": "x"}, {"b": "y"})).completion.values
                for ref in (types.PromptReference(name="greet"), types.ResourceTemplateReference(uri="memo://{a}"))
            ],
            "prompt": (await handle.get_prompt("greet")).messages[0].content.text,  # type: ignore[union-attr]
        }


@workflow.defn
class Scoped:
    """Calls in a scope, pausing before each; then waits, if told to, until it is signalled."""

    def __init__(self) -> None:
        self._go = False
        self._said: list[Any] = []

    @workflow.run
    async def run(
        self,
        server: str,
        calls: list[list[Any]],
        idle: float = 600,
        wait: bool = False,
        heartbeat: float = 2,
        options: dict[str, Any] | None = None,
    ) -> list[Any]:
        async with mcp_scope(
            server,
            idle_timeout=timedelta(seconds=idle),
            heartbeat_timeout=timedelta(seconds=heartbeat),
            activity_config=durations(options),  # type: ignore[arg-type]
        ) as mine:
            for tool, arguments, pause in calls:
                if pause:
                    await workflow.sleep(pause)
                try:
                    self._said.append(text(await mine.call_tool(tool, arguments)))
                except ApplicationError as error:
                    self._said.append(told(error))
            if wait:
                await workflow.wait_condition(lambda: self._go)
        return self._said

    @workflow.signal
    def go(self) -> None:
        self._go = True

    @workflow.query
    def said(self) -> list[Any]:
        return self._said
