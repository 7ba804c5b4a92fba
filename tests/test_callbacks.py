"""Callbacks that know who asked: values, what servers are told, and whose context they run in."""

from __future__ import annotations

import logging
from contextvars import ContextVar

import mcp
import mcp_types as types
import pytest
import trio

from trio_mcp_pool import Callbacks, Caller, StdioServer, open_pool
from trio_mcp_pool._callbacks import client_callbacks, progress_in_context
from trio_mcp_pool.testing import ScriptedServer

WHO = Caller(server="s", session=1, tool="ask")
who_am_i: ContextVar[str] = ContextVar("who_am_i", default="nobody")


async def ask(context) -> str:
    answer = await context.request(
        "elicitation/create", {"message": "How many?", "requestedSchema": {"type": "object", "properties": {}}}
    )
    return str(answer["content"]["n"])


async def test_an_elicitation_reaches_the_declared_function_with_its_caller(autojump_clock) -> None:
    asked = []

    async def elicit(caller, params):
        asked.append((caller, params.message))
        return types.ElicitResult(action="accept", content={"n": 3})

    options = client_callbacks(Callbacks(elicit=elicit), lambda: WHO)
    async with open_pool({"s": ScriptedServer([ask], eras="legacy", **options)}) as pool:
        assert (await pool.call_tool("s", "ask")).content[0].text == "3"
    assert asked == [(WHO, "How many?")]


async def test_a_calls_own_function_overrides_the_declared_one() -> None:
    async def declared(caller, params):
        raise AssertionError("the call brought its own")

    async def own(caller, params):
        return types.ElicitResult(action="decline")

    options = client_callbacks(Callbacks(elicit=declared), lambda: WHO, lambda: own)
    assert (await options["elicitation_callback"](None, None)).action == "decline"


async def test_a_callback_that_raises_harms_its_own_call_only_and_the_server_is_not_told_why(
    autojump_clock, caplog
) -> None:
    async def elicit(caller, params):
        await trio.sleep(1)
        raise ValueError("hunter2")

    async def wait(seconds: float) -> str:
        await trio.sleep(seconds)
        return "fine"

    options = client_callbacks(Callbacks(elicit=elicit), lambda: WHO)
    server = ScriptedServer([ask, wait], eras="legacy", **options)
    async with open_pool({"s": server}) as pool, trio.open_nursery() as nursery:

        async def other() -> None:
            assert (await pool.call_tool("s", "wait", {"seconds": 2})).content[0].text == "fine"

        nursery.start_soon(other)
        with caplog.at_level(logging.ERROR), pytest.raises(mcp.MCPError) as caught:
            await pool.call_tool("s", "ask")
    assert caught.value.error.message == "the client's callback failed"
    assert "raised ValueError" in caplog.text


class Stop(BaseException):
    """What is no `Exception`, as some libraries use for control flow."""


async def stops(caller, *params):
    raise Stop("hunter2")


def is_not_async(caller, *params):
    raise ValueError("hunter2")


def takes_too_little(caller):
    raise AssertionError("it is called with the question")


async def returns_nothing(caller, *params):
    return None


async def returns_another_kind(caller, *params):
    return types.EmptyResult()


async def refuses(caller, *params):
    return types.ErrorData(code=-32000, message="not now")


@pytest.mark.parametrize(
    ("elicit", "logged"),
    [
        (stops, "raised Stop"),
        (is_not_async, "raised ValueError"),
        (takes_too_little, "raised TypeError"),
        (returns_nothing, "must return ElicitResult, not NoneType"),
        (returns_another_kind, "must return ElicitResult, not EmptyResult"),
    ],
)
async def test_whatever_a_callback_does_wrong_its_server_is_told_the_same_and_siblings_go_on(
    elicit, logged, autojump_clock, caplog
) -> None:
    async def wait(seconds: float) -> str:
        await trio.sleep(seconds)
        return "fine"

    server = ScriptedServer([ask, wait], eras="legacy")
    async with open_pool({"s": server}, callbacks=Callbacks(elicit=elicit)) as pool, trio.open_nursery() as nursery:

        async def other() -> None:
            assert (await pool.call_tool("s", "wait", {"seconds": 2})).content[0].text == "fine"

        nursery.start_soon(other)
        with caplog.at_level(logging.ERROR), pytest.raises(mcp.MCPError) as caught:
            await said(pool)
        assert caught.value.error.message == "the client's callback failed"
        assert f"server 's': the callback 'elicit' {logged}" in caplog.text
        assert pool.statistics().connects == 1


async def test_a_callback_may_answer_with_an_error_of_its_own(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer([ask], eras="legacy")}, callbacks=Callbacks(elicit=refuses)) as pool:
        with pytest.raises(mcp.MCPError, match="not now"):
            await said(pool)


