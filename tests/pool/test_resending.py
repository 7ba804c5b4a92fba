"""R13: what is sent a second time, and what never is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Caller,
    CallResent,
    ConnectError,
    Event,
    OutcomeUnknownError,
    Pool,
    PoolClosedError,
    ScopedPool,
    Session,
    SessionLostError,
    SessionOpened,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, Tool, ToolContext, error, never, slow, tool

from .books import Ledger, check_books, settle, watched_pool

# What is asked, whether the server is trusted, and whether it may run twice.
REQUESTS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "tool, untrusted": ("call_tool", {"name": "plain"}, False, False),
    "read-only tool, untrusted": ("call_tool", {"name": "reads"}, False, False),
    "idempotent tool, untrusted": ("call_tool", {"name": "repeats"}, False, False),
    "tool, trusted, nothing said of it": ("call_tool", {"name": "plain"}, True, False),
    "tool, trusted, destructive": ("call_tool", {"name": "destroys"}, True, False),
    "tool, trusted, read-only": ("call_tool", {"name": "reads"}, True, True),
    "tool, trusted, idempotent": ("call_tool", {"name": "repeats"}, True, True),
    "list_tools": ("list_tools", {}, False, True),
    "list_resources": ("list_resources", {}, False, True),
    "list_prompts": ("list_prompts", {}, False, True),
    "list_resource_templates": ("list_resource_templates", {}, False, True),
    "read_resource": ("read_resource", {"uri": "memo://counted"}, False, True),
    "get_prompt": ("get_prompt", {"name": "counted"}, False, True),
}
PLACES = ["pool", "session", "scope", "scope="]


class Counted:
    """A server that counts what it executes: its tools, its resources, its prompts."""

    def __init__(self, trusted: bool) -> None:
        self.read = 0

        def count(**_: Any) -> str:
            self.read += 1
            return "counted"

        tools: dict[str, Tool] = {
            "plain": tool(lambda: "done"),
            "reads": tool(lambda: "done", read_only=True),
            "repeats": tool(lambda: "done", idempotent=True),
            "destroys": tool(lambda: "done", destructive=True, read_only=False, idempotent=False),
        }
        self.server = ScriptedServer(
            tools, resources={"memo://counted": count}, prompts={"counted": count}, trusted=trusted
        )

    @property
    def executions(self) -> int:
        return len(self.server.calls) + self.read


async def ask(place: str, pool: Pool, corner: ScopedPool | None, method: str, arguments: dict[str, Any]) -> None:
    names = {"call_tool": ["name"], "read_resource": ["uri"], "get_prompt": ["name"]}.get(method, [])
    given = [arguments[name] for name in names]
    if place == "session":
        async with pool.session("s") as session:
            await getattr(session, method)(*given)
    elif place == "scope":
        assert corner is not None
        await getattr(corner, method)("s", *given)
    elif place == "scope=":
        await getattr(pool, method)("s", *given, scope="shared")
    else:
        await getattr(pool, method)("s", *given)


def expected(place: str, written: bool, repeatable: bool) -> tuple[str, int]:
    """How it ends, and how often it was sent again."""
    if place in ("pool", "scope=") and (repeatable or not written):
        return "ok", 1
    return ("OutcomeUnknownError" if written else "SessionLostError"), 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("written", [False, True], ids=["before it was written", "after it was written"])
@pytest.mark.parametrize("request_", REQUESTS)
async def test_R13_the_matrix(request_: str, written: bool, place: str, autojump_clock: trio.testing.MockClock) -> None:
    method, arguments, trusted, repeatable = REQUESTS[request_]
    counted = Counted(trusted)
    ledger = Ledger()
    async with watched_pool({"s": counted.server}, ledger=ledger) as pool, pool.open_scope() as corner:
        await ask(place, pool, corner, "list_tools", {})  # a session that has proved itself
        outcome = "ok"
        # Lost before: the server stops reading, and dies. After: it reads the request, and dies.
        if written:
            die_at_the_next_request(counted.server)
        else:
            counted.server.stop("all")

            async def kill() -> None:
                await settle()
                counted.server.kill("all")

        async with trio.open_nursery() as nursery:
            if not written:
                nursery.start_soon(kill)
            try:
                await ask(place, pool, corner, method, arguments)
            except (OutcomeUnknownError, SessionLostError) as why:
                outcome = type(why).__name__
                named = why.server
            else:
                named = "s"
        assert named == "s"
        check_books(pool)
        how, resent = expected(place, written, repeatable)
        assert outcome == how
        assert [(e.method, e.server) for e in ledger.events if isinstance(e, CallResent)] == [(method, "s")] * resent
        if method == "call_tool":
            # A written one was executed before the death as well.
            assert counted.executions == (written + (how == "ok"))
        elif method in ("read_resource", "get_prompt"):
            assert counted.executions == (how == "ok")


def die_at_the_next_request(server: ScriptedServer) -> None:
    """Read one more request, whatever it is, and die; then all is well."""

    def die() -> OSError:
        del server.gates["stream"]
        return OSError("dead")

    server.gates["stream"] = error(die)


class Cursed(Ledger):
    """From its second session on, each of the server's dies at its first request."""

    def __init__(self, server: ScriptedServer) -> None:
        super().__init__()
        self.server = server

    def event(self, e: Event, /) -> None:
        super().event(e)
        if isinstance(e, SessionOpened) and self.count(SessionOpened) > 1:
            die_at_the_next_request(self.server)


