"""R8 and R17: a step happens whole or not at all, whatever interrupts, observes or outlives it."""

from __future__ import annotations

import gc
import linecache
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from types import FrameType
from typing import Any

import mcp
import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    AcquireFailed,
    Backoff,
    ConnectError,
    CustomServer,
    DialFailed,
    Event,
    InProcessServer,
    LeaseEnded,
    LeaseStarted,
    OutcomeUnknownError,
    Pool,
    PoolClosedError,
    PoolPolicy,
    ServerUnavailableError,
    Session,
    SessionLostError,
    SessionOpened,
    UnknownServerError,
    WaitStarted,
    open_pool,
)
from trio_mcp_pool._wire._link import Link, current_call
from trio_mcp_pool.testing import ScriptedServer, error
from trio_mcp_pool.testing._peer import Peer
from trio_mcp_pool.testing._transport import ScriptedTransport

from ._audit import Auditor, on_virtual_time
from .books import Ledger, check_books, settle, text, watched_pool

EXCLUSIVE = PoolPolicy(max_in_flight=1)


# KeyboardInterrupt between any two lines.


BLOCKS = ("try:", "finally:", "with ", "async with ", "except ", "else:")
"""Lines that Python does not look for signals at: between the end of a block and its `__exit__` nothing can strike."""


class Interrupter:
    """Raises `KeyboardInterrupt` at the n-th line of this task that control-C may strike, in the library or in `contextlib`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.task = trio.lowlevel.current_task()
        self.seen = 0
        self.struck: str | None = None

    def __enter__(self) -> Interrupter:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not _is_ours(frame):
            return None
        if linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith(BLOCKS):
            return self._trace
        if (
            event == "line"
            and self.struck is None
            and trio.lowlevel.current_task() is self.task
            and not trio._core._ki.ki_protection_enabled(frame)
        ):
            self.seen += 1
            if self.seen == self.at:
                self.struck = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._trace


def _is_ours(frame: FrameType) -> bool:
    """Whether it is a frame of the library, or of `contextlib` on its behalf: what happens in the SDK's own is its affair."""
    name = frame.f_code.co_filename
    if name.endswith("/contextlib.py") and frame.f_back is not None:
        return _is_ours(frame.f_back)
    return "/trio_mcp_pool/" in name and "/testing/" not in name


async def interrupted(at: int, change: Callable[[], Awaitable[None]]) -> str | None:
    """Run `change` with an interrupt at the given line; returns where it struck, `None` if there are fewer lines."""
    interrupter = Interrupter(at)
    with interrupter:
        try:
            await change()
        except KeyboardInterrupt:
            assert interrupter.struck is not None
    return interrupter.struck


def at_each_line(trial: Callable[[int], Awaitable[str | None]]) -> list[str]:
    """Try it with the interrupt at the first line, the second, and so on, each time on a new clock. Returns the places."""
    places: list[str] = []
    for at in range(1, 500):
        struck = on_virtual_time(partial(trial, at))
        if struck is None:
            return places
        places.append(struck)
    raise AssertionError("it does not end")


@asynccontextmanager
async def audited(servers: dict[str, Any], **options: Any) -> AsyncIterator[Pool]:
    """A pool whose books are audited after each event, and that must close within a minute of the virtual clock."""
    auditor = Auditor()
    with trio.fail_after(100):
        async with open_pool(servers, observers=[auditor], **options) as pool:
            auditor.pool = pool
            yield pool
        auditor.check_closed()
        assert auditor.faults == []


def test_R17_an_interrupt_at_any_line_of_remove_server_leaves_the_server_in_or_takes_it_out() -> None:
    async def trial(at: int) -> str | None:
        server = ScriptedServer()
        async with audited({"s": server}) as pool:
            await pool.call_tool("s", "echo", {"text": "x"})
            struck = await interrupted(at, partial(pool.remove_server, "s"))
            if "s" in pool.servers:
                await pool.call_tool("s", "echo", {"text": "x"})
                await pool.remove_server("s")
            with pytest.raises(UnknownServerError):
                await pool.call_tool("s", "echo", {"text": "x"})
            pool.add_server("s", server)
            await pool.call_tool("s", "echo", {"text": "x"})
        assert server.open_connections == 0
        return struck

    assert at_each_line(trial) != []


