"""R14: what comes out of the block is bare, under Trio's strict exception groups."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import mcp
import pytest
import trio
import trio.testing

from trio_mcp_pool import ConnectError, CustomServer, OutcomeUnknownError, PoolPolicy, Server, open_pool, serve_pool
from trio_mcp_pool.testing import ScriptedServer, error, slow

from .books import check_books, settle, watched_pool


class Boom(Exception):
    pass


async def test_R14_the_bodys_error_comes_out_as_the_same_object(autojump_clock: trio.testing.MockClock) -> None:
    boom = Boom()
    with pytest.raises(Boom) as caught:
        async with watched_pool({"s": ScriptedServer()}) as pool:
            await pool.wait_ready()
            raise boom
    assert caught.value is boom
    assert boom.__context__ is None
    assert boom.__cause__ is None


@pytest.mark.parametrize("gate", [error(OSError("at the close")), slow(50, shielded=True)])
async def test_R14_the_bodys_error_comes_out_whatever_closing_has_to_say(
    gate: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(gates={"close": gate})
    with pytest.raises(Boom):
        async with watched_pool({"s": server}) as pool:
            await pool.wait_ready()
            raise Boom
    assert caplog.records


async def test_R14_the_errors_of_several_children_stay_the_users_own_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fail(why: Exception) -> None:
        raise why

    with pytest.raises(ExceptionGroup) as caught:
        async with watched_pool({"s": ScriptedServer()}), trio.open_nursery() as nursery:
            nursery.start_soon(fail, Boom())
            nursery.start_soon(fail, ValueError())
    assert sorted(type(why).__name__ for why in caught.value.exceptions) == ["Boom", "ValueError"]


async def test_R14_a_group_that_the_body_raises_itself_is_not_unwrapped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    group = ExceptionGroup("mine", [Boom()])
    with pytest.raises(ExceptionGroup) as caught:
        async with watched_pool({"s": ScriptedServer()}):
            raise group
    assert caught.value is group


@pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, SystemExit])
async def test_R14_what_is_no_Exception_comes_out_of_the_body_bare_too(
    kind: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(kind):
        async with watched_pool({"s": ScriptedServer()}) as pool:
            await pool.wait_ready()
            raise kind
    assert check_books(pool).size == 0


async def test_R14_a_cancellation_comes_out_bare(autojump_clock: trio.testing.MockClock) -> None:
    with trio.CancelScope() as scope:
        with pytest.raises(trio.Cancelled):
            async with watched_pool({"s": ScriptedServer()}) as pool:
                await pool.wait_ready()
                scope.cancel()
                await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@asynccontextmanager
async def broken(stage: str, why: BaseException) -> AsyncIterator[mcp.Client]:
    """A client whose context manager breaks: on the way in, while it lives, or on the way out."""
    from mcp.server import MCPServer

    if stage == "enter":
        raise why
    async with mcp.Client(MCPServer("m")) as client, trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(3)
            raise why

        if stage == "middle":
            nursery.start_soon(later)
        try:
            yield client
        finally:
            if stage == "exit":
                raise why


@pytest.mark.parametrize("stage", ["enter", "middle", "exit"])
async def test_R14_an_owners_Exception_ends_its_connection_and_never_the_pool(
    stage: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    other = ScriptedServer()
    async with watched_pool({"s": CustomServer(partial(broken, stage, Boom("owner"))), "other": other}) as pool:
        if stage == "enter":
            with pytest.raises(ConnectError) as caught:
                await pool.wait_ready("s")
            assert isinstance(caught.value.__cause__, Boom)
        else:
            await pool.wait_ready("s")
        await trio.sleep(5)
        stats = check_books(pool)
        assert (stats.connects_failed, stats.sessions_lost) == {
            "enter": (1, 0),
            "middle": (0, 1),
            "exit": (0, 0),
        }[stage]
        await pool.call_tool("other", "echo", {"text": "x"})
    if stage == "exit":
        assert "leaving its session raised" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["enter", "middle", "exit"])
async def test_R14_an_interrupt_out_of_an_owner_cancels_the_body_and_comes_out_bare(
    kind: type[BaseException], stage: str, autojump_clock: trio.testing.MockClock
) -> None:
    why = kind("out of an owner")
    reached: list[str] = []
    with pytest.raises(kind) as caught:
        async with open_pool({"s": CustomServer(partial(broken, stage, why))}) as pool:
            try:
                await pool.wait_ready("s")
            except ConnectError:
                reached.append("told")
            await trio.sleep(10 if stage != "exit" else 0)
            reached.append("end")
    assert caught.value is why
    assert reached == {"enter": [], "middle": [], "exit": ["end"]}[stage]
    assert check_books(pool).size == 0


async def test_R14_the_bodys_error_is_the_context_of_the_interrupt(autojump_clock: trio.testing.MockClock) -> None:
    why, boom = KeyboardInterrupt(), Boom()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_pool({"s": CustomServer(partial(broken, "middle", why))}) as pool:
            await pool.wait_ready()
            try:
                await trio.sleep_forever()
            finally:
                raise boom
    assert caught.value is why
    assert why.__context__ is boom


@pytest.mark.parametrize("source", ["callback", "observer-safe"])
async def test_R14_an_interrupt_out_of_a_callback_comes_out_bare(
    source: str, autojump_clock: trio.testing.MockClock
) -> None:
    def talk(context: Any) -> str:
        context.log("hello")
        return "said"

    why = SystemExit(3)

    async def logging(params: Any) -> None:
        if source == "callback":
            raise why

    server = ScriptedServer({"talk": talk}, mode="legacy", logging_callback=logging)
    expected: Any = pytest.raises(SystemExit) if source == "callback" else trio.CancelScope()
    with expected:
        async with open_pool({"s": server}) as pool:
            await pool.call_tool("s", "talk")
            await trio.sleep(1)
    assert server.open_connections == 0


async def test_R14_an_error_of_a_callback_is_no_business_of_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def talk(context: Any) -> str:
        context.log("hello")
        return "said"

    async def logging(params: Any) -> None:
        raise Boom

    server = ScriptedServer({"talk": talk}, mode="legacy", logging_callback=logging)
    async with watched_pool({"s": server}) as pool:
        try:
            await pool.call_tool("s", "talk")
        except OutcomeUnknownError:
            pass
        await trio.sleep(1)
        await pool.list_tools("s")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_R14_serve_pool_raises_an_owners_interrupt(
    kind: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    servers: dict[str, Server] = {"s": CustomServer(partial(broken, "middle", kind("x")))}
    with pytest.raises(BaseExceptionGroup) as caught:  # the user's own nursery wraps it
        async with trio.open_nursery() as nursery:
            pool = await nursery.start(partial(serve_pool, servers))
            await pool.wait_ready()
            await trio.sleep_forever()
    assert [type(why) for why in caught.value.exceptions] == [kind]


async def test_R14_two_owners_interrupts_the_first_one_counts(autojump_clock: trio.testing.MockClock) -> None:
    first, second = KeyboardInterrupt("first"), SystemExit("second")

    @asynccontextmanager
    async def late() -> AsyncIterator[mcp.Client]:
        async with broken("exit", second) as client:
            yield client

    servers = {"a": CustomServer(partial(broken, "middle", first)), "b": CustomServer(late)}
    with pytest.raises(KeyboardInterrupt) as caught:
        async with open_pool(servers) as pool:
            await pool.wait_ready()
            await trio.sleep_forever()
    assert caught.value is first


async def test_R14_the_users_errors_are_not_kept_alive_by_the_pool(autojump_clock: trio.testing.MockClock) -> None:
    import gc
    import weakref

    boom = Boom()
    gone = weakref.ref(boom)
    try:
        async with watched_pool({"s": ScriptedServer()}, policy=PoolPolicy()) as pool:
            await pool.wait_ready()
            raise boom
    except Boom:
        pass
    del boom
    await settle()
    gc.collect()
    assert gone() is None


async def test_R2_a_body_that_leaves_a_cancel_scope_open_is_told_by_Trio_and_the_pool_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It would hang for ever otherwise: the pool's own tasks are shielded."""
    server = ScriptedServer()
    scope = trio.CancelScope()
    with trio.CancelScope() as outer, pytest.raises(RuntimeError, match="Cancel scope stack corrupted"):
        async with open_pool({"s": server}) as pool:
            await pool.call_tool("s", "echo", {"text": "x"})
            scope.__enter__()
    assert not outer.cancelled_caught
    assert server.open_connections == 0


async def test_R14_a_defect_in_a_task_of_the_pool_comes_out_bare_and_not_as_a_cancellation(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    defect = NameError("a defect")

    def broken(*_: object) -> None:
        raise defect

    monkeypatch.setattr("trio_mcp_pool._connection._owner.shown_cause", broken)
    with pytest.raises(NameError) as caught:
        async with open_pool({"s": ScriptedServer(gates={"spawn": error(OSError())})}) as pool:
            await pool.wait_ready("s")
    assert caught.value is defect


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


async def test_R14_an_error_that_cannot_be_printed_harms_its_own_session_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers: dict[str, Server] = {"s": CustomServer(partial(broken, "enter", Unspeakable())), "other": ScriptedServer()}
    async with open_pool(servers) as pool:
        with pytest.raises(ConnectError, match="Unspeakable"):
            await pool.wait_ready("s")
        await pool.call_tool("other", "echo", {"text": "x"})
        check_books(pool)