@pytest.mark.parametrize("method", ["call_tool", "list_tools", "read_resource"])
async def test_R13_once_means_once(method: str, autojump_clock: trio.testing.MockClock) -> None:
    by_tool = method == "call_tool"
    counted = Counted(trusted=by_tool)
    server = counted.server
    ledger = Ledger() if by_tool else Cursed(server)
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.list_tools("s")  # a session that has proved itself; else its death would begin a backoff
        if by_tool:
            # Of tool calls alone: a trusted server is asked for its tools beside the call.
            server.gates["stream"] = [error(OSError("dead")), error(OSError("dead"))]
        else:
            die_at_the_next_request(server)
        with pytest.raises(OutcomeUnknownError):
            await ask("pool", pool, None, method, {"name": "reads", "uri": "memo://counted"})
        assert ledger.count(CallResent) == 1
        assert len(server.connections) == 2
        assert len(server.calls) == 2 * by_tool


async def test_R13_R17_that_a_call_was_sent_again_is_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    told: list[float] = []

    class Observer:
        def event(self, e: Event, /) -> None:
            if isinstance(e, CallResent):
                told.append(trio.current_time())

    server = Counted(trusted=True).server
    async with open_pool({"s": server}, observers=[Observer()]) as pool:
        await pool.list_tools("s")
        server.gates["stream"] = [error(OSError("dead"))]
        server.gates["call"] = slow(5)
        await pool.call_tool("s", "reads")
        assert (told, trio.current_time()) == ([0], 5)


async def test_R13_a_request_lost_unwritten_twice_is_reported_as_not_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = ScriptedServer(gates={"stream": [never, never, never]}), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.list_tools("s")

        async def kill_twice() -> None:
            for _ in range(2):
                await trio.sleep(1)
                server.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_twice)
            with pytest.raises(SessionLostError):
                await pool.call_tool("s", "echo", {"text": "x"})
        assert (ledger.count(CallResent), server.calls) == (1, [])


async def test_R13_fifty_callers_on_a_dying_session_each_learn_whether_theirs_was_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    door = trio.Event()

    async def work() -> str:
        await door.wait()
        return "done"

    server = ScriptedServer({"work": work})
    outcomes: dict[str, int] = {}
    async with watched_pool({"s": server}) as pool:
        await pool.list_tools("s")

        async def call(session: Session) -> None:
            try:
                await session.call_tool("work")
            except (OutcomeUnknownError, SessionLostError) as why:
                outcomes[type(why).__name__] = outcomes.get(type(why).__name__, 0) + 1

        async with pool.session("s") as session, trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(call, session)
            await settle()
            server.stop()
            for _ in range(20):
                nursery.start_soon(call, session)
            await settle()
            server.kill()
        assert outcomes == {"OutcomeUnknownError": 30, "SessionLostError": 20}
        assert len(server.calls) == 30
        door.set()
        await pool.call_tool("s", "work")


