"""What servers say unasked, and following one resource in both eras."""

from __future__ import annotations

import gc

import mcp_types as types
import pytest
import trio

from trio_mcp_pool import PoolPolicy, UnknownServerError, open_pool
from trio_mcp_pool.catalog import ResourceUpdate
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

BOTH = pytest.mark.parametrize("eras", ["legacy", "modern"])
URI = "memo://hello"


async def settle() -> None:
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked()


def chatty(context, to: int = 1) -> str:
    for number in range(to):
        context.log(f"line {number}")
    return "done"


async def test_what_a_server_says_comes_with_its_server_scope_and_session(autojump_clock) -> None:
    async with open_pool(
        {"a": ScriptedServer([chatty], eras="legacy"), "b": ScriptedServer([chatty], eras="legacy")}
    ) as pool:
        everything, only_b = pool.notifications(), pool.notifications("b")
        async with pool.open_scope("mine") as scope:
            of_scope, also = pool.notifications(scope="mine"), scope.notifications()
            await pool.call_tool("a", "chatty")
            await scope.call_tool("b", "chatty")
            for reader in (only_b, of_scope, also):
                notice = await anext(reader)
                assert (notice.server, notice.scope, notice.method) == ("b", "mine", "notifications/message")
                assert isinstance(notice.notification, types.LoggingMessageNotification)
            assert [(n.server, n.scope) for n in (await anext(everything), await anext(everything))] == [
                ("a", None),
                ("b", "mine"),
            ]
        with pytest.raises(StopAsyncIteration):
            await anext(also)
        with pytest.raises(UnknownServerError):
            pool.notifications("c")
    for reader in (everything, only_b, of_scope):
        assert [notice async for notice in reader] == []


@BOTH
async def test_changes_of_lists_are_told_in_both_eras(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        reader = pool.notifications()
        await pool.wait_ready()
        await settle()
        server.notify("notifications/prompts/list_changed")
        notice = await anext(reader)
        assert notice.method == "notifications/prompts/list_changed"
        assert (notice.server, notice.session) == ("s", 1)


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer([chatty], eras="legacy")}) as pool:
        reader = pool.notifications(buffer=10)
        await pool.call_tool("s", "chatty", {"to": 25})
        await settle()
        assert repr(reader) == "<Notifications: 10 waiting, 15 missed>"
        assert (await anext(reader)).notification.params.data == "line 15"