async def test_every_kind_of_question_says_what_its_function_must_return(caplog) -> None:
    functions = Callbacks(sample=returns_nothing, roots=returns_nothing, log=returns_nothing)
    made = client_callbacks(functions, lambda: WHO)
    assert (await made["sampling_callback"](None, None)).message == "the client's callback failed"
    assert (await made["list_roots_callback"](None)).message == "the client's callback failed"
    await made["logging_callback"](None)
    assert [record.getMessage().partition("the callback ")[2] for record in caplog.records] == [
        "'sample' must return CreateMessageResult or CreateMessageResultWithTools, not NoneType",
        "'roots' must return ListRootsResult, not NoneType",
    ]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_R14_an_interrupt_of_a_callback_comes_out_bare_and_the_pool_closes(interrupt, autojump_clock) -> None:
    async def interrupted(caller, params):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise interrupt("stop")

    server = ScriptedServer([ask], eras="legacy")
    with pytest.raises(interrupt):
        async with open_pool({"s": server}, callbacks=Callbacks(elicit=interrupted)) as pool:
            await said(pool)
    assert server.open_connections == 0


async def test_what_a_callback_raises_while_it_is_cancelled_is_logged_and_the_cancellation_goes_on(
    autojump_clock, caplog
) -> None:
    async def fails_late(*args):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in clean-up")

    report = progress_in_context(fails_late, "s")
    with trio.move_on_after(1) as scope:
        await report(0, None, None)
        raise AssertionError("it was cancelled")
    assert scope.cancelled_caught
    assert "server 's': on_progress raised ExceptionGroup" in caplog.text


def test_only_what_is_declared_is_announced() -> None:
    async def log(caller, params):
        pass

    assert client_callbacks(Callbacks(), lambda: WHO) == {}
    assert list(client_callbacks(Callbacks(log=log), lambda: WHO)) == ["logging_callback"]


def says(who: str):
    async def elicit(caller, params):
        return types.ElicitResult(action="accept", content={"n": who})

    return Callbacks(elicit=elicit)


async def said(pool, **own):
    return (await pool.call_tool("s", "ask", **own)).content[0].text


async def test_the_scopes_function_counts_before_the_servers_and_that_before_the_pools(autojump_clock) -> None:
    servers = {"s": ScriptedServer([ask], eras="legacy")}
    async with open_pool(servers, callbacks=says("pool")) as pool:
        assert await said(pool) == "pool"
        async with pool.open_scope(callbacks=says("scope")) as scope:
            assert await said(scope) == "scope"
        async with pool.open_scope() as scope:
            assert await said(scope) == "pool"
        assert await said(pool) == "pool"
    servers = {"s": ScriptedServer([ask], eras="legacy", callbacks=says("server"))}
    async with open_pool(servers, callbacks=says("pool")) as pool:
        assert await said(pool) == "server"
        async with pool.open_scope(callbacks=says("scope")) as scope:
            assert await said(scope) == "scope"
        async with pool.open_scope(servers={"s": ScriptedServer([ask], eras="legacy")}) as scope:
            assert await said(scope) == "pool"


async def test_a_plain_callback_of_the_server_counts_before_the_pools(autojump_clock) -> None:
    async def plain(context, params):
        return types.ElicitResult(action="accept", content={"n": "plain"})

    servers = {"s": ScriptedServer([ask], eras="legacy", elicitation_callback=plain)}
    async with open_pool(servers, callbacks=says("pool")) as pool:
        assert await said(pool) == "plain"


async def test_functions_are_taken_one_by_one_from_who_declares_them(autojump_clock) -> None:
    logged = []

    async def log(caller, params):
        logged.append(params.data)

    async def tell_and_ask(context) -> str:
        context.log("asking")
        return await ask(context)

    server = ScriptedServer({"ask": tell_and_ask}, eras="legacy", callbacks=says("server"))
    async with open_pool({"s": server}, callbacks=Callbacks(log=log, elicit=says("pool").elicit)) as pool:
        assert await said(pool) == "server"
    assert logged == ["asking"]


async def test_where_nothing_was_declared_a_call_cannot_be_asked_and_nothing_is_sent(autojump_clock) -> None:
    server = ScriptedServer([ask], eras="legacy")
    async with open_pool({"s": server}) as pool:
        with pytest.raises(
            ValueError, match=r"on_elicit: server 's' was not told .* give callbacks=Callbacks\(elicit="
        ):
            await said(pool, on_elicit=says("call").elicit)
        assert server.calls == []
        assert pool.statistics().leases_in_flight == 0


