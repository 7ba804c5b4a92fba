"""The catalogue against scripted servers, on the virtual clock: right, always current, and no request too many."""

from __future__ import annotations

import re

import mcp_types as types
import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from trio_mcp_pool import InvalidResultError, PoolClosedError, PoolPolicy, UnknownServerError, open_pool
from trio_mcp_pool.catalog import Catalog, ToolSet, _pages
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

BOTH = pytest.mark.parametrize("eras", ["legacy", "modern"])


def names(catalog: Catalog) -> list[str]:
    return [entry.qualified_name for entry in catalog.tools]


def in_set(tools: ToolSet) -> list[str]:
    return list(tools.names)


def watch(monkeypatch, *endings: str) -> list[str]:
    """The methods of the requests that scripted servers read and whose names end like this, in order."""
    from trio_mcp_pool.testing import _peer

    seen: list[str] = []
    real = _peer.Peer._answer

    async def answer(self, request, delay):
        if request["method"].endswith(endings):
            seen.append(f"{self._server.name} {request['method']}")
        return await real(self, request, delay)

    monkeypatch.setattr(_peer.Peer, "_answer", answer)
    return seen


@pytest.fixture
def listed(monkeypatch) -> list[str]:
    """Every listing request."""
    return watch(monkeypatch, "/list")


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked()


async def test_the_lists_are_in_the_order_of_configuration_then_of_listing(autojump_clock) -> None:
    first = ScriptedServer(gates={"spawn": slow(5)})
    async with open_pool({"slow": first, "fast": ScriptedServer()}) as pool:
        assert pool.catalog.tools == ()
        await pool.catalog.refresh()
        catalog = pool.catalog
        assert names(catalog) == ["slow__echo", "slow__add", "fast__echo", "fast__add"]
        assert [entry.name for entry in catalog.resources] == ["memo://hello", "memo://hello"]
        assert [entry.qualified_name for entry in catalog.prompts] == ["slow__greet", "fast__greet"]
        assert catalog.resource_templates == ()
        assert isinstance(catalog.tools[0].value, types.Tool)
        assert catalog.tools is catalog.tools
        assert not any(entry.stale for entry in catalog.tools)
        assert catalog.problems == {}
        assert repr(catalog) == "<Catalog: 4 tools of 2 servers, 0 problems>"


async def test_only_the_kinds_that_are_asked_for_are_listed(autojump_clock, listed) -> None:
    async with open_pool({"s": ScriptedServer(eras="legacy")}) as pool:
        await pool.catalog.refresh("s", kinds=["prompts"])
        assert [entry.name for entry in pool.catalog.prompts] == ["greet"]
        assert (pool.catalog.tools, pool.catalog.resources) == ((), ())
        with pytest.raises(TypeError, match=r"^kinds must be several kinds, such as \['tools'\], not str$"):
            await pool.catalog.refresh(kinds="tools")
        with pytest.raises(ValueError, match="^kinds must be some of 'tools', 'resources', .*, not 'tool'$"):
            await pool.catalog.refresh(kinds=["tool"])  # type: ignore[list-item]


async def test_servers_are_listed_side_by_side_and_once_for_any_number_of_callers(autojump_clock, listed) -> None:
    servers = {f"s{n}": ScriptedServer(name=f"s{n}", eras="legacy", gates={"spawn": slow(3)}) for n in range(5)}
    async with open_pool(servers) as pool:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(pool.toolset)
        assert trio.current_time() - started == 3
        assert sorted(listed) == [f"s{n} tools/list" for n in range(5)]
        await pool.toolset()
        assert trio.current_time() - started == 3
        assert len(listed) == 5


async def test_cancelling_one_caller_changes_nothing_for_the_others(autojump_clock, listed) -> None:
    async with open_pool({"s": ScriptedServer(gates={"spawn": slow(3)})}) as pool:
        async with trio.open_nursery() as nursery:

            async def impatient() -> None:
                with trio.move_on_after(1):
                    await pool.toolset()

            nursery.start_soon(impatient)
            await settle()
            assert (await pool.toolset()).names == ("s__echo", "s__add")
        assert len(listed) == 1