def test_R17_an_interrupt_at_any_line_of_reconfigure_applies_all_of_it_or_nothing() -> None:
    async def trial(at: int) -> str | None:
        old, new, other = ScriptedServer(), ScriptedServer(), ScriptedServer()
        async with audited({"s": old, "other": other}) as pool:
            await pool.call_tool("s", "echo", {"text": "x"})
            wanted = {"s": new, "another": other}
            struck = await interrupted(at, partial(pool.reconfigure, wanted))
            assert dict(pool.servers) in ({"s": old, "other": other}, wanted)
            await pool.reconfigure(wanted)  # to try again brings it about
            await trio.sleep(1)
            await pool.call_tool("s", "echo", {"text": "x"})
            assert len(new.calls) == 1
            assert old.open_connections == 0
            assert dict(pool.servers) == wanted
        return struck

    assert at_each_line(trial) != []


def test_R17_an_interrupt_at_any_line_of_entering_and_leaving_a_scope_leaves_its_key_free() -> None:
    async def trial(at: int) -> str | None:
        server, own = ScriptedServer(), ScriptedServer()
        async with audited({"s": server}) as pool:

            async def use() -> None:
                async with pool.open_scope("mine", servers={"own": own}) as scope:
                    for name in ("s", "own"):
                        (await scope.acquire(name)).release()

            struck = await interrupted(at, use)
            await trio.sleep(1)
            assert (server.open_connections, own.open_connections) == (0, 0)
            await use()
            await settle()
            assert check_books(pool).size == 0
        return struck

    assert len(at_each_line(trial)) > 5


def test_R17_an_interrupt_at_any_line_of_a_lease_leaves_no_session_without_an_owner() -> None:
    async def trial(at: int) -> str | None:
        server = ScriptedServer()
        async with audited({"s": server}, policy=EXCLUSIVE) as pool:

            async def use() -> None:
                async with pool.session("s") as session:
                    await session.call_tool("echo", {"text": "x"})
                await pool.call_tool("s", "echo", {"text": "x"})

            struck = await interrupted(at, use)
            await settle()
            with trio.fail_after(20):
                await pool.call_tool("s", "echo", {"text": "x"})
            assert check_books(pool).leases_in_flight == 0
        return struck

    assert len(at_each_line(trial)) > 5


def test_R17_an_interrupt_at_any_line_of_drain_and_close_scope_tears_nothing() -> None:
    async def trial(at: int) -> str | None:
        server = ScriptedServer()
        async with audited({"s": server}) as pool:
            await pool.call_tool("s", "echo", {"text": "x"})
            await pool.call_tool("s", "echo", {"text": "x"}, scope="shared")

            async def change() -> None:
                await pool.drain("s")
                await pool.close_scope("shared")

            struck = await interrupted(at, change)
            await trio.sleep(1)
            await pool.call_tool("s", "echo", {"text": "x"}, scope="shared")
            await pool.call_tool("s", "echo", {"text": "x"})
        return struck

    assert at_each_line(trial) != []


