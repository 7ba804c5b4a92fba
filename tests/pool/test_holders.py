"""R2 and R4: who holds a session, and which waits are certain to have no end."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.server import Server
from mcp.shared.exceptions import MCPDeprecationWarning

from trio_mcp_pool import InProcessServer, OutcomeUnknownError, Pool, PoolPolicy, Session, SessionDied
from trio_mcp_pool.testing import ScriptedServer, ToolContext, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool

EXCLUSIVE = PoolPolicy(max_in_flight=1)


async def pause(context: ToolContext, seconds: float) -> str:
    await trio.sleep(seconds)
    return str(context.connection)


# A session may be used, and given back, by another task than the one that acquired it.


@pytest.mark.parametrize(
    "policy", [EXCLUSIVE, PoolPolicy(max_in_flight=1, max_sessions=3), PoolPolicy(max_in_flight=2)]
)
async def test_R4_a_loop_that_acquires_and_hands_sessions_to_workers_waits_for_them(
    policy: PoolPolicy, autojump_clock: trio.testing.MockClock
) -> None:
    places = policy.max_in_flight * policy.max_sessions
    async with watched_pool({"s": ScriptedServer([pause])}, policy=policy) as pool:

        async def worker(session: Session) -> None:
            try:
                await session.call_tool("pause", {"seconds": 1})
            finally:
                session.release()

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(worker, await pool.acquire("s"))
        assert trio.current_time() == 12 / places


async def test_R4_a_task_that_holds_by_block_and_by_acquire_may_wait_for_what_it_handed_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(max_in_flight=1, max_sessions=2)) as pool:
        handed = await pool.acquire("s")
        async with pool.session("s"), trio.open_nursery() as nursery:

            async def worker() -> None:
                await trio.sleep(3)
                handed.release()

            nursery.start_soon(worker)
            await pool.call_tool("s", "echo", {"text": "x"})
            assert trio.current_time() == 3


async def test_R4_a_task_whose_own_blocks_hold_all_capacity_gets_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool:
        async with pool.session("s"):
            await pool.call_tool("s", "echo", {"text": "x"})
            async with pool.session("s"):
                for wait in (pool.acquire("s"), pool.call_tool("s", "echo", {"text": "x"})):
                    with pytest.raises(
                        RuntimeError, match=r"\(2 lease\(s\)\), so it would wait for itself; release one"
                    ):
                        await wait
        await pool.call_tool("s", "echo", {"text": "x"})


async def test_R4_a_task_whose_own_session_is_being_drained_waits_until_it_is_cut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Draining ends after `drain_timeout`, so the wait does, too."""
    server = ScriptedServer(gates={"handshake": [ok, slow(10)]})
    policy = PoolPolicy(max_in_flight=1, drain_timeout=5, max_overlap=0)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        async with pool.session("s") as mine:
            await mine.list_tools()
            nursery.start_soon(pool.drain, "s")
            await settle()
            async with pool.session("s") as another:
                assert trio.current_time() == 15
                await another.list_tools()