async def test_a_server_that_is_down_is_reported_beside_the_rest(autojump_clock) -> None:
    dead = ScriptedServer(gates={"spawn": [error(OSError("no such command")), ok]})
    async with open_pool({"dead": dead, "well": ScriptedServer()}) as pool:
        tools = await pool.toolset()
        assert in_set(tools) == ["well__echo", "well__add"]
        assert "no such command" in str(pool.catalog.problems["dead"])
        await trio.sleep(1)
        # The next one tries again.
        await pool.toolset()
        assert in_set(tools) == ["dead__echo", "dead__add", "well__echo", "well__add"]
        assert pool.catalog.problems == {}


async def test_a_problem_is_gone_when_a_caller_has_brought_the_server_back(autojump_clock) -> None:
    dead = ScriptedServer(gates={"spawn": [error(OSError("no such command")), ok]})
    async with open_pool({"dead": dead}) as pool:
        tools = await pool.toolset()
        await trio.sleep(1)
        await pool.call_tool("dead", "echo", {"text": "x"})
        await settle()
        assert in_set(tools) == ["dead__echo", "dead__add"]
        assert pool.catalog.problems == {}
        assert not any(entry.stale for entry in pool.catalog.tools)


async def test_of_fifty_servers_five_dead_and_five_slow_hold_up_nobody(autojump_clock, listed) -> None:
    gates = [{"handshake": never}] * 5 + [{"spawn": slow(15)}] * 5 + [{"spawn": slow(1 + n / 40)} for n in range(40)]
    servers = {f"s{n:02}": ScriptedServer(gates=each) for n, each in enumerate(gates)}
    async with open_pool(servers, max_connecting=50) as pool:
        tools = await pool.toolset()
        back_at = trio.current_time()
        assert back_at <= 1.3 * (1 + 39 / 40)
        assert len(tools) == 80
        assert sorted(pool.catalog.problems) == [f"s{n:02}" for n in range(10)]
        assert len(listed) == 40
        # The second list costs no request, and no time either, though ten are still under way.
        await pool.toolset("s20", "s30")
        await pool.toolset()
        assert len(listed) == 40
        assert trio.current_time() == back_at
        before = set(tools.names)
        await trio.sleep_until(16)
        assert len(tools) == 90
        assert before < set(tools.names)


async def test_a_few_servers_are_all_waited_for(autojump_clock) -> None:
    servers = {
        "slow": ScriptedServer(gates={"spawn": slow(5)}),
        "fast": ScriptedServer(),
        "faster": ScriptedServer(),
    }
    async with open_pool(servers) as pool:
        assert len(await pool.toolset()) == 6
        assert trio.current_time() == 5


async def test_few_slow_ones_among_many_quick_ones_have_a_second(autojump_clock) -> None:
    servers = {f"s{n}": ScriptedServer() for n in range(5)}
    servers["in time"] = ScriptedServer(gates={"spawn": slow(0.9)})
    servers["late"] = ScriptedServer(gates={"spawn": slow(1.3)})
    async with open_pool(servers) as pool:
        tools = await pool.toolset()
        assert trio.current_time() == pytest.approx(1.17)
        assert len(tools) == 12
        assert str(pool.catalog.problems["late"]).startswith("server 'late' was not listed within 1.17 s")
        await trio.sleep(0.2)
        assert len(tools) == 14


async def test_a_server_that_hangs_is_waited_for_once(autojump_clock) -> None:
    mute = ScriptedServer(gates={"handshake": never})
    policy = PoolPolicy(connect_timeout=20)
    async with open_pool({"mute": mute, "well": ScriptedServer()}, policy=policy) as pool:
        await pool.toolset()
        assert trio.current_time() == 10
        await pool.toolset()
        assert trio.current_time() == 10
        await trio.sleep_until(30)
        assert "connect_timeout" in str(pool.catalog.problems["mute"])
        # Tried again: it has a second, and that once.
        await pool.toolset()
        await pool.toolset()
        assert trio.current_time() == 31
        # Who says how long is taken at his word.
        await pool.toolset(within=3)
        assert trio.current_time() == 34
        with trio.move_on_after(0) as scope:
            await pool.toolset("mute")
        assert scope.cancelled_caught


