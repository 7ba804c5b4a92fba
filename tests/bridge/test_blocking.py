"""The pool in programs of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import mcp_types as types
import pytest
import trio

from trio_mcp_pool import (
    Callbacks,
    Caller,
    ConnectError,
    CustomServer,
    OutcomeUnknownError,
    PoolClosedError,
    PoolError,
    PoolPolicy,
    ServerUnavailableError,
    SessionClosed,
    StdioServer,
    UnknownServerError,
)
from trio_mcp_pool.bridge import BlockingPool, BlockingSession

from .servers import ECHO, Scene, asking, declined, stdio, text, who


def test_a_call_blocks_until_its_result_is_there() -> None:
    with BlockingPool({"s": stdio()}) as pool:
        assert text(pool.call_tool("s", "echo", {"text": "hello"})) == "hello"
        assert pool.statistics().size == 1


def test_many_threads_call_at_once_through_one_session() -> None:
    with BlockingPool({"s": stdio()}) as pool, ThreadPoolExecutor(30) as threads:
        pool.wait_ready("s")
        began = time.monotonic()
        naps = [threads.submit(pool.call_tool, "s", "sleep", {"seconds": 0.3}) for _ in range(30)]
        assert [text(nap.result()) for nap in naps] == ["slept"] * 30
        assert time.monotonic() - began < 8
        assert pool.statistics().connects == 1


def test_every_verb_has_the_pools_result_and_errors() -> None:
    scene = Scene()
    with BlockingPool({"s": scene.server}) as pool:
        assert pool.list_tools("s").tools[0].name == "echo"
        assert pool.read_resource("s", "memo://hello").contents[0].text == "hello"
        assert pool.get_prompt("s", "greet").messages[0].content.text == "hello"
        pool.add_server("t", scene.server)
        with pytest.raises(ValueError, match="t"):
            pool.add_server("t", scene.server)
        pool.drain("t")
        pool.remove_server("t")
        with pytest.raises(UnknownServerError, match="t"):
            pool.call_tool("t", "echo", {"text": "x"})
        with pytest.raises(TypeError):
            pool.call_tool("s", "echo", {"text": "x"}, no_such_argument=1)
        pool.reconfigure({"u": scene.server})
        pool.wait_ready()
        sizes = {name: server.size for name, server in pool.statistics().servers.items()}
        assert sizes == {"u": 1, "s": 0, "t": 0}


def test_a_session_is_leased_for_a_with_block_and_tells_what_it_is() -> None:
    scene = Scene()
    with BlockingPool({"s": scene.server}) as pool:
        with pool.session("s", scope="a") as session:
            assert isinstance(session, BlockingSession)
            assert (session.server, session.server_info.name) == ("s", "scene")
            assert text(session.call_tool("echo", {"text": "x"})) == "x"
            assert pool.statistics().leases_in_flight == 1
        assert pool.statistics().leases_in_flight == 0
        with pytest.raises(trio.ClosedResourceError, match="released"):
            session.call_tool("echo", {"text": "x"})


def test_a_lease_may_be_left_in_another_thread_and_out_of_order() -> None:
    """As a web framework does with a dependency that yields."""
    scene = Scene()
    with BlockingPool({"s": scene.server}) as pool:
        first, second = pool.session("s"), pool.session("s")
        first.__enter__()
        second.__enter__()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(first.__exit__, None, None, None).result()
        assert pool.statistics().leases_in_flight == 1
        second.__exit__(None, None, None)
        assert pool.statistics().leases_in_flight == 0


def test_a_block_is_entered_once() -> None:
    with BlockingPool({"s": Scene().server}) as pool:
        block = pool.session("s")
        with block, pytest.raises(RuntimeError, match="entered already"):
            block.__enter__()


def test_a_handle_of_acquire_is_given_back_by_release() -> None:
    with BlockingPool({"s": Scene().server}) as pool:
        session = pool.acquire("s")
        with pytest.raises(trio.WouldBlock):
            pool.acquire_nowait("s", scope="cold")
        again = pool.acquire_nowait("s")
        session.release()
        session.release()
        again.release()
        assert pool.statistics().leases_in_flight == 0


def test_a_task_that_has_taken_a_handle_never_waits_for_itself_on_behalf_of_another_thread() -> None:
    """R4 refuses a wait that can never end, and knows the waiter by its Trio task: so no task may serve two callers."""
    scene = Scene(PoolPolicy(max_in_flight=1))
    with BlockingPool({"s": scene.server}) as pool, ThreadPoolExecutor(1) as thread:
        session = pool.acquire("s")
        waiting = thread.submit(pool.call_tool, "s", "echo", {"text": "x"})
        while not pool.statistics().tasks_waiting_acquire:
            time.sleep(0.001)
        session.release()
        assert text(waiting.result()) == "x"


def test_a_scope_has_sessions_of_its_own_which_close_with_it() -> None:
    closed: list[SessionClosed] = []

    class Watch:
        def event(self, e: object) -> None:
            if isinstance(e, SessionClosed):
                closed.append(e)

    with BlockingPool({"s": stdio()}, observers=[Watch()]) as pool:
        outside = text(pool.call_tool("s", "pid"))
        with pool.open_scope("mine", servers={"t": stdio()}) as scope:
            assert scope.key == "mine"
            inside = text(scope.call_tool("s", "pid"))
            with scope.session("s") as session:
                assert text(session.call_tool("pid")) == inside
            assert len({outside, inside, text(scope.call_tool("t", "pid"))}) == 3
            with pytest.raises(ValueError, match="mine"):
                pool.open_scope("mine").__enter__()
        assert [e.scope for e in closed] == ["mine", "mine"]


def test_progress_is_told_to_a_plain_function_in_the_waiting_thread_and_to_an_async_one_under_trio() -> None:
    seen: list[tuple[object, ...]] = []

    def here(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message, threading.current_thread() is threading.main_thread()))

    async def there(progress: float, total: float | None, message: str | None) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((progress, threading.current_thread().name))

    with BlockingPool({"s": stdio()}) as pool:
        pool.call_tool("s", "progress", {"steps": 2}, progress_callback=here)
        assert seen == [(1, 2, "0", True), (2, 2, "1", True)]
        with pool.session("s") as session:
            session.call_tool("progress", {"steps": 1}, progress_callback=there)
        assert seen[2:] == [(1, "trio_mcp_pool")]


def test_a_calls_own_plain_functions_are_called_in_the_waiting_thread() -> None:
    seen: list[object] = []

    def name(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
        seen.append((caller.tool, threading.current_thread() is threading.main_thread()))
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    def report(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
        seen.append((caller.tool, progress, threading.current_thread() is threading.main_thread()))

    with BlockingPool({"s": asking()}, callbacks=Callbacks(elicit=declined)) as pool:
        assert "Ada" in text(pool.call_tool("s", "elicit", on_elicit=name))
        assert "decline" in text(pool.call_tool("s", "elicit", on_elicit=declined))
        pool.call_tool("s", "progress", {"to": 1}, on_progress=report)
    assert seen == [("elicit", True), ("progress", 1, True)]


def test_context_variables_reach_the_call_and_an_idle_worker_keeps_none() -> None:
    with BlockingPool({"s": Scene().server}) as pool:
        token = who.set("the caller")
        assert text(pool.call_tool("s", "caller")) == "the caller"
        who.reset(token)
        assert text(pool.call_tool("s", "caller")) == "nobody"


def test_R1_owners_run_in_the_context_of_whoever_opened_the_pool() -> None:
    seen: list[str] = []

    def env() -> dict[str, str]:
        seen.append(who.get())
        return {}

    token = who.set("the opener")
    pool = BlockingPool({"s": stdio().__class__(sys.executable, (str(ECHO),), env=env)})
    with pool:
        who.set("the caller")
        pool.wait_ready("s")
    who.reset(token)
    assert seen == ["the opener"]


def test_change_events_are_a_for_loop_in_a_with_block() -> None:
    scene = Scene()
    with BlockingPool({"s": scene.server}) as pool, ThreadPoolExecutor(1) as threads:
        with pool.session("s") as session, session.listen(tools_list_changed=True) as events:
            assert events.honored.tools_list_changed
            heard = threads.submit(next, iter(events))
            pool.call_tool("s", "grow")
            assert type(heard.result(10)).__name__ == "ToolsListChanged"


def test_servers_shared_scopes_and_change_events_without_a_lease() -> None:
    scene = Scene()
    with BlockingPool({"s": scene.server}, max_sessions_total=3) as pool, ThreadPoolExecutor(1) as threads:
        assert pool.servers == {"s": scene.server}
        with pool.listen("s", tools_list_changed=True) as events:
            heard = threads.submit(next, iter(events))
            pool.call_tool("s", "grow")
            assert type(heard.result(10)).__name__ == "ToolsListChanged"
        pool.call_tool("s", "echo", {"text": "x"}, scope="mine")
        assert pool.statistics().size == 2
        pool.close_scope("mine")
        assert pool.statistics().size == 1
        with pool.open_scope("other", servers={"t": scene.server}) as scope:
            assert scope.servers == {"s": scene.server, "t": scene.server}
            with pytest.raises(ValueError, match="other"):
                pool.close_scope("other")


def test_R5_a_server_that_dies_before_it_answers_fails_fast_during_the_backoff() -> None:
    dead = StdioServer(sys.executable, ("-c", "raise SystemExit(7)"))
    with BlockingPool({"dead": dead}) as pool:
        with pytest.raises(ConnectError) as dialled:
            pool.call_tool("dead", "echo", {"text": "x"})
        assert (dialled.value.outcome, dialled.value.exit_status) == ("not run", 7)
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError, match="in backoff for another") as refused:
            pool.call_tool("dead", "echo", {"text": "x"})
        assert time.monotonic() - began < 20
        assert refused.value.outcome == "not run"
        assert refused.value.retry_after > 0


def test_a_bad_argument_is_refused_before_a_thread_starts() -> None:
    with pytest.raises(TypeError, match="no_such"):
        BlockingPool({}, no_such=1)
    assert not any(thread.name == "trio_mcp_pool" for thread in threading.enumerate())


def test_what_open_pool_refuses_comes_out_bare_when_entering() -> None:
    with pytest.raises((TypeError, ValueError), match="max_connecting"):
        BlockingPool({}, max_connecting=0).__enter__()


def test_a_pool_is_entered_once_and_used_inside_its_block() -> None:
    pool = BlockingPool({"s": Scene().server})
    assert repr(pool) == "<BlockingPool: not open>"
    with pytest.raises(RuntimeError, match="inside its 'with' block"):
        pool.statistics()
    with pool, pytest.raises(RuntimeError, match="entered already"):
        pool.__enter__()
    with pytest.raises(PoolClosedError):
        pool.statistics()


# The order of leaving, R2.


def test_R2_the_body_leaves_first_and_others_calls_have_time() -> None:
    scene = Scene()
    with ThreadPoolExecutor(1) as threads:
        with BlockingPool({"s": scene.server}) as pool:
            call = threads.submit(pool.call_tool, "s", "wait")
            assert scene.started.wait(10)
            threading.Timer(0.2, scene.open.set).start()
        assert text(call.result(5)) == "waited"


def test_R2_a_body_that_raises_gives_nobody_time_and_its_error_comes_out_bare() -> None:
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        with pytest.raises(KeyError, match="mine"), BlockingPool({"s": stdio()}) as pool:
            pool.wait_ready("s")
            call = threads.submit(pool.call_tool, "s", "sleep", {"seconds": 60})
            while not pool.statistics().leases_in_flight:
                time.sleep(0.001)
            time.sleep(0.1)
            raise KeyError("mine")
        assert time.monotonic() - began < 20
        with pytest.raises(OutcomeUnknownError):
            call.result()


def test_R2_handles_that_only_the_body_has_used_end_with_it_at_once() -> None:
    began = time.monotonic()
    with BlockingPool({"s": Scene().server}) as pool:
        pool.acquire("s").call_tool("echo", {"text": "x"})
        pool.session("s").__enter__()
    assert time.monotonic() - began < 8


def test_R2_a_handle_that_another_thread_has_used_has_time() -> None:
    policy = PoolPolicy(drain_timeout=0.6)
    with BlockingPool({"s": Scene().server}, policy=policy) as pool, ThreadPoolExecutor(1) as threads:
        session = pool.acquire("s")
        threads.submit(session.call_tool, "echo", {"text": "x"}).result()
        began = time.monotonic()
    assert 0.5 < time.monotonic() - began < 8


def test_R2_after_the_pool_is_closed_in_its_block_calls_say_so_and_leaving_is_quick() -> None:
    with BlockingPool({"s": Scene().server}) as pool:
        with pool.session("s"):
            pool.aclose()
        with pytest.raises(PoolClosedError):
            pool.call_tool("s", "echo", {"text": "x"})


def test_R14_an_interrupt_out_of_an_owner_comes_out_bare_when_the_block_ends() -> None:
    def factory() -> object:
        raise KeyboardInterrupt("from an owner")

    with pytest.raises(KeyboardInterrupt, match="from an owner") as caught:
        with BlockingPool({"s": CustomServer(factory)}) as pool:
            pool.call_tool("s", "echo", {"text": "x"})
    assert isinstance(caught.value.__context__, PoolError)


# What is refused.


def test_it_is_refused_inside_a_trio_run() -> None:
    async def opens() -> None:
        BlockingPool({}).__enter__()

    with pytest.raises(RuntimeError, match="use trio_mcp_pool.open_pool"):
        trio.run(opens)

    with BlockingPool({"s": Scene().server}) as pool:

        async def calls() -> None:
            pool.statistics()

        with pytest.raises(RuntimeError, match="trio.to_thread.run_sync"):
            trio.run(calls)

        async def calls_in_a_thread() -> int:
            return (await trio.to_thread.run_sync(pool.statistics)).size

        assert trio.run(calls_in_a_thread) == 0


def test_it_is_refused_in_its_own_trio_thread() -> None:
    errors: list[BaseException] = []

    class Watch:
        def event(self, e: object) -> None:
            if not errors:
                try:
                    pool.statistics()
                except RuntimeError as error:
                    errors.append(error)

    with BlockingPool({"s": Scene().server}, observers=[Watch()]) as pool:
        pool.wait_ready("s")
    assert "its own Trio thread" in str(errors[0])
    assert "open_pool" in str(errors[0])


def test_it_is_refused_in_a_forked_child_whose_leaving_hurts_nobody() -> None:
    with BlockingPool({"s": stdio()}) as pool:
        pool.wait_ready("s")
        readable, writable = os.pipe()
        with pool.session("s"):
            pid = os.fork()
            if pid == 0:
                said = b"nothing"
                try:
                    try:
                        pool.call_tool("s", "echo", {"text": "x"})
                    except RuntimeError as error:
                        said = str(error).encode()
                    pool.__exit__(None, None, None)
                finally:
                    os.write(writable, said)
                    os._exit(0)
        os.waitpid(pid, 0)
        told = os.read(readable, 10_000).decode()
        os.close(readable), os.close(writable)
        assert f"belongs to process {os.getpid()}" in told
        assert "after the fork" in told
        assert text(pool.call_tool("s", "echo", {"text": "still here"})) == "still here"


@pytest.mark.parametrize("run", [trio.run, lambda f: anyio.run(f, backend="asyncio")], ids=["trio", "asyncio"])
def test_the_error_outside_of_trio_names_the_bridge(run: Callable[..., object]) -> None:
    import trio_mcp_pool

    async def main() -> None:
        async with trio_mcp_pool.open_pool({}):
            pass

    if run is trio.run:
        run(main)
        return
    with pytest.raises(RuntimeError, match=r"trio_mcp_pool\.bridge"):
        run(main)


# The end of the Trio thread.


def test_if_the_trio_thread_ends_every_pending_call_is_told_at_once() -> None:
    scene = Scene(PoolPolicy(max_in_flight=2))
    with pytest.raises(OutcomeUnknownError) as caught, ThreadPoolExecutor(3) as threads:
        with BlockingPool({"s": scene.server}) as pool:
            running = threads.submit(pool.call_tool, "s", "wait")
            assert scene.started.wait(10)
            session = pool.session("s").__enter__()
            waiting = threads.submit(pool.acquire, "s")
            while not pool.statistics().tasks_waiting_acquire:
                time.sleep(0.001)
            began = time.monotonic()
            try:
                session.call_tool("end_of_trio")
            finally:
                assert time.monotonic() - began < 20
                with pytest.raises(OutcomeUnknownError, match="'s'"):
                    running.result(1)
                with pytest.raises(PoolClosedError):
                    waiting.result(1)
                with pytest.raises(PoolClosedError):
                    pool.statistics()
                session.release()
    assert isinstance(caught.value.__cause__, trio.TrioInternalError)
    assert (caught.value.outcome, caught.value.server) == ("unknown", "s")


def test_if_the_trio_thread_has_ended_the_block_says_why() -> None:
    scene = Scene()
    with pytest.raises(trio.TrioInternalError), BlockingPool({"s": scene.server}) as pool:
        with pool.session("s") as session, pytest.raises(OutcomeUnknownError):
            session.call_tool("end_of_trio")


# Interrupts, in a process of their own.


def run_and_interrupt(body: str, *, times: int = 1) -> tuple[float, str, int]:
    """Run a program, send it SIGINT when it says `ready`; seconds until it ended, what it said then, its status."""
    program = textwrap.dedent(f"""
        import sys, threading, time
        from trio_mcp_pool import *
        from trio_mcp_pool.bridge import BlockingPool
        server = StdioServer(sys.executable, ({str(ECHO)!r}, "--log-cancelled"))
        def say(what):
            print(what, flush=True)
    """) + textwrap.dedent(body)
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-2, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        began = time.monotonic()
        for _ in range(times):
            child.send_signal(2)
            time.sleep(0.1)
        said = child.communicate(timeout=60)[0]
        return time.monotonic() - began, said, child.returncode


def test_control_C_during_a_call_cancels_it_tells_the_server_and_ends_both_sides() -> None:
    took, said, status = run_and_interrupt("""
        import logging
        logging.basicConfig(level="DEBUG", stream=sys.stdout)
        try:
            with BlockingPool({"s": server}) as pool:
                pool.wait_ready("s")
                say("ready")
                try:
                    pool.call_tool("s", "sleep", {"seconds": 60})
                except KeyboardInterrupt:
                    say("interrupted")
                    say(pool.call_tool("s", "echo", {"text": "still works"}).content[0].text)
                    raise
        except KeyboardInterrupt:
            say(f"out, {[t.name for t in threading.enumerate()]}")
            raise SystemExit(7)
    """)
    assert "interrupted\n" in said
    assert "still works\n" in said
    assert "out" in said
    assert "trio_mcp_pool'" not in said
    assert "cancelled " in said, said
    assert (status, took < 20) == (7, True), (status, took)


def test_control_C_while_the_block_is_draining_stops_the_draining() -> None:
    took, said, status = run_and_interrupt("""
        try:
            with BlockingPool({"s": server}) as pool:
                pool.wait_ready("s")
                def call():
                    try:
                        pool.call_tool("s", "sleep", {"seconds": 60})
                    except OutcomeUnknownError:
                        say("outcome unknown")
                thread = threading.Thread(target=call)
                thread.start()
                while not pool.statistics().leases_in_flight:
                    time.sleep(0.01)
                say("ready")
        except KeyboardInterrupt:
            thread.join()
            say("out")
    """)
    assert said == "outcome unknown\nout\n"
    assert (status, took < 20) == (0, True), (status, took)


def test_a_program_that_never_leaves_its_block_still_ends_and_leaves_no_process() -> None:
    program = f"""
import sys
from trio_mcp_pool import *
from trio_mcp_pool.bridge import BlockingPool
pool = BlockingPool({{"s": StdioServer(sys.executable, ({str(ECHO)!r},))}}).__enter__()
print(pool.call_tool("s", "pid").content[0].text)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