async def test_R4_a_task_whose_own_blocks_hold_sessions_that_end_at_no_time_gets_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A lifetime that is over bounds no call, so both sessions wait for this very task."""
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, max_lifetime=10, max_overlap=0)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool, pool.session("s"):
        await trio.sleep(5)
        async with pool.session("s"):
            await trio.sleep_until(12)  # the lifetime of the first is over, that of the second is not
            with pytest.raises(RuntimeError, match=r"\(2 lease\(s\)\), so it would wait for itself"):
                await pool.acquire("s")
            await trio.sleep_until(16)  # and now that of both
            with pytest.raises(RuntimeError, match=r"\(2 lease\(s\)\), so it would wait for itself"):
                await pool.acquire("s")


async def test_R4_places_of_a_session_that_drains_are_none_to_wait_for(autojump_clock: trio.testing.MockClock) -> None:
    policy = PoolPolicy(max_in_flight=2, max_sessions=1, max_lifetime=10, max_overlap=0)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool, pool.session("s"):
        await trio.sleep(12)
        with pytest.raises(RuntimeError, match=r"\(1 lease\(s\)\), so it would wait for itself"):
            await pool.acquire("s")


async def test_R4_R9_places_of_a_successor_that_may_not_be_lent_yet_are_none_to_wait_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_in_flight=2, max_sessions=1, max_lifetime=10)
    async with watched_pool({"s": ScriptedServer()}, policy=policy) as pool, pool.session("s"):
        await trio.sleep(12)  # the successor stands beside it
        async with pool.session("s"):
            assert pool.statistics().size == 2
            with pytest.raises(RuntimeError, match=r"\(2 lease\(s\)\), so it would wait for itself"):
                await pool.acquire("s")


async def test_R4_a_custom_server_is_exempt_unless_the_blocks_are_the_tasks_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    import mcp

    from trio_mcp_pool import CustomServer

    inside = mcp.server.MCPServer("inside")
    async with watched_pool({"s": CustomServer(lambda: mcp.Client(inside))}, policy=EXCLUSIVE) as pool:
        async with pool.session("s"):
            with pytest.raises(RuntimeError, match="wait for itself"):
                await pool.acquire("s")


# aclose and workers' calls.


async def test_R2_aclose_gives_the_calls_of_workers_drain_timeout_although_the_caller_acquired_their_sessions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, drain_timeout=20)
    async with watched_pool({"s": ScriptedServer([pause])}, policy=policy) as pool:
        done: list[tuple[float, str]] = []

        async def worker(session: Session, seconds: float) -> None:
            try:
                await session.call_tool("pause", {"seconds": seconds})
                done.append((trio.current_time(), "ok"))
            except OutcomeUnknownError:
                done.append((trio.current_time(), "cut"))
            finally:
                session.release()

        async with trio.open_nursery() as nursery:
            for seconds in (5, 100):
                nursery.start_soon(worker, await pool.acquire("s"), seconds)
            await settle()
            await pool.aclose()
            assert trio.current_time() == 20
    assert done == [(5, "ok"), (20, "cut")]


async def test_R2_a_handle_that_a_worker_has_called_through_is_the_workers_to_release(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Between two calls of its worker it has time, too; one that only its taker used ends at once."""
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, drain_timeout=20)
    done: list[float] = []
    async with trio.open_nursery() as outside:
        async with watched_pool({"s": ScriptedServer([pause])}, policy=policy) as pool:
            own, handed = await pool.acquire("s"), await pool.acquire("s")
            await own.list_tools()

            async def worker(task_status: trio.TaskStatus[None]) -> None:
                await handed.list_tools()
                task_status.started()
                await trio.sleep(4)
                await handed.list_tools()
                handed.release()
                done.append(trio.current_time())

            await outside.start(worker)
    assert done == [4]
    assert trio.current_time() == 4


# Handlers: while one runs, the call that it serves cannot end.


@dataclass
class Asking:
    """A server with a tool that asks its client something, and a client that answers by calling the server again."""

    wire: str
    era: str
    question: str
    pool: Pool | None = None
    answer: Callable[[], Awaitable[Any]] | None = None
    outcomes: list[tuple[float, str]] = field(default_factory=list)

    async def _handle(self, context: Any, params: Any) -> Any:
        assert self.answer is not None
        try:
            await self.answer()
        except BaseException as why:
            self.outcomes.append((trio.current_time(), f"{type(why).__name__}: {why}"))
            if not isinstance(why, Exception):
                raise
        else:
            self.outcomes.append((trio.current_time(), "ok"))
        if self.question == "sampling":
            return types.CreateMessageResult(role="assistant", content=types.TextContent(text="well"), model="m")
        return types.ElicitResult(action="decline")

    def server(self) -> Any:
        callback = "sampling_callback" if self.question == "sampling" else "elicitation_callback"
        mode = "legacy" if self.era == "legacy" else "auto"
        if self.wire == "scripted":
            return ScriptedServer(
                {"ask": self._ask, "echo": lambda text: text},
                mode=mode,
                eras="both" if self.era == "modern" else "legacy",
                **{callback: self._handle},
            )
        inside = Server("asking", on_call_tool=self._call)
        options: dict[str, Any] = {callback: self._handle, "mode": mode}
        return InProcessServer(inside, **options)

    def _request(self) -> types.CreateMessageRequest | types.ElicitRequest:
        if self.question == "sampling":
            message = types.SamplingMessage(role="user", content=types.TextContent(text="?"))
            return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=9))
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        return types.ElicitRequest(params=types.ElicitRequestFormParams(message="?", requested_schema=schema))

    async def _ask(self, context: ToolContext) -> Any:
        if self.era == "modern":
            if "inputResponses" in context.params:
                return "answered"
            return types.InputRequiredResult(input_requests={"q": self._request()})
        request = self._request().model_dump(by_alias=True, mode="json", exclude_none=True)
        await context.request(request["method"], request["params"])
        return "answered"

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> Any:
        if params.name == "ask":
            if self.era == "modern":
                if params.input_responses is None:
                    return types.InputRequiredResult(input_requests={"q": self._request()})
            elif self.question == "sampling":
                asked = self._request()
                assert isinstance(asked, types.CreateMessageRequest)
                with pytest.warns(MCPDeprecationWarning, match="sampling"):
                    await context.session.create_message(asked.params.messages, max_tokens=9)
            else:
                await context.session.elicit_form("?", {"type": "object", "properties": {}})
        await trio.lowlevel.checkpoint()
        return types.CallToolResult(content=[types.TextContent(text="answered")])