@pytest.mark.parametrize("event", [SessionOpened, LeaseStarted, LeaseEnded])
def test_R17_a_real_SIGINT_in_the_middle_of_a_step_waits_for_its_end(event: type[Event]) -> None:
    """An observer sends it, so it comes while the pool is at work; it surfaces in the body, and nothing is torn."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        pytest.skip("SIGINT is ignored here, as under nohup")
    auditor = Auditor()
    sent: list[Event] = []

    class Sender:
        def event(self, e: Event) -> None:
            if isinstance(e, event) and not sent:
                sent.append(e)
                signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        try:
            async with open_pool({"s": ScriptedServer()}, observers=[auditor, Sender()]) as pool:
                auditor.pool = pool
                for _ in range(3):
                    async with pool.session("s") as session:
                        await session.call_tool("echo", {"text": "x"})
                await trio.sleep(1)
        finally:
            auditor.check_closed()

    with pytest.raises(KeyboardInterrupt):
        on_virtual_time(main)
    assert auditor.faults == []


# Observers.


class Calling:
    """An observer that does something at the first event of a kind, and writes down what it is told."""

    def __init__(self, kind: type[Event] | None = None, do: Callable[[], object] = lambda: None) -> None:
        self.kind = kind
        self.do = do
        self.told: list[Event] = []
        self.tasks: list[str] = []

    def event(self, e: Event) -> None:
        self.told.append(e)
        self.tasks.append(trio.lowlevel.current_task().name)
        if self.kind is not None and isinstance(e, self.kind):
            self.kind = None
            self.do()

    def kinds(self) -> list[str]:
        return [type(e).__name__ for e in self.told]


async def test_R17_an_observer_that_releases_a_session_in_WaitStarted_serves_the_waiter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    held: list[Session] = []
    observer = Calling(WaitStarted, lambda: held.pop().release())
    async with open_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, observers=[observer]) as pool:
        await pool.wait_ready("s")
        held.append(await pool.acquire("s"))
        with trio.fail_after(1):
            async with pool.session("s") as session:
                assert text(await session.call_tool("echo", {"text": "x"})) == "x"
        assert check_books(pool).tasks_waiting_acquire == 0


async def test_R17_a_waiter_that_is_served_before_it_parks_may_be_cancelled_in_the_same_tick(
    autojump_clock: trio.testing.MockClock,
) -> None:
    held: list[Session] = []
    scope = trio.CancelScope()

    def release() -> None:
        held.pop().release()
        scope.cancel()

    observer = Calling(WaitStarted, release)
    async with open_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, observers=[observer]) as pool:
        await pool.wait_ready("s")
        held.append(await pool.acquire("s"))
        with scope:
            async with pool.session("s"):
                pass
        await settle()
        assert check_books(pool).leases_in_flight == 0
        pool.acquire_nowait("s").release()


async def test_R17_nested_events_reach_every_observer_cause_before_effect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    taken: list[Session] = []
    first = Calling(SessionOpened, lambda: taken.append(pool.acquire_nowait("s")))
    second = Calling()
    third = Calling(LeaseStarted, lambda: taken.pop().release())
    async with open_pool({"s": ScriptedServer()}, observers=[first, second, third]) as pool:
        await pool.wait_ready("s")
        await settle()
    assert first.kinds() == second.kinds() == third.kinds()
    assert second.kinds() == [
        "DialStarted",
        "SessionOpened",
        "LeaseStarted",
        "LeaseEnded",
        "SessionClosed",
        "PoolClosed",
    ]


class Stop(BaseException):
    """Neither an `Exception` nor an interrupt."""


def foreign_cancelled() -> BaseException:
    return trio.Cancelled._create(source="unknown")  # type: ignore[call-arg]


@pytest.mark.parametrize("failure", [ZeroDivisionError, Stop, GeneratorExit, foreign_cancelled])
@pytest.mark.parametrize("kind", [SessionOpened, LeaseStarted, LeaseEnded, WaitStarted, AcquireFailed])
async def test_R17_what_an_observer_raises_is_logged_and_harms_nobody(
    kind: type[Event],
    failure: Callable[[], BaseException],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise failure()

    faulty, ledger = Calling(kind, fail), Ledger()
    server = ScriptedServer()
    async with open_pool({"s": server}, policy=EXCLUSIVE, observers=[faulty, ledger]) as pool:
        ledger.pool = pool
        async with pool.session("s") as session, trio.open_nursery() as nursery:

            async def impatient() -> None:
                with trio.move_on_after(1):
                    await pool.acquire("s")

            nursery.start_soon(impatient)
            await trio.sleep(2)
            assert text(await session.call_tool("echo", {"text": "x"})) == "x"
        await pool.call_tool("s", "echo", {"text": "x"})
        stats = check_books(pool)
        assert (stats.size, stats.sessions_lost, stats.leases_in_flight) == (1, 0, 0)
    ledger.verify()
    assert [(record.levelname, record.name) for record in caplog.records] == [("ERROR", "trio_mcp_pool")]
    assert f"an observer of type Calling raised for {kind.__name__}" in caplog.text


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", [SessionOpened, LeaseEnded, AcquireFailed])
async def test_R14_R17_an_interrupt_out_of_an_observer_comes_out_of_the_block_bare(
    kind: type[Event], interrupt: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    def fail() -> None:
        raise interrupt("from an observer")

    faulty, auditor = Calling(kind, fail), Auditor()
    with pytest.raises(interrupt, match="from an observer"):
        async with open_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, observers=[faulty, auditor]) as pool:
            auditor.pool = pool
            async with pool.session("s"):
                with trio.move_on_after(1):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(pool.acquire, "s")
            await trio.sleep(1)
    auditor.check_closed()
    assert auditor.faults == []


class InTheCallersTask(Calling):
    """An observer that is also called in the tasks of callers, and fails there."""

    def __init__(self, method: str, failure: Callable[[], BaseException]) -> None:
        super().__init__()
        self.method = method
        self.failure = failure

    def waited(self, server: str, seconds: float, error: BaseException | None) -> None:
        if self.method == "waited":
            raise self.failure()

    def called(self, *call: object) -> None:
        if self.method == "called":
            raise self.failure()


@pytest.mark.parametrize("failure", [ZeroDivisionError, Stop, GeneratorExit, foreign_cancelled])
@pytest.mark.parametrize("method", ["waited", "called"])
async def test_R3_R17_what_an_observer_raises_in_the_task_of_a_caller_costs_neither_session_nor_answer(
    method: str,
    failure: Callable[[], BaseException],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_pool({"s": ScriptedServer()}, observers=[InTheCallersTask(method, failure)]) as pool:
        assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
        assert check_books(pool).leases_in_flight == 0
    assert [(record.levelname, record.name) for record in caplog.records] == [("ERROR", "trio_mcp_pool")]
    assert "an observer of type InTheCallersTask raised in the task of a caller" in caplog.text


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["waited", "called"])
async def test_R3_R14_an_interrupt_out_of_an_observer_in_the_task_of_a_caller_comes_out_of_the_block_bare(
    method: str, interrupt: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    observer, auditor = InTheCallersTask(method, lambda: interrupt("from an observer")), Auditor()
    answers: list[str] = []
    with pytest.raises(interrupt, match="from an observer"):
        async with open_pool({"s": ScriptedServer()}, observers=[observer, auditor]) as pool:
            auditor.pool = pool
            answers.append(text(await pool.call_tool("s", "echo", {"text": "x"})))
            assert pool.statistics().leases_in_flight == 0
            await trio.sleep(1)
    assert answers == ["x"] * (method == "called")  # a caller whose pool ends while it waits gets no answer
    auditor.check_closed()
    assert auditor.faults == []


@asynccontextmanager
async def refused_when_removed(pool: Pool, count: int) -> AsyncIterator[trio.Nursery]:
    """So many callers who wait for the exclusive session of `s`; the step that removes the server refuses all of them."""
    held = await pool.acquire("s")
    async with trio.open_nursery() as nursery:

        async def waiter() -> None:
            with pytest.raises(UnknownServerError):
                await pool.acquire("s")

        for _ in range(count):
            nursery.start_soon(waiter)
        await settle()
        yield nursery
        held.release()


async def test_R17_up_to_a_hundred_events_are_told_inline_and_the_rest_by_a_task_of_the_pool_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    observer = Calling()
    async with (
        open_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, observers=[observer]) as pool,
        refused_when_removed(pool, 350) as nursery,
    ):
        before = len(observer.told)

        async def remove() -> None:
            await pool.remove_server("s")

        nursery.start_soon(remove, name="the remover")
        await trio.sleep(1)
    tasks = observer.tasks[before:]
    assert observer.kinds()[before : before + 350] == ["AcquireFailed"] * 350
    assert tasks[:100] == ["the remover"] * 100
    assert set(tasks[100:350]) == {"delivery of events"}
    assert observer.kinds()[-1] == "PoolClosed"


async def test_R17_while_a_task_tells_the_rest_later_events_wait_for_their_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    observer = Calling()
    servers = {"s": ScriptedServer(), "t": ScriptedServer()}
    async with (
        open_pool(servers, policy=EXCLUSIVE, observers=[observer]) as pool,
        refused_when_removed(pool, 350) as nursery,
    ):
        other = await pool.acquire("t")
        before = len(observer.told)
        nursery.start_soon(pool.remove_server, "s")
        for _ in range(2):  # the task that tells the rest has been started, and yields first
            await trio.lowlevel.checkpoint()
        told = [len(observer.told) - before]
        other.release()
        told.append(len(observer.told) - before)
        await settle()
    assert told == [100, 100]
    assert observer.kinds()[before:].index("LeaseEnded") == 350


async def test_R17_the_task_that_tells_the_rest_lets_others_run(autojump_clock: trio.testing.MockClock) -> None:
    observer = Calling()
    async with (
        open_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, observers=[observer]) as pool,
        refused_when_removed(pool, 1000) as nursery,
    ):
        told = [len(observer.told)]
        nursery.start_soon(pool.remove_server, "s")
        for _ in range(30):
            await trio.lowlevel.checkpoint()
            told.append(len(observer.told))
        assert max(after - before for before, after in pairwise(told)) <= 200


# Other threads.


@pytest.mark.parametrize("how", ["acquire", "acquire_nowait", "session block"])
async def test_R17_release_in_a_worker_thread_changes_nothing_and_says_what_to_do(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE) as pool, trio.open_nursery() as nursery:
        await pool.wait_ready("s")
        block = pool.session("s")
        if how == "session block":
            session = await block.__aenter__()
        else:
            session = await pool.acquire("s") if how == "acquire" else pool.acquire_nowait("s")
        served: list[str] = []

        async def waiter() -> None:
            served.append(text(await pool.call_tool("s", "echo", {"text": "x"})))

        nursery.start_soon(waiter)
        await settle()
        with pytest.raises(RuntimeError, match=r"trio.from_thread.run_sync\(session.release\)"):
            await trio.to_thread.run_sync(session.release)
        assert check_books(pool).leases_in_flight == 1
        await session.list_tools()
        assert served == []
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(session.release))
        await settle()
        assert served == ["x"]
        await block.__aexit__(None, None, None)


# Identity.


async def test_R8_a_stale_handles_late_failure_does_not_hide_the_loss_of_its_successor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool, pool.open_scope("mine") as scope:
        stale = await scope.acquire("s")
        await stale.list_tools()
        server.kill()
        await settle()
        with pytest.raises(SessionLostError, match="the session that this scope had"):
            await scope.acquire("s")
        second = await scope.acquire("s")
        await second.list_tools()
        server.kill()
        await settle()
        with pytest.raises(SessionLostError):
            await stale.call_tool("echo", {"text": "x"})
        with pytest.raises(SessionLostError, match="the session that this scope had"):
            await scope.acquire("s")
        async with scope.session("s") as third:
            await third.list_tools()
        assert len(server.connections) == 3
        stale.release()
        second.release()


async def test_R8_whoever_learns_of_a_loss_by_a_failed_call_is_not_told_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool, pool.open_scope("mine") as scope:
        session = await scope.acquire("s")
        await session.list_tools()
        server.kill()
        await settle()
        with pytest.raises(SessionLostError):
            await session.call_tool("echo", {"text": "x"})
        session.release()
        await scope.call_tool("s", "echo", {"text": "x"})


async def test_R8_a_released_stale_handle_ends_no_lease_of_the_successor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}, policy=EXCLUSIVE) as pool:
        stale = await pool.acquire("s")
        await stale.list_tools()
        server.kill()
        await settle()
        async with pool.session("s"):
            stale.release()
            with pytest.raises(trio.WouldBlock):
                pool.acquire_nowait("s")


# A pool in a handler of another.


async def test_R8_a_pool_that_is_opened_inside_a_call_of_another_knows_nothing_of_that_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In process the tool runs in its caller's task: the inner dial must not take the outer call for its own."""
    seen: list[Any] = []
    inner_server = ScriptedServer()

    @asynccontextmanager
    async def factory() -> AsyncIterator[mcp.Client]:
        seen.append(current_call.get())
        async with inner_server._connect(Link("inner")) as client:
            yield client

    outer_server = mcp.server.MCPServer("outer")

    @outer_server.tool()
    async def nested() -> str:
        async with open_pool({"inner": CustomServer(factory)}) as inner:
            return text(await inner.call_tool("inner", "echo", {"text": "from within"}))

    @outer_server.tool()
    async def refused() -> str:
        gates = {"handshake": error(mcp.MCPError(code=-32000, message="inner refusal"))}
        async with open_pool({"inner": ScriptedServer(gates=gates)}) as inner:
            with pytest.raises(ConnectError):
                await inner.wait_ready("inner")
            return "the inner pool alone was refused"

    async with watched_pool({"outer": InProcessServer(outer_server)}) as pool:
        assert text(await pool.call_tool("outer", "nested", {})) == "from within"
        assert seen == [None]
        assert text(await pool.call_tool("outer", "refused", {})) == "the inner pool alone was refused"


