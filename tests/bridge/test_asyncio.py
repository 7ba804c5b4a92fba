"""The pool in asyncio programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
import pytest
import trio

from trio_mcp_pool import (
    Callbacks,
    Caller,
    CustomServer,
    OutcomeUnknownError,
    PoolClosedError,
    PoolPolicy,
    StdioServer,
    UnknownServerError,
)
from trio_mcp_pool.bridge import AsyncioPool, AsyncioSession
from trio_mcp_pool.bridge._asyncio import call_when_ready

from .servers import ECHO, Scene, asking, declined, stdio, text, who


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await main()

    return asyncio.run(bounded(), debug=False)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    while not await condition():
        await asyncio.sleep(0.002)


def test_many_tasks_call_at_once_through_one_session() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": stdio()}) as pool:
            await pool.wait_ready("s")
            calls = [pool.call_tool("s", "sleep", {"seconds": 0.3}) for _ in range(50)]
            assert [text(result) for result in await asyncio.gather(*calls)] == ["slept"] * 50
            assert (await pool.statistics()).connects == 1

    run(main)


def test_every_verb_has_the_pools_result_and_errors() -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncioPool({"s": scene.server}) as pool:
            assert (await pool.list_tools("s")).tools[0].name == "echo"
            assert (await pool.read_resource("s", "memo://hello")).contents[0].text == "hello"
            assert (await pool.get_prompt("s", "greet")).messages[0].content.text == "hello"
            await pool.add_server("t", scene.server)
            with pytest.raises(ValueError, match="t"):
                await pool.add_server("t", scene.server)
            await pool.drain("t")
            await pool.remove_server("t")
            with pytest.raises(UnknownServerError, match="t"):
                await pool.call_tool("t", "echo", {"text": "x"})
            await pool.reconfigure({"u": scene.server})
            await pool.wait_ready()

    run(main)


def test_sessions_scopes_and_handles_are_those_of_the_pool() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": stdio()}) as pool:
            async with pool.session("s") as session:
                assert isinstance(session, AsyncioSession)
                assert session.server_info.name == "echo"
                outside = text(await session.call_tool("pid"))
            with pytest.raises(trio.ClosedResourceError, match="released"):
                await session.call_tool("pid")
            async with pool.open_scope("mine") as scope, scope.session("s") as session:
                assert scope.key == "mine"
                assert text(await session.call_tool("pid")) == text(await scope.call_tool("s", "pid")) != outside
            with pytest.raises(trio.WouldBlock):
                await pool.acquire_nowait("s", scope="cold")
            session = await pool.acquire("s")
            session.release()
            session.release()
            assert (await pool.statistics()).leases_in_flight == 0

    run(main)


def test_a_lease_may_be_left_by_another_task_and_out_of_order() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool:
            first, second = pool.session("s"), pool.session("s")
            await first.__aenter__()
            await second.__aenter__()
            await asyncio.create_task(first.__aexit__(None, None, None))
            await second.__aexit__(None, None, None)
            assert (await pool.statistics()).leases_in_flight == 0

    run(main)


def test_cancelling_the_task_cancels_the_call_and_its_siblings_go_on() -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncioPool({"s": scene.server}) as pool:
            call = asyncio.create_task(pool.call_tool("s", "wait"))
            await asyncio.to_thread(scene.started.wait)
            sibling = asyncio.create_task(pool.call_tool("s", "wait"))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert scene.events == ["cancelled"]
            scene.open.set()
            assert text(await sibling) == "waited"

    run(main)


def test_a_cancelled_call_is_told_to_a_real_server(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with AsyncioPool({"s": stdio("--log-cancelled")}) as pool:
            await pool.wait_ready("s")
            call = asyncio.create_task(pool.call_tool("s", "sleep", {"seconds": 60}))
            await until(lambda: leases(pool))
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await pool.call_tool("s", "echo", {"text": "x"})

            async def told() -> bool:
                return "cancelled" in caplog.text

            await until(told)

    caplog.set_level("INFO")
    run(main)


async def leases(pool: AsyncioPool) -> int:
    return (await pool.statistics()).leases_in_flight


def test_asyncio_timeout_works() -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncioPool({"s": scene.server}) as pool:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pool.call_tool("s", "wait")
            assert time.monotonic() - began < 20
            assert scene.events == ["cancelled"]
            assert asyncio.current_task().cancelling() == 0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.call_tool("s", "wait"), 0.1)

    run(main)


def test_a_lease_that_comes_too_late_for_a_cancelled_task_is_given_back() -> None:
    """R3, across threads: cancelled at every moment of acquiring."""

    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool:
            await pool.wait_ready("s")
            for turns in range(60):
                for acquire in (pool.acquire("s"), pool.session("s").__aenter__(), pool.open_scope().__aenter__()):
                    task = asyncio.create_task(acquire)
                    for _ in range(turns % 12):
                        await asyncio.sleep(turns // 12 * 0.0001)
                    task.cancel()
                    try:
                        got = await task
                    except asyncio.CancelledError:
                        continue
                    if isinstance(got, AsyncioSession):
                        got.release()
            statistics = await pool.statistics()
            assert (statistics.leases_in_flight, statistics.tasks_waiting_acquire) == (0, 0)

    run(main)


def test_context_variables_travel() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool:

            async def call(name: str) -> str:
                who.set(name)
                return text(await pool.call_tool("s", "caller"))

            names = [f"caller {number}" for number in range(20)]
            assert await asyncio.gather(*(call(name) for name in names)) == names
            assert text(await pool.call_tool("s", "caller")) == "nobody"

    run(main)


def test_progress_is_told_in_the_callers_event_loop() -> None:
    seen: list[tuple[Any, ...]] = []

    async def slowly(progress: float, total: float | None, message: str | None) -> None:
        await asyncio.sleep(0.01)
        seen.append((progress, total, who.get()))

    def plainly(progress: float, total: float | None, message: str | None) -> None:
        asyncio.get_running_loop()
        seen.append((progress, message))

    async def main() -> None:
        async with AsyncioPool({"s": stdio()}) as pool:
            who.set("me")
            await pool.call_tool("s", "progress", {"steps": 2}, progress_callback=slowly)
            assert sorted(seen) == [(1, 2, "me"), (2, 2, "me")]
            await pool.call_tool("s", "progress", {"steps": 1}, progress_callback=plainly)
            assert seen[2:] == [(1, "0")]

    run(main)


def test_a_calls_own_functions_are_called_in_the_callers_event_loop() -> None:
    seen: list[object] = []

    async def name(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
        await asyncio.sleep(0.01)
        seen.append((caller.tool, who.get()))
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def report(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
        asyncio.get_running_loop()
        seen.append((caller.tool, progress))

    async def main() -> None:
        async with AsyncioPool({"s": asking()}, callbacks=Callbacks(elicit=declined)) as pool:
            who.set("me")
            assert "Ada" in text(await pool.call_tool("s", "elicit", on_elicit=name))
            async with pool.open_scope(callbacks=Callbacks(elicit=declined)) as scope, scope.session("s") as session:
                assert "Ada" in text(await session.call_tool("elicit", on_elicit=name))
            assert "decline" in text(await pool.call_tool("s", "elicit"))
            await pool.call_tool("s", "progress", {"to": 1}, on_progress=report)
        assert seen == [("elicit", "me"), ("elicit", "me"), ("progress", 1)]

    run(main)


def test_change_events_are_an_async_for_loop() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool, pool.session("s") as session:
            async with session.listen(tools_list_changed=True) as events:
                await pool.call_tool("s", "grow")
                async for event in events:
                    assert type(event).__name__ == "ToolsListChanged"
                    break

    run(main)


def test_servers_shared_scopes_and_change_events_without_a_lease() -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncioPool({"s": scene.server}, max_sessions_total=3) as pool:
            assert pool.servers == {"s": scene.server}
            async with pool.listen("s", tools_list_changed=True) as events:
                await pool.call_tool("s", "grow")
                assert type(await anext(events)).__name__ == "ToolsListChanged"
            await pool.call_tool("s", "echo", {"text": "x"}, scope="mine")
            assert (await pool.statistics()).size == 2
            await pool.close_scope("mine")
            assert (await pool.statistics()).size == 1
            async with pool.open_scope("other", servers={"t": scene.server}) as scope:
                assert scope.servers == {"s": scene.server, "t": scene.server}
                with pytest.raises(ValueError, match="other"):
                    await pool.close_scope("other")

    run(main)


def test_it_works_under_anyio_on_asyncio_with_a_stdio_server_and_one_in_this_process() -> None:
    """anyio keeps the name of the event loop in a context variable, which must not reach the Trio thread."""

    async def main() -> None:
        async with AsyncioPool({"s": stdio(), "in": Scene().server}) as pool:
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
            assert text(await pool.call_tool("in", "echo", {"text": "x"})) == "x"

    anyio.run(main, backend="asyncio")


def test_two_event_loops_may_call_through_one_pool() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool:

            async def other() -> str:
                return text(await pool.call_tool("s", "echo", {"text": "from another loop"}))

            assert await asyncio.to_thread(lambda: asyncio.run(other())) == "from another loop"

    run(main)


# The order of leaving, R2.


def test_R2_the_body_leaves_first_and_others_calls_have_time() -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncioPool({"s": scene.server}) as pool:
            call = asyncio.create_task(pool.call_tool("s", "wait"))
            await asyncio.to_thread(scene.started.wait)
            threading.Timer(0.2, scene.open.set).start()
        assert text(await call) == "waited"

    run(main)


def test_R2_a_body_that_raises_gives_nobody_time_and_its_error_comes_out_bare() -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(KeyError, match="mine"):
            async with AsyncioPool({"s": stdio()}) as pool:
                await pool.wait_ready("s")
                call = asyncio.create_task(pool.call_tool("s", "sleep", {"seconds": 60}))
                await until(lambda: leases(pool))
                await asyncio.sleep(0.1)
                raise KeyError("mine")
        assert time.monotonic() - began < 20
        with pytest.raises(OutcomeUnknownError):
            await call
        with pytest.raises(PoolClosedError):
            await pool.call_tool("s", "echo", {"text": "x"})

    run(main)


def test_R2_handles_that_only_the_body_has_used_end_with_it_at_once() -> None:
    async def main() -> None:
        began = time.monotonic()
        async with AsyncioPool({"s": Scene().server}) as pool:
            await (await pool.acquire("s")).call_tool("echo", {"text": "x"})
            await pool.session("s").__aenter__()
        assert time.monotonic() - began < 8

    run(main)


def test_R2_cancelled_while_it_drains_it_closes_without_draining() -> None:
    async def main() -> None:
        calls: list[asyncio.Task[Any]] = []

        async def body() -> None:
            async with AsyncioPool({"s": stdio()}) as pool:
                await pool.wait_ready("s")
                calls.append(asyncio.create_task(pool.call_tool("s", "sleep", {"seconds": 60})))
                await until(lambda: leases(pool))

        task = asyncio.create_task(body())
        await asyncio.wait([task], timeout=1)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 20
        with pytest.raises(OutcomeUnknownError):
            await calls[0]

    run(main)


def test_cancelled_while_it_opens_it_leaves_no_thread() -> None:
    async def main() -> None:
        async def opens() -> None:
            async with AsyncioPool({"s": Scene().server}):
                await asyncio.sleep(60)

        for turns in range(8):
            task = asyncio.create_task(opens())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)


def test_R14_an_interrupt_out_of_an_owner_cancels_the_body_and_comes_out_bare() -> None:
    def factory() -> object:
        raise SystemExit("from an owner")

    async def main() -> None:
        pool = AsyncioPool({"s": CustomServer(factory)}, policy=PoolPolicy(min_sessions=1))
        async with pool:
            await asyncio.sleep(60)

    began = time.monotonic()
    with pytest.raises(SystemExit, match="from an owner"):
        asyncio.run(main())
    assert time.monotonic() - began < 20


# What is refused.


def test_outside_of_asyncio_it_says_what_to_do() -> None:
    pool = AsyncioPool({})
    with pytest.raises(RuntimeError, match="use trio_mcp_pool.open_pool"):
        trio.run(pool.__aenter__)
    with pytest.raises(RuntimeError, match="in threads use BlockingPool"):
        pool.__aenter__().send(None)


def test_a_pool_is_entered_once_and_used_inside_its_block() -> None:
    async def main() -> None:
        pool = AsyncioPool({})
        assert repr(pool) == "<AsyncioPool: not open>"
        with pytest.raises(RuntimeError, match="inside its 'async with' block"):
            await pool.statistics()
        async with pool:
            with pytest.raises(RuntimeError, match="entered already"):
                await pool.__aenter__()

    run(main)


def test_it_is_refused_in_a_forked_child() -> None:
    async def main() -> None:
        async with AsyncioPool({"s": Scene().server}) as pool:
            readable, writable = os.pipe()
            pid = os.fork()
            if pid == 0:
                said = b"nothing"
                try:
                    await pool.call_tool("s", "echo", {"text": "x"})
                except RuntimeError as error:
                    said = str(error).encode()
                finally:
                    os.write(writable, said)
                    os._exit(0)
            os.waitpid(pid, 0)  # noqa: ASYNC222
            assert b"after the fork" in os.read(readable, 10_000)
            os.close(readable), os.close(writable)

    run(main)


# The end of the Trio thread.


def test_if_the_trio_thread_ends_every_pending_call_is_told_at_once() -> None:
    async def main() -> None:
        scene = Scene(PoolPolicy(max_in_flight=2))
        async with AsyncioPool({"s": scene.server}) as pool:
            running = asyncio.create_task(pool.call_tool("s", "wait"))
            await asyncio.to_thread(scene.started.wait)
            session = await pool.session("s").__aenter__()
            waiting = asyncio.create_task(pool.acquire("s"))
            await until(lambda: waiters(pool))
            crash = asyncio.create_task(session.call_tool("end_of_trio"))
            try:
                # The body is cancelled, as by an interrupt (R14), because nothing in it can go on.
                await asyncio.sleep(60)
            finally:
                kinds = await errors_of(running, waiting, crash)
                assert kinds == [OutcomeUnknownError, PoolClosedError, OutcomeUnknownError]
                told = [(task.exception().outcome, task.exception().server) for task in (running, waiting, crash)]
                assert told == [("unknown", "s"), ("not run", "s"), ("unknown", "s")]
                with pytest.raises(PoolClosedError):
                    await pool.statistics()
                session.release()

    began = time.monotonic()
    with pytest.raises(trio.TrioInternalError):
        run(main)
    assert time.monotonic() - began < 20


def test_a_call_that_waits_for_its_server_first_knows_whether_it_began() -> None:
    async def main() -> None:
        scene = Scene()

        @asynccontextmanager
        async def never() -> AsyncIterator[Any]:
            yield await trio.sleep_forever()

        async with AsyncioPool({"s": scene.server, "mute": CustomServer(never)}) as pool:
            began: list[str] = []

            def call(server: str, verb: str, arguments: dict[str, object]) -> asyncio.Task[object]:
                waits = call_when_ready(pool, server, verb, arguments, lambda: began.append(server))
                return asyncio.create_task(waits)

            assert text(await call("s", "call_tool", {"name": "echo", "arguments": {"text": "x"}})) == "x"
            running, waiting = call("s", "call_tool", {"name": "wait"}), call("mute", "list_tools", {})
            await asyncio.to_thread(scene.started.wait)
            crash = asyncio.create_task(pool.call_tool("s", "end_of_trio"))
            try:
                await asyncio.sleep(60)
            finally:
                kinds = await errors_of(running, waiting, crash)
                assert kinds == [OutcomeUnknownError, PoolClosedError, OutcomeUnknownError]
                assert began == ["s", "s"]

    with pytest.raises(trio.TrioInternalError):
        run(main)


async def errors_of(*tasks: asyncio.Task[Any]) -> list[type[BaseException | None]]:
    """What tasks end with that are told at once."""
    await asyncio.wait(tasks, timeout=1)
    return [type(task.exception()) for task in tasks]


async def waiters(pool: AsyncioPool) -> int:
    return (await pool.statistics()).tasks_waiting_acquire


def test_control_C_ends_both_sides_in_bounded_time() -> None:
    program = textwrap.dedent(f"""
        import asyncio, sys, threading
        from trio_mcp_pool import StdioServer
        from trio_mcp_pool.bridge import AsyncioPool
        async def main():
            async with AsyncioPool({{"s": StdioServer(sys.executable, ({str(ECHO)!r},))}}) as pool:
                print((await pool.call_tool("s", "pid")).content[0].text, flush=True)
                await pool.call_tool("s", "sleep", {{"seconds": 60}})
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("out", "trio_mcp_pool" in [t.name for t in threading.enumerate()], flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-2, text=True) as child:
        pid = int(child.stdout.readline())
        time.sleep(0.2)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60)[0] == "out False\n"
        assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_credentials_are_read_for_each_dial_under_trio() -> None:
    async def env() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {"WORD": "secret"}

    async def main() -> None:
        async with AsyncioPool({"s": StdioServer(sys.executable, (str(ECHO),), env=env)}) as pool:
            assert text(await pool.call_tool("s", "env", {"name": "WORD"})) == "secret"

    run(main)
