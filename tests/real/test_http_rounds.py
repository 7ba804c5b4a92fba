"""Calls of more than one round over HTTP: what a later round's failure says of the earlier ones (R18)."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio

from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import Callbacks, Caller, HttpServer, PoolError, open_pool
from trio_mcp_pool._wire import _seam


async def decline(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="decline")


def asks_first(then: raw.Plan) -> raw.Plan:
    """A tool that runs, asks a person, and does what it is told with the answer."""

    async def plan(exchange: raw.Exchange) -> None:
        if exchange.message["params"].get("inputResponses"):
            await then(exchange)
            return
        question = {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "?", "requestedSchema": SCHEMA},
        }
        await exchange.result({"resultType": "input_required", "inputRequests": {"q": question}, "requestState": "1"})

    return plan


SCHEMA = {"type": "object", "properties": {}}


@pytest.mark.parametrize("seam", [True, False], ids=["dispatcher", "fallback"])
@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_R18_the_failure_of_a_later_round_does_not_say_that_nothing_ran(
    status: int, seam: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_seam, "seam_stands", lambda: seam)
    plans = {"server/discover": raw.discover, "x": asks_first(raw.status(status))}
    async with raw_server(plans) as server:
        described = HttpServer(server.url, mode="2026-07-28", callbacks=Callbacks(elicit=decline))
        with trio.fail_after(20):
            async with open_pool({"s": described}) as pool:
                with pytest.raises(PoolError) as caught:
                    await pool.call_tool("s", "x")
        assert caught.value.outcome == "unknown"
        assert server.seen.count("x") == 2


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK's wire leaves generators behind
@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_a_call_of_two_rounds_gives_the_result_of_the_second(wire: Any) -> None:
    async with raw_server({"server/discover": raw.discover, "x": asks_first(raw.ok)}) as server:
        described = HttpServer(server.url, mode="2026-07-28", wire=wire, callbacks=Callbacks(elicit=decline))
        with trio.fail_after(20):
            async with open_pool({"s": described}) as pool:
                result = await pool.call_tool("s", "x")
        assert result.content == [types.TextContent(text="ok")]
