"""R5 and R5b: an outage counts once, a backoff holds for queued dials too, and mute servers stand in nobody's way."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp.client.auth import OAuthFlowError
from mcp.server import Server

from trio_mcp_pool import (
    AuthenticationError,
    Backoff,
    ConnectError,
    CustomServer,
    DialFailed,
    HttpServer,
    InProcessServer,
    Pool,
    PoolPolicy,
    ServerUnavailableError,
    StdioServer,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

from .books import Ledger, check_books, settle, text, watched_pool

HALF = Backoff(first=0.5, factor=2, cap=60, jitter=0)
DOWN = error(OSError)


def dial_times(server: ScriptedServer) -> list[float]:
    return [connection.dialled_at for connection in server.connections]


async def failures(pool: Pool, scopes: list[Any], server: str = "s") -> list[tuple[float, str, int]]:
    """What so many callers get who call at the same time, each in a scope of its own: when, which error, which attempt."""
    told: list[tuple[float, str, int]] = []

    async def call(scope: Any) -> None:
        try:
            await pool.call_tool(server, "echo", {"text": "x"}, scope=scope)
        except ConnectError as why:
            told.append((trio.current_time(), type(why).__name__, why.attempt))

    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(call, scope)
    return told


# An outage counts once.


@pytest.mark.parametrize("kind", ["scopes", "min_sessions", "exclusive callers"])
async def test_R5_a_server_that_is_down_for_one_moment_is_dialled_again_after_half_a_second_however_many_dials_it_failed(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer(gates={"handshake": [DOWN] * 8})
    policy = PoolPolicy(backoff=HALF, max_sessions=8, max_in_flight=1, min_sessions=8 if kind == "min_sessions" else 0)
    async with watched_pool({"s": server}, policy=policy) as pool:
        scopes = {"scopes": [*"abcdefgh"], "min_sessions": [None], "exclusive callers": [None] * 8}[kind]
        assert await failures(pool, scopes) == [(0, "ConnectError", 1)] * len(scopes)
        assert len(server.connections) == 8
        stats = pool.statistics().servers["s"]
        assert (stats.state, stats.retry_at) == ("backoff", 0.5)
        await trio.sleep_until(0.499)
        assert await failures(pool, scopes[:1]) == [(0.499, "ServerUnavailableError", 1)]
        await trio.sleep_until(0.5)
        assert await failures(pool, scopes) == []
        await settle()
        assert set(dial_times(server)) == {0, 0.5}
        assert pool.statistics().servers["s"].last_error is None


async def test_R5_dials_that_fail_one_after_the_other_are_one_outage_if_they_started_before_the_first_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"spawn": [slow(seconds) for seconds in (1, 2, 3, 4)], "handshake": [DOWN] * 4})
    policy = PoolPolicy(backoff=Backoff(first=10, jitter=0), max_sessions=4, max_in_flight=1)
    ledger = Ledger()
    async with watched_pool({"s": server}, policy=policy, ledger=ledger) as pool:
        assert await failures(pool, [None] * 4) == [(4, "ConnectError", 1)] * 4
        failed = [e for e in ledger.events if isinstance(e, DialFailed)]
        assert [(e.at, e.error.attempt, e.error.retry_after) for e in failed] == [
            (1, 1, 10),
            (2, 1, 9),
            (3, 1, 8),
            (4, 1, 7),
        ]
        assert pool.statistics().servers["s"].retry_at == 11


async def test_R5_a_dial_that_started_after_the_failure_counts_anew(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"handshake": DOWN})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        for at, attempt in ((0, 1), (0.5, 2), (1.5, 3), (3.5, 4)):
            await trio.sleep_until(at)
            assert await failures(pool, [None]) == [(at, "ConnectError", attempt)]


async def test_R5_eight_warm_unused_sessions_killed_by_one_restart_are_one_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer()
    policy = PoolPolicy(backoff=HALF, min_sessions=8, max_sessions=8)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(1)
        server.kill("all")
        await settle()
        with pytest.raises(ServerUnavailableError, match="died 1 s after its handshake, before it had") as caught:
            await pool.call_tool("s", "echo", {"text": "x"})
        assert (caught.value.attempt, caught.value.retry_after) == (1, 0.5)
        await trio.sleep_until(1.5)
        await pool.call_tool("s", "echo", {"text": "x"})
        assert trio.current_time() == 1.5
        await settle()
        assert Counter(dial_times(server)) == {0: 8, 1.5: 8}


@pytest.mark.parametrize("proof", ["an answer", "a long life", "an answer to another scope"])
async def test_R5_the_death_of_proved_sessions_is_no_failure(
    proof: str, autojump_clock: trio.testing.MockClock
) -> None:
    """An answer on one session proves the server, and so every dial that started before it."""
    server = ScriptedServer()
    policy = PoolPolicy(backoff=HALF, min_sessions=8, max_sessions=8)
    async with watched_pool({"s": server}, policy=policy) as pool:
        await trio.sleep(60 if proof == "a long life" else 1)
        if proof != "a long life":
            scope = "other" if proof == "an answer to another scope" else None
            await pool.call_tool("s", "echo", {"text": "x"}, scope=scope)
        now = trio.current_time()
        server.kill("all")
        await settle()
        assert await failures(pool, [None] * 8) == []
        assert trio.current_time() == now
        assert pool.statistics().servers["s"].last_error is None


async def test_R5_sessions_that_die_right_after_each_handshake_are_failures_that_follow_one_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A server that shakes hands and dies must not be dialled in a storm."""
    server = ScriptedServer(gates={"stream": [error()] * 100})
    policy = PoolPolicy(backoff=HALF)
    async with watched_pool({"s": server}, policy=policy) as pool:
        for at in (0, 0.5, 1.5, 3.5):
            await trio.sleep_until(at)
            await pool.wait_ready("s")
            server.kill()
            await settle()
        assert dial_times(server) == [0, 0.5, 1.5, 3.5]
        assert pool.statistics().servers["s"].retry_at == 3.5 + 4


