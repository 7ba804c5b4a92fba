"""`statistics().servers[name]` says how each server stands, `pool.servers` what is configured, `wait_ready` dials."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    AuthenticationError,
    Backoff,
    ConnectError,
    Pool,
    PoolClosedError,
    PoolPolicy,
    ServerUnavailableError,
    UnknownServerError,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

from .books import check_books, settle, watched_pool

EXACT = Backoff(first=1, factor=2, cap=60, jitter=0)
NEVER = -math.inf


def standing(pool: Pool, name: str = "s") -> tuple[str, type[Exception] | None, float]:
    """A server's state, the class of its last error, and when it is dialled again."""
    server = pool.statistics().servers[name]
    error = server.last_error
    return server.state, None if error is None else type(error), server.retry_at


async def use(pool: Pool, scope: Any = None) -> None:
    await pool.call_tool("s", "echo", {"text": "x"}, scope=scope)


async def test_a_servers_standing_from_cold_to_ready_and_back(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": slow(2), "close": slow(1)})
    async with watched_pool({"s": server}, policy=PoolPolicy(idle_timeout=10)) as pool:
        seen = []
        async with trio.open_nursery() as nursery:
            seen.append((0.0, standing(pool)))
            nursery.start_soon(use, pool)
            for at in (1.0, 3.0, 11.9, 12.1, 14.0):
                await trio.sleep_until(at)
                seen.append((at, standing(pool)))
        assert seen == [
            (0, ("cold", None, NEVER)),
            (1, ("connecting", None, NEVER)),
            (3, ("ready", None, NEVER)),
            (11.9, ("ready", None, NEVER)),
            (12.1, ("cold", None, NEVER)),  # it is closing, and no session can be leased
            (14, ("cold", None, NEVER)),
        ]


async def test_a_servers_standing_through_an_outage(autojump_clock: trio.testing.MockClock) -> None:
    """A pool that dials lazily dials again only when somebody calls, so after the backoff it is cold, with its last error."""
    server = ScriptedServer(gates={"spawn": [error(ConnectionRefusedError), error(ConnectionResetError)]})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=EXACT)) as pool:
        with pytest.raises(ConnectError):
            await use(pool)
        assert standing(pool) == ("backoff", ConnectError, 1)
        first = pool.statistics().servers["s"].last_error
        assert isinstance(first, ConnectError)
        assert isinstance(first.__cause__, ConnectionRefusedError)
        assert first.attempt == 1
        await trio.sleep_until(0.999)
        assert standing(pool)[0] == "backoff"
        await trio.sleep_until(1)
        assert standing(pool) == ("cold", ConnectError, 1)
        with pytest.raises(ConnectError):
            await use(pool)
        assert standing(pool) == ("backoff", ConnectError, 3)
        await trio.sleep_until(3)
        await pool.wait_ready("s")
        assert standing(pool) == ("ready", ConnectError, 3)  # a handshake alone proves nothing
        await use(pool)
        assert standing(pool) == ("ready", None, NEVER)


async def test_a_server_with_a_session_is_ready_although_its_last_dial_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [ok, error(OSError)]})
    policy = PoolPolicy(max_in_flight=1, max_sessions=2, backoff=EXACT)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        async with pool.session("s") as session:
            await session.list_tools()
            nursery.start_soon(use, pool)
            await settle()
            assert standing(pool) == ("ready", ConnectError, 1)


async def test_a_server_that_is_dialled_again_in_the_background_is_connecting_after_its_backoff(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [error(OSError), slow(5)]})
    policy = PoolPolicy(min_sessions=1, backoff=EXACT)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await settle()
        assert standing(pool) == ("backoff", ConnectError, 1)
        await trio.sleep_until(1.5)
        assert standing(pool) == ("connecting", ConnectError, 1)
        await trio.sleep_until(6.5)
        assert standing(pool)[0] == "ready"
        await trio.sleep_until(6 + 60 + 1)  # a session that lives for the cap proves the server
        assert standing(pool) == ("ready", None, NEVER)


