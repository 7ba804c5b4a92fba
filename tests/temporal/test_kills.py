"""Workers that are killed: no tool runs twice, and every workflow learns what is known (R13, R18)."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks import temporal_kills
from tests.processes import runs
from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import read_log

from .flows import Calls, Scoped

ROOT = Path(__file__).parents[2]


class Child:
    """A worker process."""

    def __init__(self, script: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.temporal.worker", json.dumps(script)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """End it as a machine's failure does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def end(self) -> None:
        """Shut it down."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def workers() -> Iterator[Callable[[dict[str, Any]], Child]]:
    """Starts worker processes, and ends those that still run."""
    started: list[Child] = []

    def start(script: dict[str, Any]) -> Child:
        started.append(Child(script))
        started[-1].wait_ready()
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.end()


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def ran(log: Path) -> list[str]:
    return [entry["tool"] for entry in read_log(log) if entry["event"] == "call"]


@pytest.mark.parametrize("stage", ["before", "dial", "call", "answer"])
def test_a_worker_killed_at_each_stage_runs_no_tool_twice(address: str, run: Any, tmp_path: Path, stage: str) -> None:
    """Before the dial, in it, after the request was written, and after the answer, while the next call is under way."""

    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        script = {"address": address, "queue": queue, "servers": {"s": str(log)}, "workflows": False}
        slowly = {"before": {}, "dial": {"spawn": 3.0}, "call": {"call": 30.0}, "answer": {}}[stage]
        begun = tmp_path / "begun"
        calls = [["s", "echo", {"text": "first"}]]
        if stage == "answer":
            calls.append(["s", "sleep", {"seconds": 30}])
        with workers() as start:
            async with Worker(client, task_queue=queue, workflows=[Calls], plugins=[PoolPlugin()]):
                first = start({**script, "slow": slowly, **({"hold": str(begun)} if stage == "before" else {})})
                options = {"heartbeat_timeout": 2, "schedule_to_close_timeout": 40}
                flow = await client.start_workflow(Calls.run, args=[calls, options], id=queue, task_queue=queue)
                if stage == "before":
                    await until(begun.exists)
                elif stage == "dial":
                    await until(lambda: any(e["event"] == "spawn" for e in read_log(log)))
                else:
                    await until(lambda: len(ran(log)) == len(calls))
                    await asyncio.sleep(0.2)
                first.kill()
                start(script)
                said = await flow.result()
        last = said[-1]
        # Also where nothing had been written: nobody lived to tell.
        assert (last["type"], last["outcome"]) == ("OutcomeUnknownError", "unknown"), said
        assert ran(log) == {"before": [], "dial": [], "call": ["echo"], "answer": ["echo", "sleep"]}[stage]
        await until(lambda: not any(runs(e["pid"]) for e in read_log(log) if e["event"] == "spawn"))

    run(main)


def test_a_tool_that_may_be_repeated_is_tried_again_after_its_worker_was_killed(
    address: str, run: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        script = {"address": address, "queue": queue, "servers": {"s": str(log)}, "workflows": False}
        with workers() as start:
            async with Worker(client, task_queue=queue, workflows=[Calls], plugins=[PoolPlugin()]):
                first = start({**script, "slow": {"call": 30.0}})
                args = [[["s", "echo", {"text": "x"}]], {"heartbeat_timeout": 2}, {"idempotent": True}]
                flow = await client.start_workflow(Calls.run, args=args, id=queue, task_queue=queue)
                await until(lambda: ran(log))
                first.kill()
                start(script)
                assert await flow.result() == ["x"]
        assert ran(log) == ["echo", "echo"]

    run(main)


@asynccontextmanager
async def scopes_elsewhere(address: str, log: Path) -> AsyncIterator[tuple[Client, str, Callable[[], Child]]]:
    """A client, a queue whose workflows run here, and a function that starts a worker process for the scopes of `s`."""
    client = await Client.connect(address)
    queue = uuid.uuid4().hex
    script = {"address": address, "queue": queue, "servers": {"s": str(log)}, "workflows": False}
    with workers() as start:
        async with Worker(client, task_queue=queue, workflows=[Scoped], plugins=[PoolPlugin()]):
            yield client, queue, lambda: start(script)


def test_a_scope_whose_worker_is_killed_says_so_once_and_a_new_one_opens_elsewhere(
    address: str, run: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with scopes_elsewhere(address, tmp_path / "log") as (client, queue, start):
            first = start()
            flow = await client.start_workflow(
                Scoped.run, args=["s", [["pid", {}, 0], ["pid", {}, 5]]], id=queue, task_queue=queue
            )
            while not await flow.query(Scoped.said):
                await asyncio.sleep(0.02)
            first.kill()
            start()
            said = await flow.result()
            assert (said[1]["type"], said[1]["outcome"]) == ("SessionLostError", "not run"), said
            assert "its worker was lost" in said[1]["message"]
            again = await client.execute_workflow(
                Scoped.run, args=["s", [["pid", {}, 0]]], id=uuid.uuid4().hex, task_queue=queue
            )
            assert again[0] != said[0]

    run(main)


def test_a_call_that_runs_when_the_worker_of_its_scope_is_killed_is_unknown(
    address: str, run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        async with scopes_elsewhere(address, log) as (client, queue, start):
            first = start()
            # Of the call alone it would be known much later.
            args = ["s", [["sleep", {"seconds": 30}, 0], ["pid", {}, 0]], 600, False, 2, {"heartbeat_timeout": 60}]
            flow = await client.start_workflow(Scoped.run, args=args, id=queue, task_queue=queue)
            await until(lambda: ran(log))
            first.kill()
            said = await flow.result()
        assert [(step["type"], step["outcome"]) for step in said] == [
            ("OutcomeUnknownError", "unknown"),
            ("SessionLostError", "not run"),
        ]
        assert ran(log) == ["sleep"]

    run(main)
    gc.collect()
    # The attempt that the scope's end has overtaken fails later, and asyncio complains of errors that nobody looks at.
    assert "never retrieved" not in caplog.text


SEED = int(os.environ.get("KILLS_SEED", "1"))


# The longer one takes minutes on a small machine; the bound of each test in `nox -s temporal` is two.
@pytest.mark.parametrize(
    ("workflows", "kills"),
    [(24, 4), pytest.param(200, 20, marks=[pytest.mark.exhaustive, pytest.mark.timeout(400)])],
)
def test_workers_killed_at_random_run_no_call_twice_and_every_workflow_ends(
    address: str, run: Any, workflows: int, kills: int
) -> None:
    """Two worker processes, three servers, one of them in scopes. No process of a server is left."""
    seen = run(
        lambda: temporal_kills.play("pool", address, workflows=workflows, kills=kills, pause=0.7, seed=SEED),
        390 if workflows > 100 else 100,
    )
    print(seen)
    assert seen.holds, seen
    assert seen.kills > 0