async def test_R5_a_failure_from_before_the_proof_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    """The second dial began before the first session answered, so its failure is no news of an outage."""
    server = ScriptedServer(gates={"spawn": [ok, slow(5)], "handshake": [ok, DOWN]})
    policy = PoolPolicy(backoff=HALF, max_sessions=2, max_in_flight=1)
    async with watched_pool({"s": server}, policy=policy) as pool, trio.open_nursery() as nursery:
        held = await pool.acquire("s")
        nursery.start_soon(failures, pool, [None])
        await settle()
        assert server.open_connections == 2
        await held.call_tool("echo", {"text": "x"})
        await trio.sleep_until(5)
        await settle()
        stats = pool.statistics().servers["s"]
        assert (stats.state, stats.retry_at) == ("ready", -math.inf)
        held.release()


# Queued dials obey the backoff.


async def test_R5_a_hundred_scopes_on_a_mute_server_all_get_the_error_at_the_first_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": never})
    policy = PoolPolicy(connect_timeout=30, backoff=HALF)
    async with watched_pool({"s": server}, policy=policy) as pool:
        told = await failures(pool, list(range(100)))
        assert {at for at, _, _ in told} == {30}
        assert Counter(kind for _, kind, _ in told) == {"ConnectError": 8, "ServerUnavailableError": 92}
        assert {attempt for _, _, attempt in told} == {1}
        assert dial_times(server) == [0] * 8  # the others have never started
        await settle()
        assert check_books(pool).sessions_connecting == 0