async def test_a_removed_server_is_named_with_its_counters(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"close": slow(2)})
    async with watched_pool({"s": server}, limits=False) as pool, trio.open_nursery() as nursery:
        await use(pool)
        nursery.start_soon(pool.remove_server, "s")
        await settle()
        assert standing(pool)[0] == "removed"
        assert check_books(pool).servers["s"].sessions_closing == 1
        await trio.sleep(3)
        stats = check_books(pool).servers["s"]
        assert (stats.state, stats.acquires, stats.closed_drained, stats.size) == ("removed", 1, 1, 0)
        pool.add_server("s", server)
        stats = check_books(pool).servers["s"]
        assert (stats.state, stats.acquires) == ("cold", 1)


async def test_a_drain_forgets_the_backoff(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": [error(FileNotFoundError)]})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError):
            await use(pool)
        assert standing(pool)[0] == "backoff"
        await pool.drain("s")
        assert standing(pool) == ("cold", None, NEVER)
        await use(pool)
        assert trio.current_time() == 0


async def test_each_server_stands_for_itself(autojump_clock: trio.testing.MockClock) -> None:
    servers = {
        "ready": ScriptedServer(),
        "mute": ScriptedServer(gates={"spawn": never}),
        "dead": ScriptedServer(gates={"spawn": error(OSError)}),
        "cold": ScriptedServer(),
    }
    async with watched_pool(servers) as pool, trio.open_nursery() as nursery:
        await pool.wait_ready("ready")
        nursery.start_soon(pool.wait_ready, "mute")
        with pytest.raises(ConnectError):
            await pool.wait_ready("dead")
        states = {name: server.state for name, server in pool.statistics().servers.items()}
        assert states == {"ready": "ready", "mute": "connecting", "dead": "backoff", "cold": "cold"}
        nursery.cancel_scope.cancel()


async def test_pool_servers_is_what_is_configured_now_and_read_only(autojump_clock: trio.testing.MockClock) -> None:
    a, b, c = ScriptedServer(), ScriptedServer(), ScriptedServer()
    async with watched_pool({"a": a, "b": b}) as pool:
        assert dict(pool.servers) == {"a": a, "b": b}
        with pytest.raises(TypeError):
            pool.servers["c"] = c  # type: ignore[index]
        pool.add_server("c", c)
        assert list(pool.servers) == ["a", "b", "c"]
        await pool.remove_server("a")
        await pool.reconfigure({"c": c, "b": a})
        assert list(pool.servers.items()) == [("c", c), ("b", a)]
        async with pool.open_scope(servers={"own": b}) as scope:
            assert dict(scope.servers) == {"c": c, "b": a, "own": b}
            assert "own" not in pool.servers


async def test_wait_ready_dials_each_server_named_once_and_takes_no_lease(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer(gates={"spawn": slow(2)}) for name in "abc"}
    async with watched_pool(servers) as pool:
        await pool.wait_ready("a", "b", "a")
        assert trio.current_time() == 2
        assert [len(server.connections) for server in servers.values()] == [1, 1, 0]
        stats = check_books(pool)
        assert (stats.acquires, stats.sessions_idle, stats.peak_tasks_waiting) == (0, 2, 0)
        await pool.wait_ready()
        assert trio.current_time() == 4
        with trio.testing.assert_checkpoints():
            await pool.wait_ready()


async def test_wait_ready_raises_what_it_says(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": error(OSError)})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.wait_ready("s")
        assert type(caught.value) is ConnectError
        with pytest.raises(ServerUnavailableError):
            await pool.wait_ready("s")
        with pytest.raises(UnknownServerError, match="did you mean 's'"):
            await pool.wait_ready("ss")
        assert not issubclass(UnknownServerError, AuthenticationError)
    with pytest.raises(PoolClosedError):
        await pool.wait_ready("s")


async def test_wait_ready_waits_through_a_backoff_where_the_policy_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError), error(OSError)]})
    policy = PoolPolicy(backoff=EXACT, when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool:
        await pool.wait_ready("s")
        assert trio.current_time() == 3


async def test_a_cancelled_wait_ready_leaves_the_dial_to_the_pool(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": slow(5)})
    async with watched_pool({"s": server}) as pool:
        with trio.move_on_after(1):
            await pool.wait_ready("s")
        await pool.wait_ready("s")
        assert (trio.current_time(), len(server.connections)) == (5, 1)
        assert check_books(pool).acquires_cancelled == 0
