"""What a tool set adds to a call of the pool, and what callbacks do; the formats of many tools."""

from __future__ import annotations

import importlib.util
from typing import Any

import mcp_types as types

from trio_mcp_pool import Callbacks, Caller, open_pool
from trio_mcp_pool.testing import ScriptedServer

from .contests import Plan, Told, echo_server, in_sequence, open_client, through
from .measure import Row, Sample, Stopwatch, Turn, interleave

NESTED: dict[str, Any] = {
    "order": {
        "customer": {"name": "Ada", "tags": ["new", "vip"]},
        "items": [{"sku": f"sku-{number}", "count": number, "price": 1.5 * number} for number in range(1, 6)],
    }
}
FIRST, AGAIN = 0.1, 0.001
"""Seconds that the formats of many tools may take, the first time and from then on."""


async def _decline(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="decline")


async def _ignore(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
    pass


async def _ignore_progress(progress: float, total: float | None, message: str | None) -> None:
    pass


async def tool_sets(plan: Plan, told: Told) -> list[Row]:
    """Calls through a tool set and with callbacks, beside the same calls of the pool; the formats of ten thousand tools."""
    servers = {"echo": echo_server(), "asking": echo_server()}
    async with (
        open_pool(servers) as pool,
        open_pool(servers, callbacks=Callbacks(elicit=_decline)) as answering,
        open_client() as client,
    ):
        tools = await pool.toolset("echo")

        async def run(name: str, arguments: dict[str, Any]) -> Any:
            return await tools.run([(f"echo__{name}", arguments)])

        async def call(name: str, arguments: dict[str, Any]) -> Any:
            return await tools.call(f"echo__{name}", arguments)

        async def elicit(name: str, arguments: dict[str, Any]) -> Any:
            return await answering.call_tool("echo", name, arguments, on_elicit=_decline)

        async def progress(name: str, arguments: dict[str, Any]) -> Any:
            return await pool.call_tool("echo", name, arguments, on_progress=_ignore)

        async def progress_of_client(name: str, arguments: dict[str, Any]) -> Any:
            return await client.call_tool(name, arguments, progress_callback=_ignore_progress)

        pooled, declared = through(pool, "echo"), through(answering, "echo")
        nested = ("nested", NESTED)
        turns: dict[str, Turn] = {
            "pool": in_sequence(pooled, plan.calls),
            "call": in_sequence(call, plan.calls),
            "run": in_sequence(run, plan.calls),
            "pool nested": in_sequence(pooled, plan.calls, *nested),
            "call nested": in_sequence(call, plan.calls, *nested),
            "declared": in_sequence(declared, plan.calls),
            "elicit": in_sequence(elicit, plan.calls),
            "progress": in_sequence(progress, plan.calls),
            "client": in_sequence(progress_of_client, plan.calls),
        }
        got = await interleave(turns, plan.rounds, told=told)
    fast = importlib.util.find_spec("jsonschema_rs") is not None
    with_fast = "with the extra fast" if fast else "without the extra fast"
    pool_name, taken = "pool.call_tool", got["pool"]
    return [
        Row("toolset-call", "call of a tool set, flat schema", "tools.call", pool_name, 1.15, got["call"], taken),
        Row(
            "toolset-nested",
            f"call of a tool set, nested schema, {with_fast}",
            "tools.call",
            pool_name,
            1.15 if fast else None,
            got["call nested"],
            got["pool nested"],
        ),
        Row("toolset-run", "run of one call", "tools.run", pool_name, 1.35, got["run"], taken),
        Row("callbacks", "call with callbacks declared", "declared", pool_name, None, got["declared"], taken),
        Row("on-elicit", "call with on_elicit", "on_elicit=", pool_name, None, got["elicit"], taken),
        Row("on-progress", "call with on_progress", "on_progress=", "mcp.Client", None, got["progress"], got["client"]),
        *await _formats(plan, told),
    ]


async def _formats(plan: Plan, told: Told) -> list[Row]:
    async def tool(text: str) -> str:
        """What a tool does."""
        return text

    many = ScriptedServer({f"tool-{number}": tool for number in range(plan.tools)})
    first: list[Sample] = []
    again: list[Sample] = []
    async with open_pool({"many": many}) as pool:
        for _ in range(plan.lane_rounds):
            made = await pool.toolset()
            for samples in (first, again):
                with Stopwatch() as watch:
                    listed = made.to_anthropic()
                samples.append(watch.sample(1))
            if len(listed) != plan.tools:
                raise AssertionError(f"{len(listed)} tools, not {plan.tools}")
            told()
    title = f"to_anthropic() of {plan.tools:,} tools"
    return [
        _allowed("format-first", f"{title}, the first time", first, FIRST),
        _allowed("format-again", f"{title}, from then on", again, AGAIN),
    ]


def _allowed(key: str, title: str, ours: list[Sample], seconds: float) -> Row:
    return Row(key, title, "to_anthropic", "allowed", 1.0, ours, [Sample(seconds, seconds)] * len(ours))