asking = pytest.mark.parametrize(
    ("wire", "era", "question"),
    [
        (wire, era, question)
        for wire in ("scripted", "in process")
        for era in ("legacy", "modern")
        for question in ("sampling", "elicitation")
    ],
)


@asking
async def test_R4_a_handler_that_calls_its_own_exclusive_server_gets_an_error_and_does_not_hang(
    wire: str, era: str, question: str, autojump_clock: trio.testing.MockClock
) -> None:
    asker = Asking(wire, era, question)
    async with watched_pool({"s": asker.server()}, policy=EXCLUSIVE) as pool:
        asker.answer = partial(pool.call_tool, "s", "echo", {"text": "x"})
        with trio.fail_after(1):
            assert text(await pool.call_tool("s", "ask", {})) == "answered"
        ((at, told),) = asker.outcomes
        assert at == 0
        assert told.startswith("RuntimeError: this task already holds every session of server 's'")
        check_books(pool)


@asking
async def test_R4_a_handler_whose_lane_has_a_place_left_is_served(
    wire: str, era: str, question: str, autojump_clock: trio.testing.MockClock
) -> None:
    for policy in (PoolPolicy(max_in_flight=2), PoolPolicy(max_in_flight=1, max_sessions=2)):
        asker = Asking(wire, era, question)
        async with watched_pool({"s": asker.server()}, policy=policy) as pool:
            asker.answer = partial(pool.call_tool, "s", "echo", {"text": "x"})
            with trio.fail_after(1):
                await pool.call_tool("s", "ask", {})
        assert asker.outcomes == [(0, "ok")]


@asking
async def test_R4_a_handler_may_wait_for_a_place_that_somebody_else_holds(
    wire: str, era: str, question: str, autojump_clock: trio.testing.MockClock
) -> None:
    asker = Asking(wire, era, question)
    policy = PoolPolicy(max_in_flight=1, max_sessions=2)
    async with watched_pool({"s": asker.server()}, policy=policy) as pool, trio.open_nursery() as nursery:
        asker.answer = partial(pool.call_tool, "s", "echo", {"text": "x"})

        async def other() -> None:
            async with pool.session("s"):
                await trio.sleep(7)

        nursery.start_soon(other)
        await settle()
        await pool.call_tool("s", "ask", {})
        assert asker.outcomes == [(7, "ok")]


@asking
async def test_R4_a_task_that_a_handler_has_started_may_wait(
    wire: str, era: str, question: str, autojump_clock: trio.testing.MockClock
) -> None:
    """It is not the handler: the call may end while it waits."""
    asker = Asking(wire, era, question)
    async with watched_pool({"s": asker.server()}, policy=EXCLUSIVE) as pool, trio.open_nursery() as nursery:
        later: list[float] = []

        async def task() -> None:
            await pool.call_tool("s", "echo", {"text": "x"})
            later.append(trio.current_time())

        async def answer() -> None:
            nursery.start_soon(task)
            await trio.sleep(2)

        asker.answer = answer
        await pool.call_tool("s", "ask", {})
        await settle()
        assert (asker.outcomes, later) == ([(2, "ok")], [2])


@asking
async def test_R4_a_handler_that_drains_its_own_server_for_ever_gets_an_error(
    wire: str, era: str, question: str, autojump_clock: trio.testing.MockClock
) -> None:
    asker = Asking(wire, era, question)
    policy = PoolPolicy(max_in_flight=1, drain_timeout=math.inf)
    async with watched_pool({"s": asker.server()}, policy=policy) as pool:
        asker.answer = partial(pool.drain, "s")
        await pool.call_tool("s", "ask", {})  # under a deadline the wait would end, and be no fault
        ((_, told),) = asker.outcomes
        assert told.startswith("RuntimeError: drain would wait for ever")


# Waits until sessions have gone.


def waits(pool: Pool, server: Any) -> dict[str, Callable[[], Awaitable[None]]]:
    return {
        "drain": partial(pool.drain, "s"),
        "remove_server": partial(pool.remove_server, "s"),
        "reconfigure": partial(pool.reconfigure, {}),
        "close_scope": partial(pool.close_scope, "mine"),
    }


