"""R19: whatever a server sends, the program goes on, memory stays bounded, and the server is what is slowed down."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.transport_context import TransportContext

from trio_mcp_pool._wire.jsonrpc import _inbound, _turns
from trio_mcp_pool._wire.jsonrpc._turns import MAX_RUNNING, MAX_WAITING, PATIENCE, REPLY_PATIENCE
from trio_mcp_pool._wire.stdio import _channel
from trio_mcp_pool._wire.stdio._pipe import CHUNK

from ..pipes import MemoryPipe, line, rig

Context = DispatchContext[TransportContext]
Params = Mapping[str, Any] | None
settled = trio.testing.wait_all_tasks_blocked


def notification(number: int, pad: str = "") -> bytes:
    return line({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": number, "pad": pad}})


def progress(token: object, number: int, message: str = "") -> bytes:
    params = {"progressToken": token, "progress": number, "message": message}
    return line({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def request(number: int) -> bytes:
    return line({"jsonrpc": "2.0", "id": number, "method": "ask"})


def unread(pipe: MemoryPipe) -> int:
    return len(pipe._chunks)


class Handler:
    """A handler of notifications and requests that blocks until it is told to go on."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.gate = trio.Event()

    async def on_notify(self, context: Context, method: str, params: Params) -> None:
        if params is not None:
            self.began.append(params["n"])
        await self.gate.wait()

    async def on_request(self, context: Context, method: str, params: Params) -> dict[str, Any]:
        self.began.append(int(context.request_id or 0))
        await self.gate.wait()
        return {}


async def test_a_long_line_that_is_always_there_to_be_read_lets_others_have_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_channel, "_SLICE", -1.0)
    turns: list[int] = []

    async def other(pipe: MemoryPipe) -> None:
        while unread(pipe):
            turns.append(unread(pipe))
            await trio.lowlevel.checkpoint()

    async with rig(max_message=100 * CHUNK) as r:
        await settled()
        r.pipe.give(*[b"x" * CHUNK] * 50)
        await other(r.pipe)
    assert len(turns) >= 40


# Notifications.


async def test_reading_stops_while_hundreds_of_callbacks_wait_and_nothing_is_lost(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    async with rig(on_notify=handler.on_notify) as r:
        r.pipe.give(*(notification(n) for n in range(2000)))
        await settled()
        assert len(handler.began) == MAX_RUNNING
        assert 2000 - unread(r.pipe) == MAX_RUNNING + MAX_WAITING
        await trio.sleep(PATIENCE / 2)
        handler.gate.set()
        await trio.sleep(1)
        assert handler.began == list(range(2000))
    assert not caplog.records


async def test_an_answer_does_not_wait_for_callbacks_that_cannot_begin() -> None:
    handler = Handler()
    async with rig(on_notify=handler.on_notify) as r:
        early, late = (r.start_call(opts={"request_id": name}) for name in ("early", "late"))
        await settled()
        r.pipe.give(*(notification(n) for n in range(MAX_RUNNING + 10)))
        r.pipe.answer("early", ok=1)
        await settled()
        assert early.result == {"ok": 1}
        r.pipe.give(notification(-1))
        r.pipe.answer("late", ok=2)
        await settled()
        assert late.result == {"ok": 2}
        assert len(handler.began) == MAX_RUNNING


async def test_callbacks_that_block_for_ever_hold_up_an_answer_for_a_bounded_time_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    async with rig(on_notify=handler.on_notify) as r:
        call = r.start_call()
        await settled()
        r.pipe.give(*(notification(n) for n in range(5000)))
        r.pipe.answer(1, ok=1)
        await trio.sleep(PATIENCE + 1)
        assert call.result == {"ok": 1}
        assert call.done_at == PATIENCE
        assert unread(r.pipe) == 0
        (warning,) = caplog.records
        assert "none has been finished for 5 s" in warning.getMessage()
        handler.gate.set()
        await trio.sleep(1)
        # The newest are kept, in order.
        assert handler.began == [*range(MAX_RUNNING), *range(5000 - MAX_WAITING, 5000)]
        assert f"{5000 - MAX_RUNNING - MAX_WAITING} of its messages were dropped" in caplog.records[1].getMessage()
        r.pipe.give(*(notification(n) for n in range(3)))
        await settled()
        assert handler.began[-3:] == [0, 1, 2]
    assert len(caplog.records) == 2


async def test_a_caller_is_cancelled_at_once_while_reading_is_stopped(autojump_clock: trio.testing.MockClock) -> None:
    handler = Handler()
    async with rig(on_notify=handler.on_notify) as r:
        r.pipe.give(*(notification(n) for n in range(2000)))
        call = r.start_call()
        await settled()
        start = trio.current_time()
        call.scope.cancel()
        await settled()
        assert call.done_at == start
        assert [message["method"] for message in r.pipe.messages()] == ["m", "notifications/cancelled"]


async def test_death_is_noticed_while_reading_is_stopped(autojump_clock: trio.testing.MockClock) -> None:
    handler = Handler()
    lost: list[float] = []
    async with rig(on_notify=handler.on_notify, on_lost=lambda: lost.append(trio.current_time())) as r:
        call = r.start_call()
        await settled()
        r.pipe.give(*(notification(n) for n in range(2000)))
        r.pipe.answer(1, last=1)
        await settled()
        r.dispatcher.channel.end(None)  # as when the process has ended
        await settled()
        assert lost == [0]
        assert call.result == {"last": 1}


async def test_what_waits_is_bounded_in_bytes_too(autojump_clock: trio.testing.MockClock) -> None:
    handler = Handler()
    pad = "x" * 100_000
    async with rig(on_notify=handler.on_notify, max_message=1_000_000) as r:
        r.pipe.give(*(notification(n, pad) for n in range(50)))
        await settled()
        assert 50 - unread(r.pipe) == 10
        handler.gate.set()
        await trio.sleep(1)
        assert handler.began == list(range(50))


# Progress.


async def test_progress_behind_a_blocked_callback_is_bounded_and_keeps_its_order_and_the_newest() -> None:
    got: list[tuple[float, str | None]] = []
    gate = trio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        got.append((progress, message))
        await gate.wait()

    async with rig() as r:
        r.start_call(opts={"on_progress": on_progress, "request_id": "call"})
        other = r.start_call(opts={"request_id": "other"})
        await settled()
        r.pipe.give(progress("call", 0))
        await settled()
        r.pipe.give(*(b"".join(progress("call", n) for n in range(at, at + 500)) for at in range(1, 20_001, 500)))
        r.pipe.answer("other", ok=1)
        await settled()
        assert other.result == {"ok": 1}
        assert got == [(0, "")]
        gate.set()
        await settled()
        numbers = [number for number, _ in got]
        assert numbers == [*range(_inbound.MAX_PROGRESS), 20_000]


async def test_progress_that_waits_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inbound, "MAX_PROGRESS_BYTES", 10_000)
    got: list[float] = []
    gate = trio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        got.append(progress)
        await gate.wait()

    async with rig() as r:
        r.start_call(opts={"on_progress": on_progress, "request_id": "call"})
        await settled()
        r.pipe.give(*(progress("call", n, "x" * 3000) for n in range(50)))
        await settled()
        gate.set()
        await settled()
        assert got == [0, 1, 2, 49]


