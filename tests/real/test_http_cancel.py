"""A cancelled call over HTTP, and the notice of it."""

from __future__ import annotations

import os
import sys

import mcp
import mcp_types as types
import pytest
import trio

from tests.real.http_dial import dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool._wire.http._notices import SENDERS


@pytest.mark.parametrize("notice", [raw.hang, raw.reset, raw.status(500), raw.status(400)])
@pytest.mark.parametrize("slow", [raw.hang, raw.hanging_events])
async def test_a_cancel_notice_that_goes_wrong_disturbs_nobody(notice: raw.Plan, slow: raw.Plan) -> None:
    plans = {"notifications/cancelled": notice, "slow": slow}
    async with raw_server(plans) as server, dialled(server.url) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, connection, "slow")
            await server.hanging.wait()
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 4
        assert await connection.call("good") == "ok"
        assert trio.current_time() - before < 4
        while "slow" not in server.gone:
            await trio.sleep(0.01)
        assert server.seen.count("notifications/cancelled") == 1
        assert not connection.link.is_lost


async def test_R15_a_thousand_cancelled_callers_do_not_open_a_thousand_connections() -> None:
    async with raw_server({"slow": raw.hang, "notifications/cancelled": raw.hang}) as server:
        async with dialled(server.url) as connection:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(swallow, connection, "slow")
                while server.seen.count("slow") < 100:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            while server.gone.count("slow") < 100:
                await trio.sleep(0.01)
            assert server.seen.count("notifications/cancelled") <= 8
            assert await connection.call("good") == "ok"


@pytest.mark.parametrize("slow", [raw.hang, raw.hanging_events])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_of_a_hundred_cancelled_callers_not_one_leaves_its_request_open(slow: raw.Plan, mode: str) -> None:
    plans = {
        "slow": slow,
        "notifications/cancelled": raw.hang,
        "server/discover": raw.discover if mode == "auto" else raw.status(404),
    }
    async with raw_server(plans) as server, dialled(server.url, mode=mode) as connection:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(swallow, connection, "slow")
            while server.seen.count("slow") < 100:
                await trio.sleep(0.01)
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 4
        while server.gone.count("slow") < 100:
            await trio.sleep(0.01)
        assert trio.current_time() - before < 2
        await trio.sleep(0.1)
        # In the modern era the closed connection is the cancellation.
        assert server.seen.count("notifications/cancelled") == (0 if mode == "auto" else SENDERS)
        assert await connection.call("good") == "ok"


async def test_a_caller_that_was_cancelled_before_its_request_left_sends_no_notice() -> None:
    async with raw_server({"slow": raw.hang}) as server, dialled(server.url, max_connections=1) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow, connection, "slow")
            await server.hanging.wait()
            with trio.move_on_after(0.05):
                await connection.call("good")
            nursery.cancel_scope.cancel()
        await connection.call("good")
        await trio.sleep(0.05)
        assert server.seen.count("notifications/cancelled") == 1


async def test_a_timeout_is_followed_by_a_notice_and_closes_the_exchange() -> None:
    async with raw_server({"slow": raw.hang}) as server, dialled(server.url) as connection:
        with pytest.raises(mcp.MCPError, match="timed out"):
            await connection.client.call_tool("slow", {}, read_timeout_seconds=0.1)
        while "slow" not in server.gone:
            await trio.sleep(0.005)
        while "notifications/cancelled" not in server.seen:
            await trio.sleep(0.005)
        assert await connection.call("good") == "ok"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
async def test_R19_a_flood_of_pings_whose_answers_the_server_does_not_take_holds_few_descriptors() -> None:
    async def get(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        for number in range(2000):
            await exchange.chunk(b'data: {"jsonrpc": "2.0", "id": "p%d", "method": "ping"}\n\n' % number)
        await exchange.wait_gone()

    before = len(os.listdir("/proc/self/fd"))
    async with raw_server({"GET": get, "response": raw.hang}) as server, dialled(server.url) as connection:
        await server.hanging.wait()
        await trio.sleep(0.5)
        assert server.seen.count("response") <= SENDERS
        # Both ends of each connection are in this process.
        assert len(os.listdir("/proc/self/fd")) - before < 40
        assert await connection.call("good") == "ok"


async def test_what_one_task_notifies_arrives_in_its_order() -> None:
    arrived: list[float] = []

    async def progress(exchange: raw.Exchange) -> None:
        await trio.sleep(0.01 if len(arrived) % 2 else 0)
        arrived.append(exchange.message["params"]["progress"])
        await exchange.reply(202)

    async with raw_server({"notifications/progress": progress}) as server, dialled(server.url) as connection:
        for number in range(10):
            params = types.ProgressNotificationParams(progress_token="token", progress=number)
            await connection.client.session.send_notification(types.ProgressNotification(params=params))
    assert arrived == list(range(10))
