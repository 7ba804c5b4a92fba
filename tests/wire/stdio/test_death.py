"""The order of an end: the last answers, then what is known of the process, then the link, then everybody (R12, R18)."""

from __future__ import annotations

from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp_types import CONNECTION_CLOSED

from ..pipes import Rig, rig

settled = trio.testing.wait_all_tasks_blocked


class Process:
    """Its exit status becomes known a moment after its stdout has ended."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.status: int | None = None

    async def settle(self) -> None:
        await trio.sleep(self.delay)
        self.status = 7


def strike(r: Rig, sign: str) -> None:
    if sign == "end of stream":
        r.pipe.end()
    elif sign == "broken pipe":
        r.pipe.break_()
        r.start_call()
    else:
        r.dispatcher.channel.end(None)


SIGNS = ["end of stream", "broken pipe", "ended process"]


@pytest.mark.parametrize("sign", SIGNS)
async def test_the_exit_status_is_known_when_the_loss_is_told_whichever_sign_came_first(
    sign: str, autojump_clock: trio.testing.MockClock
) -> None:
    process = Process(0.1)
    known: list[Any] = []
    async with rig(settle=process.settle, on_lost=lambda: known.append((trio.current_time(), process.status))) as r:
        before = r.start_call()
        await settled()
        strike(r, sign)
        await settled()
        between = r.start_call()
        await trio.sleep(1)
        assert known == [(0.1, 7)]
        for call in (before, between):
            assert isinstance(call.error, mcp.MCPError)
            assert (call.error.code, call.done_at) == (CONNECTION_CLOSED, 0.1)
        assert (before.call.written, between.call.written) == (True, False)


@pytest.mark.parametrize("sign", SIGNS)
async def test_an_answer_that_had_arrived_does_not_wait_for_the_exit_status(
    sign: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig(settle=Process(0.1).settle) as r:
        call = r.start_call()
        await settled()
        r.pipe.answer(1, last=1)
        strike(r, sign)
        await trio.sleep(1)
        assert (call.result, call.done_at) == ({"last": 1}, 0)


async def test_a_caller_is_cancelled_at_once_while_the_exit_status_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settle=Process(0.1).settle) as r:
        before = r.start_call()
        await settled()
        r.pipe.end()
        await settled()
        between = r.start_call()
        await settled()
        before.scope.cancel()
        between.scope.cancel()
        await settled()
        assert (before.done_at, between.done_at) == (0, 0)
        assert len(r.pipe.messages()) == 1


async def test_a_session_that_is_left_while_the_exit_status_is_waited_for_is_told_as_lost_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lost: list[float] = []
    async with rig(settle=trio.sleep_forever, on_lost=lambda: lost.append(trio.current_time())) as r:
        r.pipe.end()
        await settled()
        assert not lost
    assert lost == [0]
