"""Calls from workflows, on a real Temporal server."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mcp
import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, Worker

from tests.bridge.servers import Scene, stdio
from trio_mcp_pool import PoolClosed, SessionOpened, StdioServer
from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import error, ok, read_log, scripted_stdio_server

from .flows import Calls, Gather, Reads, Scoped

WORKFLOWS = [Calls, Gather, Reads, Scoped]


def worker(client: Client, queue: str, plugin: PoolPlugin) -> Worker:
    return Worker(client, task_queue=queue, workflows=WORKFLOWS, plugins=[plugin])


async def execute(client: Client, queue: str, flow: Any, *args: Any) -> Any:
    return await client.execute_workflow(flow.run, args=args, id=uuid.uuid4().hex, task_queue=queue)


@pytest.mark.parametrize("converter", ["default", "pydantic"])
def test_results_are_the_protocols_own_objects(address: str, run: Any, converter: str) -> None:
    async def main() -> None:
        more = {"data_converter": pydantic_data_converter} if converter == "pydantic" else {}
        client = await Client.connect(address, **more)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": Scene().server})):
            got = await execute(client, queue, Reads, "s")
        assert got["tools"][0] == "echo"
        assert got["same"] is True
        assert got["type"] == "mcp_types._types.CallToolResult"
        assert (got["resource"], got["prompt"]) == ("hello", "hello")
        assert got["completions"] == [["PromptReference x...", "y"], ["ResourceTemplateReference x...", "y"]]

    run(main)


def test_a_call_of_a_real_server(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": stdio()})):
            assert await execute(client, queue, Calls, [["s", "echo", {"text": "hello"}]]) == ["hello"]

    run(main)


def test_a_failure_carries_what_is_known(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        dead = StdioServer(sys.executable, ("-c", "import sys; sys.stderr.write('no licence'); sys.exit(7)"))
        async with worker(client, queue, PoolPlugin({"s": stdio(), "dead": dead})):
            calls = [["s", "no_such_tool", {}], ["s", "crash", {"status": 9}], ["dead", "x", {}]]
            unknown, crashed, refused = await execute(client, queue, Calls, calls, {"attempts": 1})
        assert unknown == "unknown tool no_such_tool"
        assert (crashed["type"], crashed["outcome"], crashed["server"]) == ("OutcomeUnknownError", "unknown", "s")
        assert (refused["type"], refused["outcome"], refused["exit_status"]) == ("ConnectError", "not run", 7)
        assert "no licence" in refused["stderr_tail"]
        assert refused["phase"]

    run(main)


def test_what_did_not_run_is_tried_again_as_the_policy_says(address: str, run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        server = scripted_stdio_server(log=log, gates={"spawn": [error(), error(), ok]})
        async with worker(client, queue, PoolPlugin({"s": server})):
            assert await execute(client, queue, Calls, [["s", "echo", {"text": "x"}]]) == ["x"]
        assert [entry["event"] for entry in read_log(log)].count("spawn") == 3

    run(main)


def test_a_servers_answer_is_never_tried_again(address: str, run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue, log = uuid.uuid4().hex, tmp_path / "log"
        server = scripted_stdio_server(log=log, gates={"call": error(mcp.MCPError(-32602, "not like that"))})
        async with worker(client, queue, PoolPlugin({"s": server})):
            [said] = await execute(client, queue, Calls, [["s", "echo", {"text": "x"}]])
        assert (said["type"], said["code"], said["outcome"]) == ("MCPError", -32602, "answered")
        assert said["message"] == "not like that"
        assert [entry["event"] for entry in read_log(log)].count("call") == 1

    run(main)


def test_a_server_that_no_worker_has_did_not_run_and_says_which(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": Scene().server})):
            [said] = await execute(client, queue, Calls, [["other", "echo", {"text": "x"}]], {"attempts": 2})
        assert (said["type"], said["outcome"]) == ("UnknownServerError", "not run")
        assert "'other'" in said["message"]

    run(main)


def test_when_no_worker_begins_a_call_it_did_not_run(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with Worker(client, task_queue=queue, workflows=WORKFLOWS, plugins=[PoolPlugin()]):
            options = {"schedule_to_start_timeout": 1, "attempts": 1, "task_queue": "nobody"}
            [said] = await execute(client, queue, Calls, [["s", "echo", {"text": "x"}]], options)
        assert (said["type"], said["outcome"]) == ("AcquireTimeoutError", "not run")

    run(main)


def test_schedule_to_close_bounds_all_attempts_together(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        dead = StdioServer(sys.executable, ("-c", "raise SystemExit(3)"))
        async with worker(client, queue, PoolPlugin({"s": stdio(), "dead": dead})):
            began = asyncio.get_running_loop().time()
            calls = [["dead", "x", {}], ["s", "sleep", {"seconds": 60}]]
            refused, late = await execute(client, queue, Calls, calls, {"schedule_to_close_timeout": 4})
            took = asyncio.get_running_loop().time() - began
        assert (refused["type"] in ("ConnectError", "ServerUnavailableError"), refused["outcome"]) == (True, "not run")
        assert (late["type"], late["outcome"]) == ("OutcomeUnknownError", "unknown")
        assert took < 12

    run(main)


def test_a_cancelled_workflow_reaches_the_server(address: str, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": stdio("--log-cancelled")})):
            args = [[["s", "sleep", {"seconds": 60}]], {"heartbeat_timeout": 2}]
            flow = await client.start_workflow(Calls.run, args=args, id=queue, task_queue=queue)
            await asyncio.sleep(1.5)
            began = asyncio.get_running_loop().time()
            await flow.cancel()
            while "cancelled " not in "".join(r.getMessage() for r in caplog.records if "stderr" in r.name):
                await asyncio.sleep(0.02)
                assert asyncio.get_running_loop().time() - began < 3

    caplog.set_level("INFO", "trio_mcp_pool.stderr")
    run(main)


def test_arguments_and_results_that_temporal_cannot_carry_are_refused_before_they_hurt(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": stdio()})):
            [sent] = await execute(client, queue, Gather, "s", "echo", 1, 2_200_000)
            [came] = await execute(client, queue, Calls, [["s", "big", {"bytes": 2_200_000}]])
            fits = await execute(client, queue, Gather, "s", "echo", 1, 1_900_000)
        assert (sent["type"], sent["outcome"]) == ("ArgumentsTooLargeError", "not run")
        assert (came["type"], came["outcome"]) == ("ResultTooLargeError", "answered")
        assert fits == [1_900_000]

    run(main)


def test_large_arguments_gathered_are_spread_over_workflow_tasks(address: str, run: Any) -> None:
    """Three of 1.9 MB in one workflow task would terminate the workflow."""

    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        async with worker(client, queue, PoolPlugin({"s": stdio()})):
            assert await execute(client, queue, Gather, "s", "echo", 4, 1_900_000) == [1_900_000] * 4
            assert await execute(client, queue, Gather, "s", "echo", 30, 200_000) == [200_000] * 30

    run(main)


class Opened:
    """Counts sessions and pools."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, e: object) -> None:
        if isinstance(e, SessionOpened | PoolClosed):
            self.events.append(type(e).__name__)