# Requests.


async def test_requests_begin_in_the_order_of_arrival_among_notifications() -> None:
    began: list[int] = []

    async def on_notify(context: Context, method: str, params: Params) -> None:
        assert params is not None
        began.append(params["n"])

    async def on_request(context: Context, method: str, params: Params) -> dict[str, Any]:
        began.append(int(context.request_id or 0))
        return {}

    async with rig(on_notify=on_notify, on_request=on_request) as r:
        for start in range(0, 200, 10):  # Trio turns a tick around by the toss of a coin
            lines = [request(start + n) if n in (3, 4, 8) else notification(start + n) for n in range(10)]
            r.pipe.give(b"".join(lines))
            await settled()
        assert began == list(range(200))


async def test_a_flood_of_requests_that_block_is_refused_in_the_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    handler = Handler()
    async with rig(on_request=handler.on_request) as r:
        r.pipe.give(*(request(n) for n in range(1, 2001)))
        await settled()
        assert not r.pipe.sent
        assert "in>" in repr(r.dispatcher)
        await trio.sleep(PATIENCE + 1)
        refused = [message for message in r.pipe.messages() if "error" in message]
        assert [message["id"] for message in refused] == list(range(MAX_RUNNING + 1, 2001 - MAX_WAITING))
        assert {message["error"]["message"] for message in refused} == {"Too many requests wait"}
        handler.gate.set()
        await trio.sleep(1)
        answered = [message["id"] for message in r.pipe.messages() if "result" in message]
        assert sorted(answered) == [*range(1, MAX_RUNNING + 1), *range(2001 - MAX_WAITING, 2001)]


async def test_a_server_that_takes_no_answers_to_its_requests_holds_up_ours_for_half_a_second(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    handler = Handler()
    handler.gate.set()
    async with rig(on_request=handler.on_request) as r:
        call = r.start_call()
        await settled()
        r.pipe.room = 0
        r.pipe.give(*(request(n) for n in range(1, 2001)))
        r.pipe.answer(1, ok=1)
        await trio.sleep(PATIENCE)
        assert call.result == {"ok": 1}
        assert call.done_at == REPLY_PATIENCE
        tasks = len(r.nursery.child_tasks) + sum(
            len(n.child_tasks) for t in r.nursery.child_tasks for n in t.child_nurseries
        )
        assert tasks < MAX_RUNNING + 10


async def test_a_request_that_is_taken_back_while_it_waits_never_begins() -> None:
    handler = Handler()
    async with rig(on_request=handler.on_request) as r:
        r.pipe.give(*(request(n) for n in range(1, MAX_RUNNING + 3)))
        await settled()
        last = MAX_RUNNING + 2
        r.pipe.give(line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": last}}))
        await settled()
        handler.gate.set()
        await settled()
        assert handler.began == list(range(1, last))
        assert sorted(message["id"] for message in r.pipe.messages()) == list(range(1, last))


# One turn.


@pytest.mark.parametrize(
    "flood",
    [b"x\n", line({"jsonrpc": "2.0", "id": 99, "result": {}}), line([]), b"\xff\n"],
    ids=["rubbish", "unknown ids", "batches", "no UTF-8"],
)
async def test_others_have_a_turn_every_two_milliseconds_of_reading(
    flood: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 0.0002  # so long takes a line
        return now

    monkeypatch.setattr(_channel, "perf_counter", tick)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            seen = now
            await trio.lowlevel.checkpoint()
            longest = max(longest, now - seen)

    async with rig() as r:
        r.nursery.start_soon(watch)
        r.pipe.give(flood * 500, flood * 500)
        call = r.start_call()
        await trio.lowlevel.checkpoint()
        r.pipe.answer(1, ok=1)
        while call.done_at is None:
            await trio.lowlevel.checkpoint()
    assert 0.0018 < longest < 0.01  # the turns of two ticks may lie between two looks


async def test_a_flood_leaves_nothing_behind() -> None:
    handler = Handler()
    handler.gate.set()
    async with rig(on_notify=handler.on_notify) as r:
        for start in range(0, 3000, 100):
            r.pipe.give(b"".join(notification(n) for n in range(start, start + 100)))
        await settled()
        assert handler.began == list(range(3000))
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is _turns._Callback]