async def test_R5_with_wait_the_queued_dials_wait_for_the_end_of_the_backoff(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = ScriptedServer(gates={"handshake": [never] * 8})
    policy = PoolPolicy(connect_timeout=30, backoff=Backoff(first=10, jitter=0), when_unavailable="wait")
    async with watched_pool({"s": server}, policy=policy) as pool:
        assert await failures(pool, list(range(20))) == []
        assert trio.current_time() == 40
        assert Counter(dial_times(server)) == {0: 8, 40: 20}


# Admission.


async def test_R5b_two_dead_servers_with_fifty_scopes_each_delay_a_healthy_third_by_one_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dead = {name: ScriptedServer(gates={"handshake": never}) for name in ("dead", "mute")}
    healthy = ScriptedServer()
    async with watched_pool({**dead, "healthy": healthy}) as pool, trio.open_nursery() as nursery:
        for name in dead:
            nursery.start_soon(failures, pool, list(range(50)), name)
        await settle()
        assert sum(server.open_connections for server in dead.values()) == 8
        await pool.call_tool("healthy", "echo", {"text": "x"})
        assert trio.current_time() == 1
        nursery.cancel_scope.cancel()


async def test_R5b_eight_mute_dials_hold_their_places_for_one_second_and_not_for_connect_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {f"mute {n}": ScriptedServer(gates={"spawn": never}) for n in range(8)}
    async with watched_pool({**servers, "healthy": ScriptedServer()}) as pool, trio.open_nursery() as nursery:
        for name in servers:
            nursery.start_soon(failures, pool, [None], name)
        await settle()
        await pool.call_tool("healthy", "echo", {"text": "x"})
        assert trio.current_time() == 1
        nursery.cancel_scope.cancel()


async def test_R5b_each_place_is_lent_once_a_second(autojump_clock: trio.testing.MockClock) -> None:
    """So a healthy server waits for about a second for each `max_connecting` mute ones ahead of it."""
    servers = {f"mute {n}": ScriptedServer(gates={"spawn": never}) for n in range(11)}
    servers["healthy"] = ScriptedServer()
    async with watched_pool(servers, max_connecting=3) as pool, trio.open_nursery() as nursery:
        for name in list(servers)[:-1]:
            nursery.start_soon(failures, pool, [None], name)
            await settle()
        await pool.call_tool("healthy", "echo", {"text": "x"})
        assert trio.current_time() == 3
        assert [dial_times(server) for server in servers.values()] == [
            [at] for at in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
        ]
        nursery.cancel_scope.cancel()


async def test_R5b_a_place_is_lent_only_to_a_server_without_a_dial_and_no_server_exceeds_max_connecting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    servers = {name: ScriptedServer(gates={"spawn": never}) for name in "ab"}
    policy = PoolPolicy(connect_timeout=20, backoff=HALF)
    async with watched_pool(servers, policy=policy, max_connecting=2) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(failures, pool, list(range(10)), "a")
        await settle()
        nursery.start_soon(failures, pool, list(range(10)), "b")
        await trio.sleep_until(19)
        assert (dial_times(servers["a"]), dial_times(servers["b"])) == ([0, 0], [1])
        nursery.cancel_scope.cancel()


async def test_R5b_places_go_round_the_servers_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    servers = {name: ScriptedServer(gates={"spawn": slow(0.5)}) for name in "ab"}
    async with watched_pool(servers, max_connecting=1) as pool, trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(failures, pool, [1, 2, 3], name)
            await settle()
    # The second dial of "a" was queued before the first of "b".
    assert dial_times(servers["a"]) == [0, 0.5, 1.5]
    assert dial_times(servers["b"]) == [1, 2, 2.5]


# What passes by itself, and what does not.


@pytest.mark.parametrize("kind", ["env", "headers"])
async def test_R5_a_ValueError_out_of_a_function_for_env_or_headers_is_tried_again_like_any_failure(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    calls: list[float] = []

    def credentials() -> dict[str, str]:
        calls.append(trio.current_time())
        return dict(json.loads("<html>the vault is being restarted</html>"))

    server = (
        StdioServer("never-started", env=credentials)
        if kind == "env"
        else HttpServer("http://127.0.0.1:1/never-reached", headers=credentials)
    )
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        for at, retry_after in ((0, 0.5), (0.5, 1), (1.5, 2)):
            await trio.sleep_until(at)
            with pytest.raises(ConnectError) as caught:
                await pool.wait_ready("s")
            assert (caught.value.phase, caught.value.retry_after) == ("configure", retry_after)
            assert isinstance(caught.value.__cause__, ValueError)
    assert calls == [0, 0.5, 1.5]


async def test_R5_a_missing_command_is_tried_again_at_the_cap(autojump_clock: trio.testing.MockClock) -> None:
    server = ScriptedServer(gates={"spawn": error(FileNotFoundError)})
    async with watched_pool({"s": server}, policy=PoolPolicy(backoff=HALF)) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.wait_ready("s")
        assert caught.value.retry_after == 60


async def test_R5_a_failed_OAuth_flow_in_a_dial_is_an_AuthenticationError_and_not_repeated_before_the_cap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    logins: list[float] = []

    def factory() -> Any:
        logins.append(trio.current_time())
        raise OAuthFlowError("the user closed the browser")

    servers = {"s": CustomServer(factory)}
    async with watched_pool(servers, policy=PoolPolicy(backoff=HALF)) as pool:
        with pytest.raises(AuthenticationError, match="the user closed the browser") as caught:
            await pool.wait_ready("s")
        assert caught.value.retry_after == 60
        assert isinstance(caught.value.__cause__, OAuthFlowError)
    logins.clear()
    async with watched_pool(servers, policy=PoolPolicy(backoff=HALF, min_sessions=1)):
        await trio.sleep(150)  # nobody calls
    assert logins == [0, 60, 120]


# The listing of the tools.


class Listing:
    """A server in this program that counts the listings of its tools, and lets the test say what becomes of them."""

    def __init__(self, *, seconds: float = 0, fails: bool = False) -> None:
        self.listings: list[float] = []
        self.seconds = seconds
        self.fails = fails
        self.server = Server("listing", on_list_tools=self._list, on_call_tool=self._call, on_read_resource=self._read)

    async def _list(self, context: Any, params: Any) -> types.ListToolsResult:
        self.listings.append(trio.current_time())
        await trio.sleep(self.seconds)
        if self.fails:
            raise RuntimeError("no listing today")
        hints = types.ToolAnnotations(read_only_hint=True)
        tool = types.Tool(name="echo", input_schema={"type": "object"}, annotations=hints)
        return types.ListToolsResult(tools=[tool])

    async def _call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        await trio.sleep(1)
        return types.CallToolResult(content=[types.TextContent(text=str((params.arguments or {}).get("text")))])

    async def _read(self, context: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        await trio.lowlevel.checkpoint()
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="read")])


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R13_a_server_whose_listing_of_tools_hangs_is_dialled_at_once_and_read_from(
    mode: Any, trusted: bool, autojump_clock: trio.testing.MockClock
) -> None:
    listing = Listing(seconds=10_000)
    servers = {"s": InProcessServer(listing.server, mode=mode, trusted=trusted)}
    async with watched_pool(servers, policy=PoolPolicy(connect_timeout=5)) as pool:
        await pool.wait_ready("s")
        await pool.read_resource("s", "memo://x")
        assert trio.current_time() == 0
        await settle()
        assert listing.listings == ([0] if trusted else [])
        await trio.sleep(30)
        assert check_books(pool).sessions_lost == 0


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R13_fifty_first_callers_cause_one_listing_of_the_tools(
    mode: Any, trusted: bool, autojump_clock: trio.testing.MockClock
) -> None:
    listing = Listing(seconds=0.5)
    servers = {"s": InProcessServer(listing.server, mode=mode, trusted=trusted)}
    async with watched_pool(servers) as pool:
        got: list[str] = []

        async def call(number: int) -> None:
            got.append(text(await pool.call_tool("s", "echo", {"text": f"{number}"})))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number)
        assert sorted(got, key=int) == [str(number) for number in range(50)]
        assert len(listing.listings) == 1
        await pool.call_tool("s", "echo", {"text": "x"})
        assert len(listing.listings) == 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_R18_a_listing_of_tools_that_fails_costs_no_call_its_answer(
    mode: Any, autojump_clock: trio.testing.MockClock
) -> None:
    listing = Listing(fails=True)
    async with watched_pool({"s": InProcessServer(listing.server, mode=mode)}) as pool:
        for _ in range(3):
            assert text(await pool.call_tool("s", "echo", {"text": "x"})) == "x"
