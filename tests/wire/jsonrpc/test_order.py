"""Callbacks begin in the order in which their messages arrived, although each has a task of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.transport_context import TransportContext

from ..pipes import line, rig

Context = DispatchContext[TransportContext]


def notification(number: int) -> bytes:
    return line({"jsonrpc": "2.0", "method": "notifications/message", "params": {"number": number}})


def answer(request_id: int) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "result": {}})


@pytest.mark.parametrize("chunks", ["one chunk", "a chunk per line"])
async def test_callbacks_begin_in_order_and_before_the_answer_that_follows(
    chunks: str, autojump_clock: trio.abc.Clock
) -> None:
    log: list[int | str] = []

    async def on_notify(context: Context, method: str, params: Mapping[str, Any] | None) -> None:
        assert params is not None
        log.append(params["number"])
        await trio.sleep(1 if params["number"] == 1 else 0)  # one that blocks holds up nothing
        log.append(f"{params['number']} done")

    async with rig(on_notify=on_notify) as r:
        for first in range(0, 60, 3):  # Trio turns a tick around by the toss of a coin
            log.clear()
            call = r.start_call()
            await trio.testing.wait_all_tasks_blocked()
            lines = [notification(0), notification(1), notification(2), answer(first // 3 + 1), notification(3)]
            r.pipe.give(*([b"".join(lines)] if chunks == "one chunk" else lines))
            began = trio.current_time()
            await trio.sleep(2)
            assert [entry for entry in log if isinstance(entry, int)] == [0, 1, 2, 3]
            assert log[-1] == "1 done"
            assert call.done_at == began


async def test_an_answer_that_waits_for_its_turn_survives_the_death_of_the_server() -> None:
    async with rig() as r:
        call = r.start_call()
        await trio.testing.wait_all_tasks_blocked()
        r.pipe.give(notification(0) + notification(1) + notification(2) + answer(1))
        r.pipe.end()
        await trio.testing.wait_all_tasks_blocked()
        assert call.error is None
        assert call.result == {}