@pytest.mark.parametrize("what", ["drain", "remove_server", "reconfigure", "close_scope"])
async def test_R4_the_only_holder_that_waits_for_its_own_block_without_any_deadline_gets_an_error(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(drain_timeout=math.inf)
    scope = "mine" if what == "close_scope" else None
    async with watched_pool({"s": server}, policy=policy) as pool:
        wait = waits(pool, server)[what]
        async with pool.session("s", scope=scope) as session:
            with pytest.raises(RuntimeError, match=f"{what} would wait for ever: drain_timeout is inf"):
                await wait()
            # Nothing has been changed.
            assert list(pool.servers) == ["s"]
            await session.list_tools()
            await pool.call_tool("s", "echo", {"text": "x"}, scope=scope)
            assert len(server.connections) == 1
            with trio.move_on_after(5) as deadline:
                await wait()
            assert deadline.cancelled_caught
        assert trio.current_time() == 5
        check_books(pool)


@pytest.mark.parametrize("what", ["drain", "remove_server", "reconfigure", "close_scope"])
async def test_R4_with_a_finite_drain_timeout_the_holders_own_session_is_cut(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    scope = "mine" if what == "close_scope" else None
    async with watched_pool({"s": server}, policy=PoolPolicy(drain_timeout=5)) as pool:
        async with pool.session("s", scope=scope):
            await waits(pool, server)[what]()
            assert trio.current_time() == 5


async def test_R4_a_drain_for_ever_may_wait_for_a_handle_that_was_handed_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy(drain_timeout=math.inf)) as pool:
        handed = await pool.acquire("s")
        async with trio.open_nursery() as nursery:

            async def worker() -> None:
                await handed.list_tools()
                await trio.sleep(9)
                handed.release()

            nursery.start_soon(worker)
            await pool.drain("s")
            assert trio.current_time() == 9


# Suspect sessions.


async def test_R4_a_suspect_session_is_not_lent_while_another_is_free_or_can_be_dialled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer([pause])
    async with watched_pool({"s": server}, policy=PoolPolicy(max_sessions=2)) as pool:
        await pool.call_tool("s", "pause", {"seconds": 0})
        server.stop(1)
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 0})
        for _ in range(3):
            with trio.fail_after(0.1):
                assert text(await pool.call_tool("s", "pause", {"seconds": 0})) == "2"
        assert len(server.connections) == 2


async def test_R4_the_caller_of_a_stopped_process_shares_the_result_of_its_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With one session allowed the suspect one is lent, and probed at once."""
    server = ScriptedServer([pause])
    ledger = Ledger()
    policy = PoolPolicy(probe_timeout=10, write_timeout=math.inf)
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        await pool.call_tool("s", "pause", {"seconds": 0})
        server.stop(1)
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 0})
        # Not one byte of it was written, so it is sent again on the session that follows.
        assert text(await pool.call_tool("s", "pause", {"seconds": 0})) == "2"
        assert trio.current_time() == 11
        assert [line[0] for line in ledger.story(SessionDied)] == [11]


async def test_R4_a_suspect_session_that_answers_its_probe_is_lent_like_any_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer([pause])
    policy = PoolPolicy(max_sessions=2, probe_timeout=10, idle_timeout=math.inf)
    async with watched_pool({"s": server}, policy=policy) as pool:
        with trio.move_on_after(1):
            await pool.call_tool("s", "pause", {"seconds": 100})
        assert text(await pool.call_tool("s", "pause", {"seconds": 0})) == "2"
        await trio.sleep(11)
        held = [await pool.acquire("s") for _ in range(2)]
        assert len(server.connections) == 2
        assert sorted([text(await s.call_tool("pause", {"seconds": 0})) for s in held]) == ["1", "2"]
        for session in held:
            session.release()


# A session that nobody gives back.


async def test_R4_a_session_that_is_dropped_ends_its_lease_and_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE) as pool:
        with pytest.warns(ResourceWarning, match=r"<Session 1 of 's': ready> was never released$"):
            await pool.acquire("s")
        with trio.fail_after(1):
            session: Session | None = await pool.acquire("s")
        with pytest.warns(ResourceWarning, match="was never released"):
            session = None
        assert session is None
        with trio.fail_after(1):
            await pool.call_tool("s", "echo", {"text": "x"})
        assert check_books(pool).leases_in_flight == 0


async def test_R4_the_warning_about_a_dropped_session_names_the_place_where_it_was_acquired_with_tracemalloc(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tracemalloc.start(10)
    try:
        async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE) as pool:
            with pytest.warns(ResourceWarning, match=r"(?s)acquired at:.*test_holders.py.*# this is the place"):
                await pool.acquire("s")  # this is the place
            await settle()
    finally:
        tracemalloc.stop()


async def test_R4_a_session_that_was_released_or_lost_is_dropped_in_silence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        session: Session | None = await pool.acquire("s")
        assert session is not None
        session.release()
        session = await pool.acquire("s")
        await session.list_tools()
        server.kill()
        await settle()
        session = None
        async with pool.session("s") as session:
            pass
        session = None
        gc.collect()  # a warning would be an error
        assert session is None