async def test_what_a_call_brings_along_is_checked_before_anything_is_sent(autojump_clock) -> None:
    async def progress(*_):
        pass

    server = ScriptedServer([ask], eras="legacy", callbacks=says("server"))
    async with open_pool({"s": server}) as pool:
        with pytest.raises(TypeError, match="on_elicit must be an async function or None, not str"):
            await said(pool, on_elicit="me")
        with pytest.raises(TypeError, match="on_progress must be an async function or None, not int"):
            await said(pool, on_progress=1)
        with pytest.raises(ValueError, match="give on_progress or progress_callback, not both"):
            await said(pool, on_progress=progress, progress_callback=progress)
        with pytest.raises(TypeError, match="callbacks must be Callbacks or None, not dict"):
            async with pool.open_scope(callbacks={"elicit": progress}):
                pass
        assert server.calls == []
    with pytest.raises(TypeError, match="callbacks must be Callbacks or None, not dict"):
        async with open_pool({"s": server}, callbacks={}):
            pass


async def test_a_calls_progress_comes_with_its_caller(autojump_clock) -> None:
    seen = []

    async def count(context) -> str:
        context.progress(1, 2, "half")
        await trio.sleep(1)
        return "done"

    async def on_progress(caller, progress, total, message):
        seen.append((caller.scope, caller.tool, caller.context[who_am_i], who_am_i.get(), progress, total, message))

    async with open_pool({"s": ScriptedServer([count])}) as pool, pool.open_scope("agent") as scope:
        who_am_i.set("me")
        tools = await scope.toolset("s")
        await tools.call("s__count", {}, on_progress=on_progress)
        await scope.call_tool("s", "count", on_progress=on_progress)
        async with scope.session("s") as session:
            await session.call_tool("count", on_progress=on_progress)
            await session.call_tool("count", on_progress=on_progress, allow_input_required=True)
    assert seen == [("agent", "count", "me", "me", 1, 2, "half")] * 4


def test_what_is_no_function_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Callbacks.sample must be an async function or None, not str"):
        Callbacks(sample="x")


async def test_declared_for_a_server_the_function_is_told_the_session_and_scope(autojump_clock) -> None:
    asked = []

    async def elicit(caller, params):
        asked.append((caller.server, caller.scope, caller.session))
        return types.ElicitResult(action="accept", content={"n": 3})

    server = ScriptedServer([ask], eras="legacy", callbacks=Callbacks(elicit=elicit))
    async with open_pool({"s": server}) as pool:
        await pool.call_tool("s", "ask")
        async with pool.open_scope("agent") as scope:
            await scope.call_tool("s", "ask")
    assert asked == [("s", None, 1), ("s", "agent", 2)]


def test_a_function_given_in_two_ways_is_refused() -> None:
    async def two(*args):
        pass

    with pytest.raises(ValueError, match="StdioServer has both a elicitation_callback and one in callbacks"):
        StdioServer("x", elicitation_callback=two, callbacks=Callbacks(elicit=two))
    with pytest.raises(TypeError, match="StdioServer.callbacks must be Callbacks or None, not str"):
        StdioServer("x", callbacks="x")
    StdioServer("x", sampling_callback=two, callbacks=Callbacks(elicit=two))


async def test_progress_runs_in_the_context_of_its_caller(autojump_clock) -> None:
    seen = []

    async def count(context) -> str:
        for number in range(2):
            context.progress(number, 2)
            await trio.sleep(1)
        return "done"

    async def on_progress(progress, total, message):
        seen.append((who_am_i.get(), progress, total))
        await trio.sleep(0.1)
        seen.append((who_am_i.get(), progress, total))
        if progress == 1:
            raise ValueError("of its own making")

    async with open_pool({"s": ScriptedServer([count])}) as pool, trio.open_nursery() as nursery:

        async def agent(name: str) -> None:
            who_am_i.set(name)
            result = await pool.call_tool("s", "count", progress_callback=progress_in_context(on_progress, "s"))
            assert result.content[0].text == "done"

        nursery.start_soon(agent, "one")
        nursery.start_soon(agent, "two")
    assert sorted(seen) == sorted([(name, n, 2) for name in ("one", "two") for n in (0, 1)] * 2)


async def test_a_cancelled_callback_is_cancelled_in_its_context(autojump_clock) -> None:
    seen = []

    async def on_progress(progress, total, message):
        try:
            await trio.sleep_forever()
        finally:
            seen.append(who_am_i.get())

    who_am_i.set("me")
    report = progress_in_context(on_progress, "s")
    who_am_i.set("changed since")
    with trio.move_on_after(1) as scope:
        await report(0, None, None)
    assert scope.cancelled_caught
    assert seen == ["me"]