async def test_R4_a_call_that_goes_through_a_nested_pool_back_to_its_own_exclusive_server_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outer_server = mcp.server.MCPServer("outer")
    told: list[str] = []

    @outer_server.tool()
    async def nested() -> str:
        with pytest.raises(RuntimeError, match="wait for itself") as caught:
            await pool.call_tool("outer", "nested", {})
        told.append(str(caught.value))
        return "told"

    async with watched_pool({"outer": InProcessServer(outer_server)}, policy=EXCLUSIVE) as pool:
        with trio.fail_after(1):
            assert text(await pool.call_tool("outer", "nested", {})) == "told"
        assert len(told) == 1


# Counts.


def failing_dial(door: trio.Event) -> CustomServer:
    @asynccontextmanager
    async def factory() -> AsyncIterator[mcp.Client]:
        await door.wait()
        raise ConnectionRefusedError
        yield

    return CustomServer(factory)


@pytest.mark.parametrize("order", ["cancelled, then failed", "failed, then cancelled"])
async def test_R10_a_waiter_cancelled_in_the_tick_its_dial_fails_stays_in_the_counts(
    order: str, autojump_clock: trio.testing.MockClock
) -> None:
    """In a scope, whose lane is forgotten in the same step."""
    door = trio.Event()
    scope = trio.CancelScope()
    observer = Calling(DialFailed, scope.cancel if order == "failed, then cancelled" else lambda: None)
    ledger = Ledger()
    async with open_pool({"s": failing_dial(door)}, observers=[observer, ledger]) as pool:
        ledger.pool = pool

        async def caller() -> None:
            with scope:
                try:
                    await pool.acquire("s", scope="x")
                except ConnectError:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await settle()
            door.set()
            if order == "cancelled, then failed":
                scope.cancel()
        await settle()
        stats = check_books(pool)
        assert (stats.tasks_waiting_acquire, stats.acquires_cancelled + stats.acquires_rejected) == (0, 1)
        assert stats.acquires_cancelled == (order == "cancelled, then failed")
        assert stats.connects_failed == 1
    ledger.verify()


