"""Workers that are killed: no tool runs twice, and every workflow learns what is known (R13, R18)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

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


@pytest.mark.parametrize("stage", ["dial", "call", "answer"])
def test_a_worker_killed_at_each_stage_runs_no_tool_twice(address: str, run: Any, tmp_path: Path, stage: str) -> None:
    """In the dial, after the request was written, and after the answer, while the next call is under way."""

    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        script = {"address": address, "queue": queue, "servers": {"s": str(log)}, "workflows": False}
        slowly = {"dial": {"spawn": 3.0}, "call": {"call": 30.0}, "answer": {}}[stage]
        calls = [["s", "echo", {"text": "first"}]]
        if stage == "answer":
            calls.append(["s", "sleep", {"seconds": 30}])
        with workers() as start:
            async with Worker(client, task_queue=queue, workflows=[Calls], plugins=[PoolPlugin()]):
                first = start({**script, "slow": slowly})
                options = {"heartbeat_timeout": 2, "schedule_to_close_timeout": 40}
                flow = await client.start_workflow(Calls.run, args=[calls, options], id=queue, task_queue=queue)
                if stage == "dial":
                    await until(lambda: any(e["event"] == "spawn" for e in read_log(log)))
                else:
                    await until(lambda: len(ran(log)) == len(calls))
                    await asyncio.sleep(0.2)
                first.kill()
                start(script)
                said = await flow.result()
        last = said[-1]
        assert (last["type"], last["outcome"]) == ("OutcomeUnknownError", "unknown"), said
        assert ran(log) == {"dial": [], "call": ["echo"], "answer": ["echo", "sleep"]}[stage]
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


def test_a_scope_whose_worker_is_killed_says_so_once_and_a_new_one_opens_elsewhere(
    address: str, run: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        script = {"address": address, "queue": queue, "servers": {"s": str(log)}, "workflows": False}
        with workers() as start:
            async with Worker(client, task_queue=queue, workflows=[Scoped], plugins=[PoolPlugin()]):
                first = start(script)
                flow = await client.start_workflow(
                    Scoped.run, args=["s", [["pid", {}, 0], ["pid", {}, 5]]], id=queue, task_queue=queue
                )
                while not await flow.query(Scoped.said):
                    await asyncio.sleep(0.02)
                first.kill()
                start(script)
                said = await flow.result()
                assert (said[1]["type"], said[1]["outcome"]) == ("SessionLostError", "not run"), said
                assert "its worker was lost" in said[1]["message"]
                again = await client.execute_workflow(
                    Scoped.run, args=["s", [["pid", {}, 0]]], id=uuid.uuid4().hex, task_queue=queue
                )
                assert again[0] != said[0]

    run(main)


SEED = int(os.environ.get("KILLS_SEED", "1"))


# The longer one takes minutes on a small machine; the bound of each test in `nox -s temporal` is two.
@pytest.mark.parametrize(
    "flows_in_all", [24, pytest.param(200, marks=[pytest.mark.exhaustive, pytest.mark.timeout(400)])]
)
def test_workers_killed_at_random_run_no_call_twice_and_every_workflow_ends(
    address: str, run: Any, tmp_path: Path, flows_in_all: int
) -> None:
    """Two worker processes, three servers, one of them in scopes."""
    chance = random.Random(SEED)

    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        logs = {name: tmp_path / name for name in ("a", "b", "scoped")}
        script = {
            "address": address,
            "queue": queue,
            "servers": {name: str(log) for name, log in logs.items()},
            "workflows": False,
        }
        with workers() as start:
            async with Worker(client, task_queue=queue, workflows=[Calls, Scoped], plugins=[PoolPlugin()]):
                running = [start(script), start(script)]
                flows = []
                args: list[Any]
                for number in range(flows_in_all):
                    text = f"{queue}-{number}"
                    if number % 5 == 4:
                        args = ["scoped", [["echo", {"text": f"{text}-{step}"}, 0] for step in range(5)]]
                        flows.append(client.start_workflow(Scoped.run, args=args, id=text, task_queue=queue))
                    else:
                        calls = [[chance.choice("ab"), "echo", {"text": f"{text}-{step}"}] for step in range(5)]
                        args = [calls, {"heartbeat_timeout": 2}]
                        flows.append(client.start_workflow(Calls.run, args=args, id=text, task_queue=queue))
                handles = []
                kills = max(3, flows_in_all // 12)

                async def kill() -> None:
                    for _ in range(kills):
                        await asyncio.sleep(chance.uniform(0.1, 0.8))
                        which = chance.randrange(2)
                        running[which].kill()
                        running[which] = await asyncio.to_thread(start, script)

                killing = asyncio.create_task(kill())
                for flow in flows:
                    handles.append(await flow)
                    await asyncio.sleep(chance.uniform(0, 0.1))
                await killing
                results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        broken = [result for result in results if isinstance(result, BaseException)]
        # A workflow in a scope that could not be opened ends with that error; all others return.
        said = [step for result in results if not isinstance(result, BaseException) for step in result]
        kinds = Counter(step["type"] if isinstance(step, dict) else "answered" for step in said)
        times = Counter(
            entry["arguments"]["text"] for log in logs.values() for entry in read_log(log) if entry["event"] == "call"
        )
        twice = {text: number for text, number in times.items() if number > 1}
        print(f"{flows_in_all} workflows, {kills} kills: {dict(kinds)}, {len(broken)} raised, {len(twice)} twice")
        assert twice == {}
        assert broken == []
        assert set(kinds) <= {"answered", "OutcomeUnknownError", "SessionLostError"}, kinds
        answered = {step for step in said if isinstance(step, str)}
        assert answered <= set(times)
        await until(
            lambda: not any(runs(e["pid"]) for log in logs.values() for e in read_log(log) if e["event"] == "spawn")
        )

    run(main, 300 if flows_in_all > 100 else 100)
