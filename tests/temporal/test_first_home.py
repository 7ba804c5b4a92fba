"""What the tests of this idea's first home ask of a worker's sessions, in our words: fifteen cases, on this plugin.

That home is Temporal's own integrations, which keep one MCP session per server in each worker.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import pytest
import trio
from mcp.server import MCPServer
from temporalio.client import Client
from temporalio.worker import Worker

from tests.bridge.servers import stdio
from trio_mcp_pool import CustomServer, PoolPolicy, Server, SessionClosed, SessionOpened
from trio_mcp_pool.temporal import PoolPlugin
from trio_mcp_pool.testing import error, ok, read_log, scripted_stdio_server, slow

from .flows import Calls

ECHO = [["s", "echo", {"text": "x"}]]


class Watch:
    """Sessions opened and closed, by server."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, e: object) -> None:
        if isinstance(e, SessionOpened):
            self.events.append(f"{e.server} opened")
        elif isinstance(e, SessionClosed):
            self.events.append(f"{e.server} closed: {e.reason}")


class Place:
    """A worker, and workflows that call through it."""

    def __init__(self, client: Client, queue: str) -> None:
        self.client = client
        self.queue = queue

    async def call(self, calls: list[Any], options: dict[str, Any] | None = None) -> list[Any]:
        args = [calls, {"attempts": 1, **(options or {})}]
        said: list[Any] = await self.client.execute_workflow(
            Calls.run, args=args, id=uuid.uuid4().hex, task_queue=self.queue
        )
        return said


@asynccontextmanager
async def place(address: str, servers: dict[str, Server], watch: Watch, **policy: Any) -> AsyncIterator[Place]:
    client = await Client.connect(address)
    queue = uuid.uuid4().hex
    plugin = PoolPlugin(servers, observers=[watch], policy=PoolPolicy(**policy))
    async with Worker(client, task_queue=queue, workflows=[Calls], plugins=[plugin]):
        yield Place(client, queue)


class Traced:
    """A client of a server in this process that records which task enters and leaves it."""

    def __init__(self) -> None:
        self.tasks: list[object] = []
        self.connects = 0
        server = MCPServer("traced")

        @server.tool()
        def echo(text: str) -> str:
            return text

        @asynccontextmanager
        async def connect() -> AsyncIterator[mcp.Client]:
            self.connects += 1
            self.tasks.append(trio.lowlevel.current_task())
            async with mcp.Client(server) as client:
                yield client
            self.tasks.append(trio.lowlevel.current_task())

        self.server = CustomServer(connect)


def test_01_a_session_is_entered_and_left_by_one_task(address: str, run: Any) -> None:
    traced = Traced()

    async def main() -> None:
        async with place(address, {"s": traced.server}, Watch()) as here:
            assert await here.call(ECHO) == ["x"]

    run(main)
    assert len(traced.tasks) == 2
    assert traced.tasks[0] is traced.tasks[1]


def test_02_nothing_is_connected_before_it_is_needed(address: str, run: Any) -> None:
    traced = Traced()

    async def main() -> None:
        async with place(address, {"s": traced.server}, Watch()):
            await asyncio.sleep(0.3)

    run(main)
    assert traced.connects == 0


def test_03_calls_of_one_workflow_reuse_the_session(address: str, run: Any) -> None:
    traced = Traced()

    async def main() -> None:
        async with place(address, {"s": traced.server}, Watch()) as here:
            await here.call(ECHO * 4)

    run(main)
    assert traced.connects == 1


def test_04_calls_of_several_workflows_reuse_the_session(address: str, run: Any) -> None:
    traced = Traced()

    async def main() -> None:
        async with place(address, {"s": traced.server}, Watch()) as here:
            for _ in range(3):
                await here.call(ECHO)

    run(main)
    assert traced.connects == 1


def test_05_concurrent_first_callers_share_one_connection(address: str, run: Any, tmp_path: Any) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        server = scripted_stdio_server(log=log, gates={"spawn": slow(0.5)})
        async with place(address, {"s": server}, Watch()) as here:
            assert await asyncio.gather(*(here.call(ECHO) for _ in range(10))) == [["x"]] * 10

    run(main)
    assert [entry["event"] for entry in read_log(log)].count("spawn") == 1


def test_06_concurrent_first_callers_are_all_told_of_a_failed_connect(address: str, run: Any) -> None:
    async def main() -> None:
        server = scripted_stdio_server(gates={"spawn": error()})
        async with place(address, {"s": server}, Watch()) as here:
            said = await asyncio.gather(*(here.call(ECHO) for _ in range(5)))
        assert {step["type"] for [step] in said} <= {"ConnectError", "ServerUnavailableError"}

    run(main)


