"""Agents' ways into the pool, cancelled at every point at which they can be cancelled.

As `tests/pool/test_cancel_everywhere.py`, for what stands on the catalogue and for calls that are asked and told something
meanwhile: a task is cancelled after its n-th step, for n = 0, 1, 2, ... until it gets through. After each of these runs the
books balance (R10), the question has ended with its call, the sibling on the same session has its answer, and nothing is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
import pytest
import trio

from tests.pool._audit import on_virtual_time
from tests.pool.test_cancel_everywhere import At, World, _everywhere
from trio_mcp_pool import Callbacks, Pool, PoolError
from trio_mcp_pool.testing import ScriptedServer, slow

URI = "memo://hello"
ERAS = pytest.mark.parametrize("eras", ["legacy", "modern"])


def _question(who: str) -> types.ElicitRequestParams:
    return types.ElicitRequestFormParams(message=who, requested_schema={"type": "object", "properties": {}})


async def _work_legacy(context: Any, who: str) -> str:
    """Reports, asks, reports."""
    context.progress(1, 2)
    asked = _question(who).model_dump(by_alias=True, exclude_none=True)
    answer = await context.request("elicitation/create", asked)
    context.progress(2, 2)
    await trio.sleep(0.1)
    return str(answer["content"]["name"])


async def _work_modern(context: Any, who: str) -> Any:
    """The same in two rounds."""
    if "requestState" not in context.params:
        context.progress(1, 2)
        await trio.sleep(0.1)
        question = types.ElicitRequest(params=_question(who))
        return types.InputRequiredResult(input_requests={"q": question}, request_state="asked")
    context.progress(2, 2)
    await trio.sleep(0.1)
    return str(context.params["inputResponses"]["q"]["content"]["name"])


def _echo(text: str) -> str:
    return text


class Asked(World):
    """Two servers that ask and report, and who is being asked just now."""

    def __init__(self, eras: Any, gates: dict[str, Any]) -> None:
        super().__init__({})
        self.open = Counter[str]()
        self.reports = Counter[str]()
        work = _work_legacy if eras == "legacy" else _work_modern
        self.servers = {
            name: ScriptedServer(
                {"work": work, "echo": _echo}, eras=eras, gates=dict(gates), callbacks=Callbacks(elicit=self.elicit)
            )
            for name in ("a", "b")
        }

    async def elicit(self, caller: Any, params: Any) -> types.ElicitResult:
        self.open[params.message] += 1
        try:
            await trio.sleep(2)
        finally:
            self.open[params.message] -= 1
        return types.ElicitResult(action="accept", content={"name": params.message})

    async def progress(self, caller: Any, progress: float, total: float | None, message: str | None) -> None:
        await trio.sleep(0.05)
        self.reports[caller.tool] += 1

    async def sibling(self, pool: Pool, task_status: trio.TaskStatus[None]) -> None:
        """A call of somebody else's, on the same session if there is a place."""
        await pool.wait_ready("a")
        seen = 0

        async def progress(*report: Any) -> None:
            nonlocal seen
            seen += 1

        task_status.started()
        result = await pool.call_tool("a", "work", {"who": "sibling"}, on_elicit=self.elicit, on_progress=progress)
        text = getattr(result.content[0], "text", "")
        if text != "sibling" or seen != 2:
            self.faults.append(f"the sibling was told {text!r} and {seen} reports")

    async def still_serves(self, pool: Pool) -> None:
        """As for any pool; and the new sessions are listed in the background."""
        self.check_nothing_held(pool)
        for name, server in self.servers.items():
            server.gates.clear()
            await pool.drain(name)
            await pool.call_tool(name, "echo", {"text": "next"})
        await trio.sleep(5)
        self.check_nothing_held(pool)
        if sorted((await pool.toolset()).names) != ["a__echo", "a__work", "b__echo", "b__work"]:
            self.faults.append("the list is not whole")
        self.check_catalog(pool)

    def check_catalog(self, pool: Pool) -> None:
        catalog = pool.catalog
        if catalog._resource_readers or catalog._hearers:
            self.faults.append(f"left of a subscription: {catalog._resource_readers} {catalog._hearers}")
        for name in ("a", "b"):
            if catalog._shelf(name).running:
                self.faults.append(f"a listing of {name} never ended")