async def test_R15_failing_fast_leaves_no_cycles_for_the_garbage_collector(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    policy = PoolPolicy(backoff=Backoff(first=1000, cap=1000))
    async with open_pool({"s": server}, policy=policy) as pool:

        async def fail(times: int) -> int:
            gc.collect()
            for _ in range(times):
                try:
                    await pool.call_tool("s", "echo", {"text": "x"})
                except ServerUnavailableError:
                    pass
                try:
                    pool.acquire_nowait("s")
                except (ServerUnavailableError, trio.WouldBlock):
                    pass
                try:
                    await pool.wait_ready("s")
                except ServerUnavailableError:
                    pass
            return gc.collect()

        with pytest.raises(ConnectError):
            await pool.call_tool("s", "echo", {"text": "x"})
        gc.disable()
        try:
            await fail(10)
            few, many = await fail(1), await fail(101)
        finally:
            gc.enable()
        # The nursery of `wait_ready` is Trio's own affair.
        assert many - few <= 100 * 12


async def test_R15_a_rejected_call_leaves_no_cycles_for_the_garbage_collector(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    policy = PoolPolicy(backoff=Backoff(first=1000, cap=1000))
    async with open_pool({"s": server}, policy=policy) as pool:
        with pytest.raises(ConnectError):
            await pool.call_tool("s", "echo", {"text": "x"})

        async def fail(times: int) -> int:
            gc.collect()
            for _ in range(times):
                try:
                    await pool.call_tool("s", "echo", {"text": "x"})
                except ServerUnavailableError:
                    pass
                try:
                    await pool.acquire("s")
                except ServerUnavailableError:
                    pass
            return gc.collect()

        gc.disable()
        try:
            await fail(10)
            few, many = await fail(1), await fail(101)
        finally:
            gc.enable()
        assert many - few == 0


class Fickle:
    """A key whose hash changes."""

    def __init__(self) -> None:
        self.hash = 1

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("owned", [False, True])
async def test_R8_a_scopes_key_whose_hash_changes_loses_no_session(
    owned: bool, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    key = Fickle()
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        if owned:
            async with pool.open_scope(key) as scope:
                await scope.call_tool("s", "echo", {"text": "x"})
                key.hash = 2
                await scope.call_tool("s", "echo", {"text": "x"})
                assert len(server.connections) == 1
        else:
            await pool.call_tool("s", "echo", {"text": "x"}, scope=key)
            key.hash = 2
            await trio.sleep(11)
        stats = check_books(pool)
        assert (stats.size, stats.closed_idle, stats.closed_drained) == (0, not owned, owned)
        key.hash = 1
        async with pool.open_scope(key):  # it is free again
            pass
    assert server.open_connections == 0


# A transport that fails without a word.


class FailingWriter:
    """The writing side of a transport, which raises an `OSError` once it is broken."""

    def __init__(self, inner: Any, broken: Callable[[], bool]) -> None:
        self._inner = inner
        self._broken = broken

    async def send(self, item: Any, /) -> None:
        if self._broken():
            await trio.lowlevel.checkpoint()
            raise OSError("the cable is cut")
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> FailingWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.__aexit__(None, None, None)


class Cable:
    """A transport to a scripted server that breaks when it is told to."""

    def __init__(self, server: ScriptedServer) -> None:
        peer = Peer(server, len(server._peers) + 1)
        server._peers.append(peer)
        self._inner = ScriptedTransport(peer, Link("cable"), server.gates)
        self.cut = False

    async def __aenter__(self) -> tuple[Any, Any]:
        reader, writer = await self._inner.__aenter__()
        return reader, FailingWriter(writer, lambda: self.cut)

    async def __aexit__(self, *why: Any) -> None:
        await self._inner.__aexit__(*why)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R11_an_OSError_out_of_a_custom_transports_send_is_death_and_costs_one_call(
    mode: Any, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    cables: list[Cable] = []

    def factory() -> Any:
        cables.append(Cable(server))
        return mcp.Client(cables[-1], mode=mode)

    async with watched_pool({"s": CustomServer(factory)}) as pool:
        await pool.call_tool("s", "echo", {"text": "x"})
        cables[0].cut = True
        got: list[str] = []
        for _ in range(4):
            try:
                got.append(text(await pool.call_tool("s", "echo", {"text": "x"})))
            except OutcomeUnknownError as why:
                assert isinstance(why.__cause__, OSError | mcp.MCPError)
                got.append("OutcomeUnknownError")
        assert got == ["OutcomeUnknownError", "x", "x", "x"]
        stats = check_books(pool)
        assert (stats.sessions_lost, stats.closed_broken, len(cables)) == (1, 1, 2)
        cables[1].cut = True
        await pool.list_tools("s")  # a read may be sent again


async def test_R11_an_OSError_while_the_server_still_answers_is_passed_on_and_evicts_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A tool of a server in this program may raise one of its own accord."""
    inside = mcp.server.MCPServer("inside")

    async with watched_pool({"s": CustomServer(lambda: mcp.Client(inside))}) as pool, pool.session("s") as session:

        async def fail(client: mcp.Client) -> None:
            raise OSError("no such disk")

        for _ in range(2):
            with pytest.raises(OSError, match="no such disk"):
                await session._run(fail)
        await session.list_tools()
        assert check_books(pool).sessions_lost == 0


async def test_R17_a_closed_pool_and_a_closed_scope_reject_in_one_step(autojump_clock: trio.testing.MockClock) -> None:
    async with watched_pool({"s": ScriptedServer()}) as pool:
        async with pool.open_scope("mine") as scope:
            pass
        for _ in range(2):
            with pytest.raises(PoolClosedError):
                await scope.acquire("s")
        await pool.aclose()
        with pytest.raises(PoolClosedError):
            async with pool.open_scope("mine"):
                pass
        with pytest.raises(PoolClosedError):
            pool.add_server("t", ScriptedServer())
    assert check_books(pool).acquires_cancelled == 0
