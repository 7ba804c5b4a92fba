"""Scopes of workflows, on a real Temporal server."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker

from tests.bridge.servers import Scene, stdio
from trio_mcp_pool import SessionClosed, SessionOpened
from trio_mcp_pool.temporal import PoolPlugin

from .flows import Scoped

PID = ["pid", {}, 0]


class Watch:
    """The scopes of the sessions that were opened and closed."""

    def __init__(self) -> None:
        self.opened: list[object] = []
        self.closed: list[object] = []

    def event(self, e: object) -> None:
        if isinstance(e, SessionOpened):
            self.opened.append(e.scope)
        elif isinstance(e, SessionClosed):
            self.closed.append(e.scope)


def worker(client: Client, queue: str, plugin: PoolPlugin) -> Worker:
    return Worker(client, task_queue=queue, workflows=[Scoped], plugins=[plugin])


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def test_calls_of_a_scope_share_a_session_of_its_own_which_closes_with_its_block(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with worker(client, queue, PoolPlugin({"s": stdio()}, observers=[watch])):
            name = uuid.uuid4().hex
            flow = await client.start_workflow(Scoped.run, args=["s", [PID] * 5], id=name, task_queue=queue)
            said = await flow.result()
            assert len(set(said)) == 1, said
            # The workflow has ended: so have the scope and its session, before the worker does.
            assert len(watch.opened) == 1
            assert str(watch.opened[0]).startswith(f"{name}/")
            assert watch.closed == watch.opened

    run(main)


def test_two_workflows_have_two_sessions(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": stdio()})):
            flows = [
                client.execute_workflow(Scoped.run, args=["s", [PID]], id=uuid.uuid4().hex, task_queue=queue)
                for _ in range(2)
            ]
            first, second = await asyncio.gather(*flows)
            assert first != second

    run(main)


def test_a_scope_in_which_nothing_is_called_ends_and_the_next_call_is_told_so(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with worker(client, queue, PoolPlugin({"s": stdio()}, observers=[watch])):
            calls = [PID, ["pid", {}, 2.0]]
            said = await client.execute_workflow(
                Scoped.run, args=["s", calls, 0.5], id=uuid.uuid4().hex, task_queue=queue
            )
            assert isinstance(said[0], str)
            assert (said[1]["type"], said[1]["outcome"]) == ("SessionLostError", "not run")
            assert "nothing was called in it for 0.5 s" in said[1]["message"]
            assert len(watch.closed) == 1

    run(main)


def test_a_terminated_workflow_loses_its_scope_within_the_heartbeat_timeout(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with worker(client, queue, PoolPlugin({"s": stdio()}, observers=[watch])):
            flow = await client.start_workflow(
                Scoped.run, args=["s", [PID], 600, True], id=uuid.uuid4().hex, task_queue=queue
            )
            await until(lambda: watch.opened)
            while not await flow.query(Scoped.said):
                await asyncio.sleep(0.05)
            await flow.terminate()
            async with asyncio.timeout(4):
                await until(lambda: watch.closed)

    run(main)


def test_a_cancelled_workflow_closes_its_scope(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with worker(client, queue, PoolPlugin({"s": stdio()}, observers=[watch])):
            flow = await client.start_workflow(
                Scoped.run, args=["s", [PID], 600, True], id=uuid.uuid4().hex, task_queue=queue
            )
            while not await flow.query(Scoped.said):
                await asyncio.sleep(0.05)
            await flow.cancel()
            try:
                await flow.result()
            except WorkflowFailureError as error:
                assert "ancel" in repr(error.cause)
            async with asyncio.timeout(5):
                await until(lambda: watch.closed)

    run(main)


def test_a_worker_that_shuts_down_ends_its_scopes_and_another_opens_the_next(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with Worker(client, task_queue=queue, workflows=[Scoped], plugins=[PoolPlugin()]):
            async with Worker(
                client, task_queue=queue, plugins=[PoolPlugin({"s": stdio()}, observers=[watch])], activities=[]
            ):
                flow = await client.start_workflow(
                    Scoped.run, args=["s", [PID, ["pid", {}, 4.0]]], id=uuid.uuid4().hex, task_queue=queue
                )
                await until(lambda: watch.opened)
                await asyncio.sleep(0.3)
            said = await flow.result()
            assert (said[1]["type"], said[1]["outcome"]) == ("SessionLostError", "not run"), said
            assert watch.closed

    run(main)


def test_full_workers_leave_openings_to_others(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, watch = uuid.uuid4().hex, Watch()
        async with worker(client, queue, PoolPlugin({"s": stdio()}, observers=[watch], max_scopes=1)):
            first = await client.start_workflow(
                Scoped.run, args=["s", [PID], 600, True], id=uuid.uuid4().hex, task_queue=queue
            )
            while not await first.query(Scoped.said):
                await asyncio.sleep(0.05)
            second = await client.start_workflow(Scoped.run, args=["s", [PID]], id=uuid.uuid4().hex, task_queue=queue)
            await asyncio.sleep(0.7)
            assert await second.query(Scoped.said) == []
            await first.signal(Scoped.go)
            assert len(await second.result()) == 1

    run(main)


@pytest.mark.parametrize("scopes", [100, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_many_scopes_on_two_workers_keep_to_their_capacity_and_leave_no_session(
    address: str, run: Any, scopes: int
) -> None:
    class Most(Watch):
        """The most scopes at a time."""

        most = 0

        def event(self, e: object) -> None:
            super().event(e)
            self.most = max(self.most, len(self.opened) - len(self.closed))

    async def main() -> None:
        # A process may serve a queue twice only through two clients.
        client, other = await Client.connect(address), await Client.connect(address)
        queue, watches = uuid.uuid4().hex, [Most(), Most()]
        plugins = [PoolPlugin({"s": Scene().server}, observers=[watch], max_scopes=40) for watch in watches]
        async with worker(client, queue, plugins[0]), worker(other, queue, plugins[1]):
            calls = [["echo", {"text": "x"}, 0]] * 2
            said = await asyncio.gather(
                *(
                    client.execute_workflow(
                        Scoped.run, args=["s", calls, 600, False, 30], id=uuid.uuid4().hex, task_queue=queue
                    )
                    for _ in range(scopes)
                )
            )
            assert said == [["x", "x"]] * scopes
        for watch in watches:
            assert watch.most <= 40
            assert sorted(map(str, watch.opened)) == sorted(map(str, watch.closed))
        assert sum(len(watch.opened) for watch in watches) == scopes
        assert all(len(watch.opened) > 20 for watch in watches)

    run(main, 110)