async def call(pool: Pool, world: Asked) -> None:
    await pool.call_tool("a", "work", {"who": "victim"}, on_elicit=world.elicit, on_progress=world.progress)


async def call_of_a_set(pool: Pool, world: Asked) -> None:
    tools = await pool.toolset()
    await tools.call("a__work", {"who": "victim"}, on_elicit=world.elicit, on_progress=world.progress)


async def run_of_a_set(pool: Pool, world: Asked) -> None:
    tools = await pool.toolset()
    await tools.run([("a__work", {"who": "victim"}), ("b__work", {"who": "victim"}), ("a__echo", {"text": "x"})])
    async with tools.run_each([("a__work", {"who": "victim"}), ("b__echo", {"text": "x"})]) as outcomes:
        async for _ in outcomes:
            break


async def in_a_scope(pool: Pool, world: Asked) -> None:
    async with pool.open_scope("mine") as scope:
        tools = await scope.toolset("a")
        await tools.run([("a__work", {"who": "victim"}), ("a__echo", {"text": "x"})])


async def listing(pool: Pool, world: Asked) -> None:
    await pool.toolset()
    changes = pool.catalog.changes()
    await pool.catalog.refresh()
    await anext(changes)
    world.servers["b"].notify("notifications/tools/list_changed")
    await pool.catalog.refresh("b", within=0.1)


async def subscription(pool: Pool, world: Asked) -> None:
    async with pool.subscribe("b", URI) as updates, pool.subscribe("b", URI):
        world.servers["b"].notify("notifications/resources/updated", {"uri": URI})
        await anext(updates)
        world.servers["b"].kill("all")
        await anext(updates)


async def notifications(pool: Pool, world: Asked) -> None:
    reader = pool.notifications()
    await pool.catalog.refresh()
    world.servers["a"].notify("notifications/tools/list_changed")
    await anext(reader)


WAYS_IN = [call, call_of_a_set, run_of_a_set, in_a_scope, listing, subscription, notifications]


def _once(way_in: Callable[[Pool, Asked], Awaitable[None]], eras: str, gates: dict[str, Any], of_any: bool) -> Any:
    def once(n: int) -> tuple[bool, list[str]]:
        world = Asked(eras, gates)
        scope = trio.CancelScope()
        at = At(n, scope.cancel, of_any=of_any)

        async def main() -> None:
            async with world.pool() as pool, trio.open_nursery() as nursery:
                await nursery.start(world.sibling, pool)
                await trio.testing.wait_all_tasks_blocked()
                with scope:
                    at.arm()
                    try:
                        await way_in(pool, world)
                    except PoolError as exc:
                        world.faults.append(repr(exc))
                    finally:
                        at.disarm()
                await trio.sleep(0.5)  # longer than the way to the server and back, shorter than the question
                if world.open["victim"]:
                    world.faults.append("a question has outlived its call")
                await trio.sleep(5)  # the sibling and the listings are done
                if +world.open:
                    world.faults.append(f"still being asked: {world.open}")
                await world.still_serves(pool)

        try:
            on_virtual_time(main, seed=n, instruments=[at])
        except Exception as exc:
            world.faults.append(f"{exc!r} came out")
        return at.done, world.faults

    return once


@ERAS
@pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda f: f.__name__)
def test_R3_an_agent_cancelled_at_any_point_leaves_no_trace_and_no_question(
    way_in: Callable[[Pool, Asked], Awaitable[None]], eras: str
) -> None:
    failures = _everywhere(_once(way_in, eras, {}, False))
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:5])


@pytest.mark.exhaustive
@ERAS
@pytest.mark.parametrize("gates", ["quick", "slow"])
@pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda f: f.__name__)
def test_R3_an_agent_cancelled_between_any_two_steps_of_any_task_leaves_no_trace_and_no_question(
    way_in: Callable[[Pool, Asked], Awaitable[None]], gates: str, eras: str
) -> None:
    stages = {"spawn": slow(0.5), "handshake": slow(0.5), "stream": slow(0.2), "close": slow(0.5)}
    failures = _everywhere(_once(way_in, eras, stages if gates == "slow" else {}, True))
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:5])