async def test_a_reader_that_was_forgotten_is_not_kept(autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        pool.notifications()
        gc.collect()
        assert len(pool.catalog._notifications) == 0


# Following a resource.


@BOTH
async def test_updates_of_a_resource_come_in_both_eras(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        async with pool.subscribe("s", URI) as updates:
            server.notify("notifications/resources/updated", {"uri": URI})
            server.notify("notifications/resources/updated", {"uri": URI})
            await settle()
            assert await anext(updates) == ResourceUpdate(URI)
            # The block pins its session.
            await trio.sleep(60)
            assert server.open_connections == 1
            server.notify("notifications/resources/updated", {"uri": URI})
            assert await anext(updates) == ResourceUpdate(URI)
            with trio.move_on_after(1) as scope:
                await anext(updates)
            assert scope.cancelled_caught
        await trio.sleep(11)
        assert server.open_connections == 0


async def test_two_tasks_may_read_the_same_notifications(autojump_clock) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.wait_ready()
        reader, seen = pool.notifications(), []

        async def read() -> None:
            seen.append((await anext(reader)).method)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(read)
                for kind in ("tools", "prompts"):
                    await settle()
                    server.notify(f"notifications/{kind}/list_changed")
    assert seen == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]


@pytest.mark.parametrize(
    ("buffer", "error", "said"),
    [(0, ValueError, "buffer must be at least 1, not 0"), ("9", TypeError, "buffer must be an int, not str")],
)
async def test_a_buffer_must_be_a_number_from_1_on(buffer, error, said, autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        with pytest.raises(error, match=said):
            pool.notifications(buffer=buffer)


@BOTH
async def test_two_tasks_may_read_the_same_updates(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool, pool.subscribe("s", URI) as updates:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, updates)
                nursery.start_soon(anext, updates)
                for _ in range(2):
                    await settle()
                    server.notify("notifications/resources/updated", {"uri": URI})


async def test_what_only_begins_like_the_resource_is_another(autojump_clock) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        async with pool.subscribe("s", "memo://a") as updates:
            for uri in ("memo://ab", "memo://a/b", "memo://a"):
                server.notify("notifications/resources/updated", {"uri": uri})
            await settle()
            assert [(await anext(updates)).uri for _ in range(2)] == ["memo://a/b", "memo://a"]
        with pytest.raises(TypeError, match="uri must be a str, not int"):
            pool.subscribe("s", 3)


async def test_a_reader_that_is_cancelled_while_it_subscribes_leaves_the_next_one_subscribed(
    autojump_clock, asked
) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        await pool.wait_ready()
        server.gates["stream"] = slow(1)

        async def impatient() -> None:
            with trio.move_on_after(0.5):
                async with pool.subscribe("s", URI):
                    raise AssertionError("it was cancelled before")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await settle()
            async with pool.subscribe("s", URI) as second, pool.subscribe("s", URI):
                assert asked == ["resources/subscribe", "resources/unsubscribe", "resources/subscribe"]
                server.notify("notifications/resources/updated", {"uri": URI})
                assert await anext(second) == ResourceUpdate(URI)
            assert asked[3:] == ["resources/unsubscribe"]
        assert pool.catalog._resource_readers == {}


async def test_leaving_takes_two_seconds_where_the_server_does_not_answer(autojump_clock, asked) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        async with pool.subscribe("s", URI):
            server.gates["stream"] = never
            left_at = trio.current_time()
        assert trio.current_time() - left_at == 2
        assert pool.catalog._resource_readers == {}
        assert pool.catalog._hearers == {}


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Which subscriptions a scripted server was asked for."""
    from trio_mcp_pool.testing import _peer

    seen: list[str] = []
    real = _peer.Peer._answer

    async def answer(self, request, delay):
        if "subscribe" in request["method"]:
            seen.append(request["method"])
        return await real(self, request, delay)

    monkeypatch.setattr(_peer.Peer, "_answer", answer)
    return seen


async def test_in_the_older_era_one_readers_end_does_not_silence_the_other(autojump_clock, asked) -> None:
    server = ScriptedServer(eras="legacy")
    async with open_pool({"s": server}) as pool:
        async with pool.subscribe("s", URI) as first:
            async with pool.subscribe("s", URI):
                pass
            assert asked == ["resources/subscribe"]
            server.notify("notifications/resources/updated", {"uri": URI})
            assert await anext(first) == ResourceUpdate(URI)
        assert asked == ["resources/subscribe", "resources/unsubscribe"]
        assert pool.catalog._resource_readers == {}
        assert pool.catalog._hearers == {}


@BOTH
async def test_a_lost_session_is_subscribed_again_and_the_reader_told(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        async with pool.subscribe("s", URI) as updates:
            server.gates["spawn"] = error(OSError("no"))
            server.kill()
            await trio.sleep(3)
            server.gates["spawn"] = ok
            assert await anext(updates) == ResourceUpdate(URI, missed=True)
            server.notify("notifications/resources/updated", {"uri": URI})
            assert await anext(updates) == ResourceUpdate(URI)


@BOTH
async def test_a_server_that_offers_none_is_told_at_once(eras, autojump_clock, monkeypatch) -> None:
    from trio_mcp_pool.testing import _protocol

    real = _protocol.handshake

    def handshake(*args):
        result = real(*args)
        result["capabilities"]["resources"] = {"listChanged": True}
        return result

    monkeypatch.setattr(_protocol, "handshake", handshake)
    async with open_pool({"s": ScriptedServer(eras=eras)}) as pool:
        with pytest.raises(ValueError, match="server 's' offers no subscriptions to resources"):
            async with pool.subscribe("s", URI):
                pass
        with pytest.raises(UnknownServerError):
            async with pool.subscribe("t", URI):
                pass


@BOTH
async def test_R14_what_the_body_raises_comes_out_bare(eras, autojump_clock) -> None:
    async with open_pool({"s": ScriptedServer(eras=eras)}) as pool:
        with pytest.raises(KeyError):
            async with pool.subscribe("s", URI):
                raise KeyError("mine")
        with trio.move_on_after(1) as scope:
            async with pool.subscribe("s", URI) as updates:
                await anext(updates)
        assert scope.cancelled_caught
        assert pool.statistics().leases_in_flight == 0


@BOTH
async def test_a_scope_follows_on_its_own_session(eras, autojump_clock) -> None:
    server = ScriptedServer(eras=eras)
    async with open_pool({"s": server}) as pool:
        async with pool.open_scope() as scope, scope.subscribe("s", URI) as mine, pool.subscribe("s", URI) as shared:
            assert server.open_connections == 2
            server._peers[0].notify("notifications/resources/updated", {"uri": URI})
            assert await anext(mine) == ResourceUpdate(URI)
            with trio.move_on_after(1) as cancelled:
                await anext(shared)
            assert cancelled.cancelled_caught


@BOTH
async def test_a_pool_that_closes_ends_a_subscription_of_another_task(eras, autojump_clock) -> None:
    async def follow(pool, task_status):
        async with pool.subscribe("s", URI) as updates:
            task_status.started()
            with pytest.raises(Exception, match="closed"):
                await anext(updates)

    async with trio.open_nursery() as nursery:
        async with open_pool({"s": ScriptedServer(eras=eras)}, policy=PoolPolicy(drain_timeout=1)) as pool:
            await nursery.start(follow, pool)