@pytest.mark.parametrize("of", ["pool", "scope"])
async def test_R2_a_list_asked_of_what_closes_is_refused_at_once(of, autojump_clock) -> None:
    async def ask(handle) -> None:
        with pytest.raises(PoolClosedError):
            await handle.toolset()
        closed_at.append(trio.current_time())

    closed_at: list[float] = []
    server = ScriptedServer(gates={"spawn": slow(8)})
    async with trio.open_nursery() as nursery:
        async with open_pool({"s": server}, policy=PoolPolicy(drain_timeout=0)) as pool:
            async with pool.open_scope() as scope:
                nursery.start_soon(ask, scope if of == "scope" else pool)
                await trio.sleep(1)
            if of == "scope":
                await ask(scope)
    await ask(pool)
    with pytest.raises(PoolClosedError):
        await scope.catalog.refresh()
    assert closed_at == [1] * len(closed_at)
    assert pool.catalog.closed
    assert [change async for change in pool.catalog.changes()] == []


async def test_a_catalogue_that_is_asked_for_after_the_end_is_closed(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool, pool.open_scope() as scope:
        pass
    for handle in (pool, scope):
        assert handle.catalog.closed
        with pytest.raises(PoolClosedError):
            await handle.catalog.refresh("s")
        assert [notice async for notice in handle.notifications()] == []
    assert pool._core.hub._watchers == {}


@pytest.mark.parametrize(
    ("within", "error", "said"),
    [
        ("5", TypeError, "within must be a number of seconds.*, not str"),
        (True, TypeError, "within must be a number of seconds.*, not bool"),
        (-1, ValueError, "within must be a number of seconds from 0 on, not -1"),
        (float("nan"), ValueError, "within must be a number of seconds from 0 on, not nan"),
    ],
)
async def test_a_deadline_must_be_a_number_of_seconds(within, error, said, autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        for ask in (pool.toolset, pool.catalog.refresh):
            with pytest.raises(error, match=said):
                await ask(within=within)
        with pytest.raises(TypeError, match="within must be a number of seconds, not NoneType"):
            await pool.catalog.refresh(within=None)


async def test_within_a_deadline_the_slow_ones_are_reported_and_join_when_they_come(autojump_clock) -> None:
    servers = {
        "slow": ScriptedServer(gates={"spawn": slow(20)}),
        "mute": ScriptedServer(gates={"handshake": never}),
        "fast": ScriptedServer(),
    }
    async with open_pool(servers) as pool:
        tools = await pool.toolset(within=2)
        assert trio.current_time() == 2
        assert in_set(tools) == ["fast__echo", "fast__add"]
        assert {server: str(problem) for server, problem in pool.catalog.problems.items()} == {
            "slow": "server 'slow' was not listed within 2 s; its entries join when they come",
            "mute": "server 'mute' was not listed within 2 s; its entries join when they come",
        }
        await trio.sleep_until(20.5)
        assert in_set(tools) == ["slow__echo", "slow__add", "fast__echo", "fast__add"]
        await trio.sleep_until(31)
        assert list(pool.catalog.problems) == ["mute"]
        assert "connect_timeout" in str(pool.catalog.problems["mute"])


async def test_what_a_server_listed_last_stays_and_is_marked_stale_when_it_cannot_be_listed(autojump_clock) -> None:
    server = ScriptedServer()
    async with open_pool({"s": server}) as pool:
        await pool.catalog.refresh()
        server.kill()
        assert names(pool.catalog) == ["s__echo", "s__add"]
        server.gates["spawn"] = error(OSError("no"))
        await pool.catalog.refresh("s")
        assert names(pool.catalog) == ["s__echo", "s__add"]
        assert all(entry.stale for entry in pool.catalog.tools)
        assert all(entry.stale for entry in pool.catalog.prompts)
        assert list(pool.catalog.problems) == ["s"]
        server.gates["spawn"] = ok
        await trio.sleep(10)
        await pool.catalog.refresh("s")
        assert not any(entry.stale for entry in pool.catalog.tools)
        assert pool.catalog.problems == {}


async def test_an_idle_server_does_not_make_its_tools_vanish_nor_does_the_list_keep_it_alive(autojump_clock) -> None:
    server = ScriptedServer()
    async with open_pool({"s": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        tools = await pool.toolset()
        await trio.sleep(60)
        assert server.open_connections == 0
        assert in_set(tools) == ["s__echo", "s__add"]
        assert server.connections[0].closed_at is not None
        assert server.connections[0].closed_at < 11


@BOTH
async def test_a_change_that_a_server_reports_is_there_within_one_round_trip(eras, autojump_clock, listed) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        await pool.catalog.refresh()
        listed.clear()
        for number in range(5):
            server.tools[f"tool{number}"] = lambda: "x"
            server.notify("notifications/tools/list_changed")
            await settle()
            assert names(pool.catalog)[-1] == f"s__tool{number}"
        assert listed == ["scripted tools/list"] * 5
        del server.prompts["greet"]
        server.resources["memo://new"] = "new"
        server.notify("notifications/prompts/list_changed")
        server.notify("notifications/resources/list_changed")
        await settle()
        assert pool.catalog.prompts == ()
        assert [entry.name for entry in pool.catalog.resources] == ["memo://hello", "memo://new"]


@BOTH
async def test_a_change_of_what_nobody_has_asked_for_is_not_listed(eras, autojump_clock, listed) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        await pool.toolset()
        listed.clear()
        server.notify("notifications/prompts/list_changed")
        await settle()
        assert listed == []


async def test_R19_a_flood_of_notices_is_coalesced_and_slowed_down(autojump_clock, listed) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.toolset()
        listed.clear()
        for _ in range(1000):
            server.notify("notifications/tools/list_changed")
        await settle()
        assert len(listed) <= 2
        for _ in range(100):
            server.notify("notifications/tools/list_changed")
            await trio.sleep(0.01)
        assert len(listed) <= 25
        server.tools["last"] = lambda: "x"
        server.notify("notifications/tools/list_changed")
        await trio.sleep(2)
        assert names(pool.catalog)[-1] == "s__last"


async def test_a_stale_answer_never_stands_after_a_newer_one(autojump_clock, listed) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.toolset()
        # The answer to the first question is made at once and comes in a second; the change happens in between.
        server.gates["stream"] = slow(1)
        server.notify("notifications/tools/list_changed")
        await trio.sleep(0.5)
        server.gates["stream"] = ok
        server.tools["new"] = lambda: "x"
        server.notify("notifications/tools/list_changed")
        await trio.sleep(0.1)
        await trio.sleep(1)
        assert names(pool.catalog)[-1] == "s__new"
        assert not any(entry.stale for entry in pool.catalog.tools)


@BOTH
async def test_a_new_session_is_listed_anew_in_the_background(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        await pool.catalog.refresh()
        server.kill()
        await settle()
        server.tools["new"] = lambda: "x"
        server.prompts["more"] = "x"
        await pool.call_tool("s", "echo", {"text": "x"})
        await settle()
        assert names(pool.catalog)[-1] == "s__new"
        assert [entry.name for entry in pool.catalog.prompts] == ["greet", "more"]
        # And it is listened to as the first was.
        del server.tools["new"]
        server.notify("notifications/tools/list_changed")
        await settle()
        assert names(pool.catalog) == ["s__echo", "s__add"]


async def test_what_a_server_says_will_hold_is_not_listed_again_for_a_new_session(
    autojump_clock, listed, monkeypatch
) -> None:
    from trio_mcp_pool.testing import _protocol

    real = _protocol.listing

    def hinted(request, key, items):
        result = real(request, key, items)
        return {**result, "ttlMs": 60_000 if key == "prompts" else 0}

    monkeypatch.setattr(_protocol, "listing", hinted)
    server = ScriptedServer(eras="modern")
    async with open_pool({"s": server}) as pool:
        await pool.catalog.refresh()
        for wait, methods in (
            (1, {"tools", "resources", "resources/templates"}),
            (61, {"tools", "prompts", "resources"}),
        ):
            server.kill()
            await trio.sleep(wait)
            listed.clear()
            await pool.call_tool("s", "echo", {"text": "x"})
            await settle()
            assert methods <= {each.removeprefix("scripted ").removesuffix("/list") for each in listed}
            assert ("scripted prompts/list" in listed) == ("prompts" in methods)


async def test_a_modern_server_has_agreed_to_tell_before_it_is_listed(autojump_clock, monkeypatch) -> None:
    # So what changes after the list was made is told.
    from trio_mcp_pool.testing import _peer

    asked: list[tuple[str, float]] = []
    real = _peer.Peer._answer

    async def answer(self, request, delay):
        asked.append((request["method"], trio.current_time()))
        if request["method"] == "subscriptions/listen":
            await trio.sleep(1)
        return await real(self, request, delay)

    monkeypatch.setattr(_peer.Peer, "_answer", answer)
    async with open_pool({"s": ScriptedServer(eras="modern")}) as pool:
        await pool.catalog.refresh()
    first, *then = [each for each in asked if each[0] != "server/discover"]
    assert first == ("subscriptions/listen", 0)
    lists = ["prompts/list", "resources/list", "resources/templates/list", "tools/list"]
    assert sorted(then) == [(method, 1) for method in lists]


async def test_one_listing_per_session_not_two(autojump_clock, listed) -> None:
    # In the modern era the SDK's own, which checks the first answer, may come before the server has agreed to tell.
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.toolset()
        await pool.call_tool("s", "echo", {"text": "x"})
        server.kill()
        await settle()
        await pool.call_tool("s", "echo", {"text": "x"})
        await settle()
    assert listed == ["scripted tools/list"] * 2


async def test_a_catalogue_that_is_asked_for_late_knows_the_sessions_that_stand(autojump_clock, listed) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.wait_ready()
        await pool.call_tool("s", "echo", {"text": "x"})
        listed.clear()
        assert (await pool.toolset()).names == ("s__echo", "s__add")
        assert [connection.number for connection in server.connections] == [1]
        assert listed == ["scripted tools/list"]
        server.tools["new"] = lambda: "x"
        server.notify("notifications/tools/list_changed")
        await settle()
        assert names(pool.catalog)[-1] == "s__new"


async def test_a_listing_without_end_is_a_problem(autojump_clock, monkeypatch) -> None:
    from trio_mcp_pool.testing import _protocol

    real = _protocol.listing

    def endless(request, key, items):
        result = real(request, key, items)
        if key == "prompts":
            result["nextCursor"] = "again"
        return result

    monkeypatch.setattr(_protocol, "listing", endless)
    async with open_pool({"s": ScriptedServer()}) as pool:
        await pool.catalog.refresh()
        assert str(pool.catalog.problems["s"]) == "server 's' lists prompts without end"
        assert names(pool.catalog) == ["s__echo", "s__add"]


@BOTH
@pytest.mark.parametrize("hostile", ["no object", "too deep"])
async def test_R18_a_list_that_is_against_the_protocol_is_its_servers_problem_and_said_to_be_answered(
    hostile, eras, autojump_clock, monkeypatch
) -> None:
    from trio_mcp_pool.testing import _protocol

    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}}
    real = _protocol.listing

    def listing(request, key, items):
        if key == "tools" and items[0]["name"] == "bad":
            items = [{"name": "bad", "inputSchema": {"type": "hunter2"} if hostile == "no object" else deep}]
        return real(request, key, items)

    monkeypatch.setattr(_protocol, "listing", listing)
    servers = {"bad": ScriptedServer({"bad": lambda: "x"}, eras=eras), "good": ScriptedServer(eras=eras)}
    async with open_pool(servers) as pool:
        assert in_set(await pool.toolset()) == ["good__echo", "good__add"]
        [(server, problem)] = pool.catalog.problems.items()
        assert server == "bad"
        assert isinstance(problem, InvalidResultError)
        assert problem.outcome == "answered"
        assert "hunter2" not in str(problem)
        with pytest.raises(InvalidResultError):
            await pool.list_tools("bad", cache_mode="refresh")


async def test_a_list_whose_pages_never_end_is_a_problem_and_costs_a_bounded_number_of_requests(
    autojump_clock, monkeypatch, listed
) -> None:
    from trio_mcp_pool.testing import _protocol

    real, page = _protocol.listing, 0

    def endless(request, key, items):
        nonlocal page
        page += 1
        return {**real(request, key, items), "nextCursor": str(page)}

    monkeypatch.setattr(_protocol, "listing", endless)
    monkeypatch.setattr(_pages, "MOST_PAGES", 20)
    async with open_pool({"s": ScriptedServer(eras="legacy")}) as pool:
        tools = await pool.toolset()
        assert str(pool.catalog.problems["s"]) == "server 's' lists tools without end"
        assert len(tools) == 0
        assert len(listed) == 20


async def test_a_name_that_a_page_repeats_is_one_tool_of_the_set(autojump_clock, monkeypatch) -> None:
    from trio_mcp_pool.testing import _protocol

    real = _protocol.listing

    def again(request, key, items):
        cursor = (request.get("params") or {}).get("cursor")
        return {**real(request, key, items), **({} if cursor else {"nextCursor": "2"})}

    monkeypatch.setattr(_protocol, "listing", again)
    async with open_pool({"s": ScriptedServer(eras="legacy")}) as pool:
        tools = await pool.toolset()
        assert tools.names == ("s__echo", "s__add")
        assert [each["name"] for each in tools.to_anthropic()] == ["s__echo", "s__add"]
        [outcome] = await tools.run([("s__echo", {"text": "x"})])
        assert outcome.text == "x"


async def test_changes_are_differences_to_what_this_reader_saw_last(autojump_clock) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server, "t": ScriptedServer()}) as pool:
        await pool.catalog.refresh()
        changes = pool.catalog.changes()
        for name in ("one", "two"):
            server.tools[name] = lambda: "x"
            server.notify("notifications/tools/list_changed")
            await settle()
        del server.prompts["greet"]
        server.notify("notifications/prompts/list_changed")
        await settle()
        change = await anext(changes)
        assert [entry.qualified_name for entry in change.added] == ["s__one", "s__two"]
        assert [entry.qualified_name for entry in change.removed] == ["s__greet"]
        assert (change.changed, change.problems) == ((), {})
        with trio.move_on_after(1) as scope:
            await anext(changes)
        assert scope.cancelled_caught
        await pool.remove_server("t")
        change = await anext(changes)
        assert [entry.qualified_name for entry in change.removed if entry.kind == "tools"] == ["t__echo", "t__add"]
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_reading_a_change_checkpoints_even_where_there_is_one_already(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        changes = pool.catalog.changes()
        await pool.catalog.refresh()
        with assert_checkpoints():
            assert await anext(changes)


async def test_servers_that_are_added_removed_and_replaced(autojump_clock) -> None:
    async with open_pool({"a": ScriptedServer()}) as pool:
        tools = await pool.toolset()
        pool.add_server("b", ScriptedServer({"new": lambda: "x"}))
        await settle()
        assert in_set(tools) == ["a__echo", "a__add", "b__new"]
        await pool.reconfigure({"b": ScriptedServer({"newer": lambda: "x"})})
        await settle()
        assert in_set(tools) == ["b__newer"]
        with pytest.raises(UnknownServerError, match="did you mean 'b'"):
            await pool.catalog.refresh("bb")


async def test_the_tools_of_a_removed_server_are_gone_at_once(autojump_clock) -> None:
    async with open_pool({"a": ScriptedServer(), "b": ScriptedServer()}) as pool:
        await pool.catalog.refresh(kinds=["tools"])
        changes = pool.catalog.changes()
        assert names(pool.catalog) == ["a__echo", "a__add", "b__echo", "b__add"]
        await pool.remove_server("b")
        assert names(pool.catalog) == ["a__echo", "a__add"]
        assert {entry.qualified_name for entry in (await anext(changes)).removed} == {"b__echo", "b__add"}


async def test_a_server_that_was_replaced_by_another_is_listed_anew_without_a_caller(autojump_clock) -> None:
    async with open_pool({"a": ScriptedServer()}) as pool:
        await pool.catalog.refresh(kinds=["tools"])
        await trio.sleep(10)  # else a session is dialled at once to replace the old one
        await pool.reconfigure({"a": ScriptedServer({"newer": lambda: "x"})})
        await settle()
        assert names(pool.catalog) == ["a__newer"]


# Scopes.


async def test_scopes_share_the_listing_until_one_of_their_sessions_reports_a_change(autojump_clock, listed) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.toolset()
        async with pool.open_scope() as one, pool.open_scope() as two:
            assert names(one.catalog) == names(two.catalog) == ["s__echo", "s__add"]
            await one.toolset()
            assert listed == ["scripted tools/list"]
            await one.call_tool("s", "echo", {"text": "x"})
            await two.call_tool("s", "echo", {"text": "x"})
            server.tools["mine"] = lambda: "x"
            server._peers[1].notify("notifications/tools/list_changed", None)
            await settle()
            assert names(one.catalog)[-1] == "s__mine"
            assert names(two.catalog) == names(pool.catalog) == ["s__echo", "s__add"]
            server.notify("notifications/tools/list_changed")
            await settle()
            assert names(two.catalog)[-1] == names(pool.catalog)[-1] == "s__mine"


async def test_a_scope_that_lists_first_lists_for_all_and_dials_nothing_of_its_own_twice(
    autojump_clock, listed
) -> None:
    server = ScriptedServer()
    async with open_pool({"s": server}) as pool:
        async with pool.open_scope() as scope:
            tools = await scope.toolset()
            await tools.call("s__echo", {"text": "x"})
            assert server.open_connections == 1
        assert names(pool.catalog) == ["s__echo", "s__add"]
        await pool.toolset()
        assert listed == ["scripted tools/list"]


async def test_a_scopes_own_server_has_a_list_of_its_own(autojump_clock) -> None:
    own = ScriptedServer({"mine": lambda: "x"})
    async with open_pool({"s": ScriptedServer()}) as pool:
        await pool.toolset()
        async with pool.open_scope(servers={"s": own, "t": own}) as scope:
            assert (await scope.toolset()).names == ("s__mine", "t__mine")
        assert names(pool.catalog) == ["s__echo", "s__add"]


async def test_a_scope_that_closes_while_it_lists_leaves_the_listing_to_the_others(autojump_clock) -> None:
    server = ScriptedServer(gates={"spawn": slow(3)})
    async with open_pool({"s": server}) as pool:
        found: list[tuple[str, ...]] = []

        async def other() -> None:
            await trio.sleep(0.5)
            found.append((await pool.toolset()).names)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with trio.move_on_after(1):
                async with pool.open_scope() as scope:
                    await scope.toolset()
        assert found == [("s__echo", "s__add")]


# The end.


@BOTH
async def test_R2_the_pool_closes_at_once_whatever_the_catalogue_does(eras, autojump_clock) -> None:
    servers = {"s": ScriptedServer(eras=eras), "mute": ScriptedServer(gates={"handshake": never})}
    async with open_pool(servers) as pool:
        await pool.toolset(within=1)
        tools = await pool.toolset(within=1)
        started = trio.current_time()
    assert trio.current_time() - started < 1
    assert in_set(tools) == ["s__echo", "s__add"]
    assert pool.catalog.closed


async def test_what_checkpoints_and_what_does_not(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        with assert_checkpoints():
            await pool.toolset()
        with assert_checkpoints():
            await pool.catalog.refresh()
        with assert_no_checkpoints():
            assert pool.catalog.tools
            pool.catalog.changes()
    assert re.fullmatch(r"<Catalog: 2 tools of 1 servers, 0 problems>", repr(pool.catalog))