async def test_R13_a_read_timeout_is_not_a_loss_and_nothing_is_resent(autojump_clock: trio.testing.MockClock) -> None:
    import mcp

    server, ledger = ScriptedServer(trusted=True, gates={"call": [never]}), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        with pytest.raises(mcp.MCPError):
            await pool.call_tool("s", "echo", {"text": "x"}, read_timeout_seconds=2)
        assert trio.current_time() == 2
        await pool.call_tool("s", "echo", {"text": "x"})
    assert (len(server.calls), len(server.connections), ledger.count(CallResent)) == (2, 1, 0)


async def test_R13_a_complete_request_is_resent_only_if_it_was_not_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    import mcp_types as types

    ask_for: Callable[[Pool], Awaitable[Any]] = lambda pool: pool.complete(  # noqa: E731
        "s", types.PromptReference(name="greet"), {"name": "a", "value": "b"}
    )
    server = ScriptedServer()
    async with watched_pool({"s": server}) as pool:
        await pool.list_tools("s")
        die_at_the_next_request(server)
        with pytest.raises(OutcomeUnknownError):
            await ask_for(pool)
        await ask_for(pool)


class Deaf(Ledger):
    """From its second session on, the server reads nothing beyond what the dial itself asks."""

    def __init__(self, server: ScriptedServer) -> None:
        super().__init__()
        self.server = server

    def event(self, e: Event, /) -> None:
        super().event(e)
        if self.count(SessionOpened) == 2:
            self.server.stop("all")


@pytest.mark.parametrize("then", ["the dial fails", "it is lost unwritten", "the pool closes"])
@pytest.mark.parametrize("method", ["call_tool", "read_resource"])
async def test_R13_what_was_written_once_stays_unknown_when_sending_it_again_fails(
    method: str, then: str, autojump_clock: trio.testing.MockClock
) -> None:
    counted = Counted(trusted=True)
    server = counted.server
    async with watched_pool({"s": server}, ledger=Deaf(server)) as pool:
        await pool.list_tools("s")
        die_at_the_next_request(server)
        if then == "the dial fails":
            server.gates["spawn"] = error(OSError("no more"))
        elif then == "the pool closes":
            server.gates["spawn"] = never

        async def and_then() -> None:
            await trio.sleep(5)
            if then == "it is lost unwritten":
                server.kill()
            elif then == "the pool closes":
                await pool.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(and_then)
            with pytest.raises(OutcomeUnknownError) as caught:
                await ask("pool", pool, None, method, {"name": "reads", "uri": "memo://counted"})
        # Why it could not be sent again is not lost.
        why = {
            "the dial fails": ConnectError,
            "it is lost unwritten": SessionLostError,
            "the pool closes": PoolClosedError,
        }
        assert isinstance(caught.value.__cause__, why[then])


async def test_R13_a_call_that_is_sent_again_keeps_its_own_callbacks(autojump_clock: trio.testing.MockClock) -> None:
    def count(context: ToolContext) -> str:
        context.progress(1, 2)
        return "done"

    seen: list[tuple[str, float]] = []

    async def on_progress(caller: Caller, progress: float, total: float | None, message: str | None) -> None:
        seen.append((caller.server, progress))

    server, ledger = ScriptedServer({"count": tool(count, read_only=True)}, trusted=True), Ledger()
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.list_tools("s")
        server.gates["stream"] = [error(OSError("dead"))]
        await pool.call_tool("s", "count", on_progress=on_progress)
        await settle()
    assert ledger.count(CallResent) == 1
    assert seen == [("s", 1)]
