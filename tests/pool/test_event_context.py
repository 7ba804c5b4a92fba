"""Events about a caller carry its context variables, whichever task's step caused them (R17)."""

from __future__ import annotations

import dataclasses
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import trace

from trio_mcp_pool import (
    AcquireTimeoutError,
    CallResent,
    ConnectError,
    Event,
    LeaseEnded,
    LeaseStarted,
    PoolPolicy,
    ServerUnavailableError,
    SessionOpened,
)
from trio_mcp_pool.testing import ScriptedServer, error

from .books import Ledger, settle, watched_pool

who: ContextVar[str] = ContextVar("who", default="nobody")
EXCLUSIVE = PoolPolicy(max_in_flight=1, acquire_timeout=5)


def callers(ledger: Ledger) -> list[tuple[str, str | None]]:
    """What happened, and to which caller; without what is about no caller."""
    return [(type(e).__name__, e.context.get(who, "nobody")) for e in ledger.events if e.context is not None]


async def test_each_event_of_a_caller_has_its_context_also_where_another_tasks_step_caused_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()

    async def use(name: str, seconds: float) -> None:
        who.set(name)
        async with pool.session("s"):
            who.set("changed since")
            await trio.sleep(seconds)

    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, ledger=ledger) as pool:
        await pool.wait_ready("s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, "first", 1)
            await settle()
            nursery.start_soon(use, "second", 1)
    assert callers(ledger) == [
        ("LeaseStarted", "first"),
        ("WaitStarted", "second"),
        ("LeaseEnded", "first"),
        ("LeaseStarted", "second"),
        ("LeaseEnded", "second"),
    ]


async def test_a_lease_that_ends_with_its_session_has_the_context_of_its_caller(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger, server = Ledger(), ScriptedServer()

    async def use() -> None:
        who.set("caller")
        async with pool.session("s"):
            await trio.sleep(1)

    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.wait_ready("s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await settle()
            server.kill()
    assert callers(ledger) == [("LeaseStarted", "caller"), ("LeaseEnded", "caller")]


async def test_a_caller_that_leaves_without_a_session_is_told_of_with_its_context(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()

    async def fail(name: str, expected: type[Exception]) -> None:
        who.set(name)
        with pytest.raises(expected):
            await pool.acquire("s")

    async def leave() -> None:
        who.set("cancelled")
        with trio.move_on_after(1):
            await pool.acquire("s")

    async with watched_pool({"s": ScriptedServer()}, policy=EXCLUSIVE, ledger=ledger) as pool:
        async with pool.session("s"), trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            nursery.start_soon(fail, "timed out", AcquireTimeoutError)
        failed = [caller for kind, caller in callers(ledger) if kind == "AcquireFailed"]
        assert failed == ["cancelled", "timed out"]

    ledger = Ledger()
    async with watched_pool({"s": ScriptedServer(gates={"spawn": error()})}, ledger=ledger) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "waited", ConnectError)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "refused", ServerUnavailableError)
    assert callers(ledger) == [("WaitStarted", "waited"), ("AcquireFailed", "waited"), ("AcquireFailed", "refused")]


async def test_a_request_that_is_sent_again_is_told_of_with_its_callers_context(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, ledger = ScriptedServer(), Ledger()

    def die() -> OSError:
        del server.gates["stream"]
        return OSError("dead")

    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.list_tools("s")
        who.set("caller")
        server.gates["stream"] = error(die)
        await pool.list_prompts("s")
    [resent] = [e for e in ledger.events if isinstance(e, CallResent)]
    assert resent.context is not None
    assert resent.context[who] == "caller"


async def test_an_event_about_no_caller_has_no_context_and_a_context_is_no_field(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    async with watched_pool({"s": ScriptedServer()}, ledger=ledger) as pool:
        await pool.list_tools("s")
    kinds: dict[type, Any] = {type(e): e for e in ledger.events}
    assert kinds[SessionOpened].context is None
    started = kinds[LeaseStarted]
    assert "context" not in repr(started)
    assert dataclasses.asdict(started)["connection"] == started.connection
    assert kinds[LeaseEnded].context is not None


async def test_the_trace_of_a_caller_is_seen_from_its_events(autojump_clock: trio.testing.MockClock) -> None:
    traces: list[int] = []

    class Watch(Ledger):
        def event(self, e: Event) -> None:
            super().event(e)
            if isinstance(e, LeaseStarted):
                assert e.context is not None
                traces.append(e.context.run(trace.get_current_span).get_span_context().trace_id)

    async with watched_pool({"s": ScriptedServer()}, ledger=Watch()) as pool:
        await pool.wait_ready("s")
        for number in (7, 8):
            with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(number, 1, is_remote=False))):
                await pool.list_prompts("s")
    assert traces == [7, 8]