def test_two_workers_on_one_plugin_share_a_pool_which_the_last_closes(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queues, watch = [uuid.uuid4().hex, uuid.uuid4().hex], Opened()
        plugin = PoolPlugin({"s": stdio()}, observers=[watch])
        async with worker(client, queues[0], plugin):
            async with worker(client, queues[1], plugin):
                pids = [await execute(client, queue, Calls, [["s", "pid", {}]]) for queue in queues]
            assert pids[0] == pids[1] == await execute(client, queues[0], Calls, [["s", "pid", {}]])
            assert watch.events == ["SessionOpened"]
        assert watch.events == ["SessionOpened", "PoolClosed"]
        async with worker(client, queues[0], plugin):
            assert await execute(client, queues[0], Calls, [["s", "pid", {}]]) != pids[0]

    run(main)


def test_the_plugin_may_be_given_to_the_client(address: str, run: Any) -> None:
    async def main() -> None:
        plugin = PoolPlugin({"s": stdio()})
        client = await Client.connect(address, plugins=[plugin])
        queue = uuid.uuid4().hex
        async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
            assert len(await execute(client, queue, Calls, [["s", "pid", {}]])) == 1
            assert isinstance((await execute(client, queue, Scoped, "s", [["pid", {}, 0]]))[0], str)

    run(main)


def test_histories_replay_after_a_change_of_the_workers_servers(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        queue = uuid.uuid4().hex
        histories = []
        async with worker(client, queue, PoolPlugin({"s": stdio()})):
            for flow, args in (
                (Calls, [[["s", "echo", {"text": "x"}], ["s", "crash", {}]], {"attempts": 1}]),
                (Gather, ["s", "echo", 4, 1_500_000]),
                (Scoped, ["s", [["pid", {}, 0], ["crash", {}, 0], ["pid", {}, 0]]]),
            ):
                name = uuid.uuid4().hex
                await client.execute_workflow(flow.run, args=args, id=name, task_queue=queue)
                histories.append(await client.get_workflow_handle(name).fetch_history())
        for plugin in (PoolPlugin(), PoolPlugin({"another": stdio()})):
            replayer = Replayer(workflows=WORKFLOWS, plugins=[plugin])
            for history in histories:
                await replayer.replay_workflow(history)

    run(main)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: PoolPlugin({"s": 3}), "servers"),
        (lambda: PoolPlugin({}, no_such=1), "no_such"),
        (lambda: PoolPlugin({}, max_scopes=-1), "max_scopes"),
        (lambda: PoolPlugin({}, prefix=""), "prefix"),
    ],
)
def test_bad_arguments_are_refused_when_the_plugin_is_made(bad: Callable[[], PoolPlugin], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        bad()


def test_a_pool_that_cannot_open_does_not_leave_async_with_worker_waiting(address: str, run: Any) -> None:
    async def main() -> None:
        client = await Client.connect(address)
        with pytest.raises((TypeError, ValueError)):
            async with worker(client, uuid.uuid4().hex, PoolPlugin({"s": stdio()}, max_connecting=0)):
                await asyncio.sleep(30)

    run(main, 20)