def test_07_a_failed_connect_is_not_kept(address: str, run: Any, tmp_path: Any) -> None:
    async def main() -> None:
        server = scripted_stdio_server(log=tmp_path / "log", gates={"spawn": [error(), ok]})
        async with place(address, {"s": server}, Watch()) as here:
            [failed] = await here.call(ECHO)
            assert failed["type"] == "ConnectError"
            await asyncio.sleep(failed["retry_after"] + 0.1)
            assert await here.call(ECHO) == ["x"]

    run(main)


def test_08_one_cancelled_first_caller_does_not_take_the_others_with_it(address: str, run: Any, tmp_path: Any) -> None:
    """T1"""

    async def main() -> None:
        server = scripted_stdio_server(log=tmp_path / "log", gates={"spawn": slow(3.0)})
        async with place(address, {"s": server}, Watch()) as here:
            args = [ECHO, {"attempts": 1, "heartbeat_timeout": 1}]
            first = await here.client.start_workflow(Calls.run, args=args, id=uuid.uuid4().hex, task_queue=here.queue)
            await asyncio.sleep(0.5)
            others = asyncio.gather(*(here.call(ECHO) for _ in range(3)))
            await first.cancel()
            assert await others == [["x"]] * 3

    run(main)


def test_09_an_idle_session_is_closed(address: str, run: Any) -> None:
    async def main() -> None:
        watch = Watch()
        async with place(address, {"s": stdio()}, watch, idle_timeout=0.4) as here:
            await here.call(ECHO)
            await asyncio.sleep(1.5)
            assert watch.events == ["s opened", "s closed: idle"]

    run(main)


def test_10_a_call_that_runs_longer_than_the_idle_timeout_keeps_its_session(address: str, run: Any) -> None:
    async def main() -> None:
        watch = Watch()
        async with place(address, {"s": stdio()}, watch, idle_timeout=0.3) as here:
            assert await here.call([["s", "sleep", {"seconds": 1.0}]]) == ["slept"]
            assert watch.events[0] == "s opened"
            assert watch.events.count("s opened") == 1

    run(main)


def test_11_after_an_idle_close_the_next_call_connects_again(address: str, run: Any) -> None:
    async def main() -> None:
        watch = Watch()
        async with place(address, {"s": stdio()}, watch, idle_timeout=0.3) as here:
            first = await here.call([["s", "pid", {}]])
            await asyncio.sleep(1.2)
            assert await here.call([["s", "pid", {}]]) != first

    run(main)


@pytest.mark.parametrize("call", [["s", "no_such_tool", {}], ["s", "refused", {}]])
def test_12_an_error_of_the_server_does_not_close_the_session(address: str, run: Any, tmp_path: Any, call: Any) -> None:
    """T2"""

    async def main() -> None:
        watch = Watch()
        gates = {"call": [ok, error(mcp.MCPError(-32602, "no")), ok]}
        server = scripted_stdio_server(log=tmp_path / "log", gates=gates, texts={"refused": "never"})
        async with place(address, {"s": server}, watch) as here:
            first, _, last = await here.call([["s", "pid", {}], call, ["s", "pid", {}]])
            assert first == last or call[1] == "no_such_tool"
            assert watch.events == ["s opened"]

    run(main)


def test_13_a_dead_session_is_replaced_before_the_next_call(address: str, run: Any) -> None:
    """T6"""

    async def main() -> None:
        async with place(address, {"s": stdio()}, Watch()) as here:
            first, lost, again = await here.call([["s", "pid", {}], ["s", "crash", {}], ["s", "pid", {}]])
            assert lost["type"] == "OutcomeUnknownError"
            assert first != again
            assert again.isdigit()

    run(main)


def test_14_servers_have_sessions_of_their_own(address: str, run: Any) -> None:
    async def main() -> None:
        watch = Watch()
        async with place(address, {"s": stdio(), "t": stdio()}, watch) as here:
            before = await here.call([["s", "pid", {}], ["t", "pid", {}]])
            assert len(set(before)) == 2
            await here.call([["s", "crash", {}]])
            assert await here.call([["t", "pid", {}]]) == before[1:]

    run(main)


def test_15_sessions_close_when_the_worker_shuts_down(address: str, run: Any) -> None:
    async def main() -> None:
        watch = Watch()
        async with place(address, {"s": stdio()}, watch) as here:
            await here.call(ECHO)
            assert watch.events == ["s opened"]
        assert watch.events == ["s opened", "s closed: shutdown"]

    run(main)
