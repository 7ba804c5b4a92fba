from __future__ import annotations

import json
import logging
from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp.shared.dispatcher import Dispatcher as DispatcherProtocol
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, REQUEST_TIMEOUT

from trio_mcp_pool._errors import InvalidResultError, MessageTooLargeError
from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire.stdio._dispatcher import Dispatcher

from ..pipes import MemoryPipe, line, rig

settled = trio.testing.wait_all_tasks_blocked


def code(error: BaseException | None) -> int:
    assert isinstance(error, mcp.MCPError)
    return error.code


def test_it_satisfies_the_protocol_of_the_sdk() -> None:
    def takes(_: DispatcherProtocol[Any]) -> None: ...

    takes(Dispatcher(MemoryPipe(), Link("s"), max_message=1, max_values=1))


# Answers.


async def test_each_caller_gets_its_own_answer_whatever_their_order() -> None:
    async with rig() as r:
        calls = [r.start_call(params={"n": n}) for n in range(3)]
        await settled()
        sent = {message["params"]["n"]: message["id"] for message in r.pipe.messages()}
        for n in (2, 0, 1):
            r.pipe.answer(sent[n], n=n)
        await settled()
        assert [call.result for call in calls] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert r.pending == 0


async def test_an_id_echoed_as_a_string_still_finds_its_caller() -> None:
    async with rig() as r:
        call = r.start_call(opts={"request_id": "7"})
        await settled()
        assert r.pipe.messages()[0]["id"] == "7"
        r.pipe.answer(7, ok=1)
        await settled()
        assert call.result == {"ok": 1}


async def test_a_supplied_id_in_flight_is_refused_and_minted_ids_go_round_it() -> None:
    async with rig() as r:
        r.start_call(opts={"request_id": 1})
        await settled()
        with pytest.raises(ValueError, match="already in flight"):
            await r.dispatcher.send_raw_request("m", None, {"request_id": "1"})
        r.start_call()
        await settled()
        assert [message["id"] for message in r.pipe.messages()] == [1, 2]


async def test_an_error_of_the_server_is_an_mcp_error_and_a_malformed_response_fails_only_its_call() -> None:
    async with rig() as r:
        refused, malformed, fine = (r.start_call(opts={"request_id": n}) for n in "abc")
        await settled()
        r.pipe.give(line({"jsonrpc": "2.0", "id": "a", "error": {"code": -5, "message": "no", "data": [1]}}))
        r.pipe.give(line({"jsonrpc": "2.0", "id": "b", "result": 5}))
        r.pipe.answer("c")
        await settled()
        assert isinstance(refused.error, mcp.MCPError)
        assert (refused.error.code, refused.error.message, refused.error.data) == (-5, "no", [1])
        assert isinstance(malformed.error, InvalidResultError)
        assert (malformed.error.server, malformed.error.outcome, malformed.error.result) == ("s", "answered", 5)
        assert fine.result == {}


async def test_a_batch_is_taken_apart() -> None:
    async with rig() as r:
        calls = [r.start_call(opts={"request_id": n}) for n in "ab"]
        await settled()
        r.pipe.give(line([{"jsonrpc": "2.0", "id": i, "result": {"i": i}} for i in "ba"] + [5]))
        await settled()
        assert [call.result for call in calls] == [{"i": "a"}, {"i": "b"}]


async def test_what_json_cannot_say_is_refused_before_anything_is_sent() -> None:
    async with rig() as r:
        with pytest.raises(ValueError, match="serialize"):
            await r.dispatcher.send_raw_request("m", {"x": object()})
        assert not r.pipe.sent
        assert r.pending == 0


async def test_a_request_before_run_says_so() -> None:
    with pytest.raises(RuntimeError, match="before run"):
        await Dispatcher(MemoryPipe(), Link("s"), max_message=1, max_values=1).send_raw_request("m", None)


async def test_R17_verbs_checkpoint() -> None:
    async with rig() as r:
        with trio.testing.assert_checkpoints():
            await r.dispatcher.notify("n", None)
        r.pipe.end()
        await settled()
        with trio.testing.assert_checkpoints():
            await r.dispatcher.notify("n", None)
        with trio.testing.assert_checkpoints():
            with pytest.raises(mcp.MCPError):
                await r.dispatcher.send_raw_request("m", None)
    assert r.pipe.messages() == [{"jsonrpc": "2.0", "method": "n"}]


# Written, and cancelled.


async def test_written_is_said_exactly_with_the_last_byte() -> None:
    async with rig(room=0) as r:
        call = r.start_call(params={"text": "x" * 50})
        await settled()
        while not r.pipe.sent.endswith(b"\n"):
            assert not call.call.written
            r.pipe.make_room(1)
            await settled()
        assert call.call.written


async def test_a_call_cancelled_in_the_queue_leaves_no_trace() -> None:
    async with rig(room=0) as r:
        first, second = r.start_call("first"), r.start_call("second")
        await settled()
        first.scope.cancel()
        await settled()
        assert first.done_at is not None
        r.pipe.make_room()
        await settled()
        assert [message["method"] for message in r.pipe.messages()] == ["second"]
        assert (first.call.written, second.call.written) == (False, True)
        assert r.pending == 1


async def test_a_call_already_cancelled_sends_nothing() -> None:
    async with rig() as r:
        call = r.start_call()
        call.scope.cancel()
        await settled()
        assert not r.pipe.sent
        assert not call.call.written


async def test_a_partly_written_request_is_completed_then_cancelled_and_its_caller_leaves_at_once() -> None:
    async with rig(room=10) as r:
        call = r.start_call("partly")
        await settled()
        call.scope.cancel()
        await settled()
        assert call.done_at is not None
        other = r.start_call("other")
        await settled()
        for _ in range(1000):
            r.pipe.make_room(1)
            await settled()
            if r.pipe.sent.endswith(b"}\n") and len(r.pipe.messages()) == 3:
                break
        partly, notice, last = r.pipe.messages()
        assert (partly["method"], last["method"]) == ("partly", "other")
        assert notice["method"] == "notifications/cancelled"
        assert notice["params"]["requestId"] == partly["id"]
        assert call.call.written
        assert other.call.written


async def test_a_cancelled_call_is_followed_by_a_notice_and_its_late_answer_is_dropped() -> None:
    async with rig() as r:
        call = r.start_call()
        await settled()
        call.scope.cancel()
        await settled()
        request, notice = r.pipe.messages()
        assert notice["params"] == {"requestId": request["id"], "reason": "caller cancelled"}
        r.pipe.answer(request["id"])
        r.pipe.answer(999)
        await settled()
        assert r.pending == 0
        assert call.result is None


async def test_R15_a_call_that_is_cut_goes_on_at_once_and_what_was_not_sent_never_is() -> None:
    async with rig(room=60) as r:
        sent = r.start_call("sent")
        await settled()
        queued = r.start_call("queued", params={"text": "x" * 50})
        await settled()
        third = r.start_call("third")
        await settled()
        r.link.leaving = True
        for call in (sent, third, third):
            call.call.cut("the connection closes")
        await settled()
        assert [code(call.error) for call in (sent, third)] == [CONNECTION_CLOSED] * 2
        assert (sent.call.written, third.call.written) == (True, False)
        assert r.pending == 1
        r.pipe.make_room()
        await settled()
        assert [message["method"] for message in r.pipe.messages()] == ["sent", "queued"]
        assert queued.done_at is None


@pytest.mark.parametrize("why", ["quietly", "leaving"])
async def test_no_notice_where_none_is_wanted(why: str) -> None:
    async with rig() as r:
        call = r.start_call(opts={"cancel_on_abandon": why != "quietly"})
        await settled()
        r.link.leaving = why == "leaving"
        call.scope.cancel()
        await settled()
        assert len(r.pipe.messages()) == 1


async def test_an_answer_and_a_cancellation_in_one_instant_lose_nothing() -> None:
    async with rig() as r:
        call = r.start_call()
        await settled()
        r.pipe.answer(1, ok=1)
        await trio.lowlevel.checkpoint()
        call.scope.cancel()
        await settled()
        assert r.pending == 0
        assert call.done_at is not None


# Time.


async def test_the_clock_of_a_timeout_starts_when_the_request_is_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(room=0, write_timeout=100) as r:
        call = r.start_call(opts={"timeout": 3})
        await trio.sleep(5)
        assert call.result is None
        r.pipe.make_room()
        await trio.sleep(10)
        assert (call.done_at, code(call.error)) == (8, REQUEST_TIMEOUT)
        request, notice = r.pipe.messages()
        assert notice["params"] == {"requestId": request["id"], "reason": "timed out after 3s"}
        assert not r.link.is_lost


async def test_R11_no_byte_accepted_for_write_timeout_is_death(autojump_clock: trio.testing.MockClock) -> None:
    async with rig(room=5, write_timeout=10) as r:
        partly = r.start_call()
        await trio.sleep(9)
        r.pipe.make_room(1)  # one byte is progress
        await trio.sleep(9)
        queued = r.start_call()
        assert not r.link.is_lost
        await trio.sleep(5)
        assert r.link.is_lost
        assert isinstance(r.link.lost_cause, TimeoutError)
        assert (partly.done_at, queued.done_at) == (19, 19)
        assert [code(call.error) for call in (partly, queued)] == [CONNECTION_CLOSED] * 2
        assert [call.call.written for call in (partly, queued)] == [False, False]


async def test_R11_a_full_pipe_with_nothing_waiting_is_no_death(autojump_clock: trio.testing.MockClock) -> None:
    async with rig(room=0, write_timeout=10) as r:
        for _ in range(5):
            call = r.start_call()
            await trio.sleep(9)
            call.scope.cancel()
            await trio.sleep(30)
        assert not r.link.is_lost


async def test_the_patience_with_a_withdrawn_message_is_not_held_against_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for _ in range(8):  # what happens within one instant happens in any order
        async with rig(room=0, write_timeout=10) as r:
            first = r.start_call()
            start = trio.current_time()
            await trio.sleep(9)
            first.scope.cancel()
            await trio.sleep_until(start + 10)
            second = r.start_call()
            await trio.sleep_until(start + 19.9)
            assert not r.link.is_lost
            await trio.sleep_until(start + 20.1)
            assert r.link.is_lost
            assert second.done_at == start + 20


# Death.


@pytest.mark.parametrize("sign", ["end of stream", "broken pipe", "ended process"])
async def test_death_is_told_to_the_link_first_and_then_to_every_caller(sign: str) -> None:
    states: list[tuple[bool, int]] = []
    async with rig(on_lost=lambda: states.append((r.dispatcher.channel.closed, r.pending))) as r:
        calls = [r.start_call() for _ in range(3)]
        await settled()
        if sign == "end of stream":
            r.pipe.end()
        elif sign == "broken pipe":
            r.pipe.break_()
            calls.append(r.start_call())
        else:
            r.dispatcher.channel.end(None)
        await settled()
        assert states == [(True, len(calls))]
        assert [code(call.error) for call in calls] == [CONNECTION_CLOSED] * len(calls)
        assert [call.call.written for call in calls] == [True, True, True, False][: len(calls)]
        with pytest.raises(mcp.MCPError, match="Connection closed"):
            await r.dispatcher.send_raw_request("m", None)


async def test_R12_an_idle_death_is_noticed_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as r:
        await trio.sleep(100)
        r.pipe.end()
        await settled()
        assert r.link.is_lost


@pytest.mark.parametrize("newline", [b"\n", b""])
async def test_the_last_answer_of_a_dead_process_is_not_lost(newline: bytes) -> None:
    async with rig() as r:
        answered, cut = r.start_call(opts={"request_id": "a"}), r.start_call()
        await settled()
        r.pipe.give(line({"jsonrpc": "2.0", "id": "a", "result": {"last": 1}}).rstrip() + newline)
        r.dispatcher.channel.end(None)
        await settled()
        assert answered.result == {"last": 1}
        assert code(cut.error) == CONNECTION_CLOSED


async def test_a_notification_that_waits_for_a_full_pipe_is_let_go_by_death() -> None:
    async with rig(room=0) as r:
        r.nursery.start_soon(r.dispatcher.notify, "n", None)
        await settled()
        r.pipe.end()
        await settled()
        assert r.link.is_lost


# Bad lines.

GOOD = line({"jsonrpc": "2.0", "id": 1, "result": {"ok": True}})
BAD = [
    b"garbage\n",
    b"\xff\xfe\x00\n",
    b"[]\n",
    b"5\n",
    b'{"jsonrpc": "1.0", "id": 99, "result": {}}\n',
    b'{"jsonrpc": "2.0", "id": true, "result": {}}\n',
    b'{"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": "m"}}\n',
    b'{"jsonrpc": "2.0", "method": 5}\n',
    b'{"jsonrpc": "2.0", "method": "m", "params": 5}\n',
    b'{"jsonrpc": "2.0", "id": {}, "method": "m"}\n',
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
async def test_a_bad_line_is_reported_and_the_rest_goes_on(bad: bytes) -> None:
    reports: list[str] = []

    async def observer(exc: Exception) -> None:
        await trio.lowlevel.checkpoint()
        reports.append(str(exc))

    async with rig(observer=observer) as r:
        call = r.start_call()
        await settled()
        r.pipe.give(b"\n \r\n" + bad + GOOD)
        await settled()
        assert call.result == {"ok": True}
        assert len(reports) == 1
        assert len(reports[0]) < 400


async def test_a_line_with_one_bad_byte_still_answers_its_call() -> None:
    async with rig() as r:
        call = r.start_call()
        await settled()
        r.pipe.give(b'{"jsonrpc": "2.0", "id": 1, "result": {"text": "caf\xe9"}}\n')
        await settled()
        assert call.result == {"text": "caf\N{REPLACEMENT CHARACTER}"}


HUGE = b'"' + b'{\\"id\\":2}' * 1000 + b'"'
OVERLONG = {
    "the id first": b'{"jsonrpc":"2.0","id":1,"result":{"text":' + HUGE + b"}}\n",
    "the id before the version": b'{"id": 1, "jsonrpc": "2.0", "result":{"text":' + HUGE + b"}}\n",
    "the id last": b'{"result":{"text":' + HUGE + b'},"jsonrpc":"2.0","id":1}\n',
    "an error": b'{"id":"1","error":{"code":1,"message":' + HUGE + b"}}\n",
}
NOT_FOR_IT = {
    "a request": b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"text":' + HUGE + b"}}\n",
    "an id deeper down": b'{"jsonrpc":"2.0","result":{"text":' + HUGE + b',"id":1}}\n',
    "an id in a text": b'{"jsonrpc":"2.0","result":{"text":' + HUGE[:-1] + b'\\"id\\":1}"}}\n',
}


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", OVERLONG)
async def test_an_overlong_answer_fails_the_call_that_it_answers(kind: str, pieces: int) -> None:
    async with rig(max_message=5000) as r:
        call, other = r.start_call(opts={"request_id": 1}), r.start_call(opts={"request_id": 2})
        await settled()
        data, size = OVERLONG[kind], len(OVERLONG[kind]) // pieces + 1
        r.pipe.give(*(data[at : at + size] for at in range(0, len(data), size)))
        r.pipe.answer(2, fine=1)
        await settled()
        assert isinstance(call.error, MessageTooLargeError)
        assert (call.error.server, call.error.limit, call.error.outcome) == ("s", 5000, "answered")
        assert other.result == {"fine": 1}


@pytest.mark.parametrize("kind", NOT_FOR_IT)
async def test_an_overlong_line_that_answers_nobody_is_logged_and_skipped(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(max_message=5000) as r:
        call = r.start_call(opts={"request_id": 1})
        await settled()
        r.pipe.give(NOT_FOR_IT[kind])
        await settled()
        assert call.done_at is None
        assert "more than 5000 bytes" in caplog.text
        r.pipe.answer(1, ok=1)
        await settled()
        assert call.result == {"ok": 1}


# What the server asks, and callbacks.


async def test_a_request_of_the_server_is_answered_even_when_the_callback_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def on_request(context: Any, method: str, params: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if method == "raise":
            raise RuntimeError("secret inside")
        if method == "refuse":
            raise mcp.MCPError(-7, "no")
        if method == "odd":
            return {"x": object()}
        return {"echo": params, "id": context.request_id}

    async with rig(on_request=on_request) as r:
        for n, method in enumerate(["raise", "refuse", "odd", "fine"]):
            r.pipe.give(line({"jsonrpc": "2.0", "id": n, "method": method, "params": {"p": n}}))
            await settled()
        answers = r.pipe.messages()
        assert answers[0]["error"]["code"] == INTERNAL_ERROR
        assert "secret" not in json.dumps(answers[0])
        assert answers[1]["error"] == {"code": -7, "message": "no"}
        assert answers[2]["error"]["code"] == INTERNAL_ERROR
        assert answers[3]["result"] == {"echo": {"p": 3}, "id": 3}


async def test_a_callback_may_block_or_call_back_into_the_session() -> None:
    async def on_request(context: Any, method: str, params: Any) -> dict[str, Any]:
        if method == "block":
            await trio.sleep_forever()
        await context.notify("from the callback", None)
        await context.progress(1, 2, "half")
        return {"answer": await r.dispatcher.send_raw_request("back", None)}

    async with rig(on_request=on_request) as r:
        r.pipe.give(line({"jsonrpc": "2.0", "id": "x", "method": "block"}))
        asks = {"jsonrpc": "2.0", "id": "y", "method": "ask", "params": {"_meta": {"progressToken": 5}}}
        r.pipe.give(line(asks))
        await settled()
        call = r.start_call()
        await settled()
        notice, progress, back, mine = r.pipe.messages()
        assert notice["method"] == "from the callback"
        assert progress["params"] == {"progressToken": 5, "progress": 1, "total": 2, "message": "half"}
        r.pipe.answer(mine["id"], ok=1)
        r.pipe.answer(back["id"], b=1)
        await settled()
        assert call.result == {"ok": 1}
        assert r.pipe.messages()[-1] == {"jsonrpc": "2.0", "id": "y", "result": {"answer": {"b": 1}}}


async def test_a_request_that_the_server_takes_back_is_cancelled_and_never_answered() -> None:
    cancelled: list[bool] = []

    async def on_request(context: Any, method: str, params: Any) -> dict[str, Any]:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(context.cancel_requested.is_set())
        raise AssertionError

    async with rig(on_request=on_request) as r:
        r.pipe.give(line({"jsonrpc": "2.0", "id": 5, "method": "m"}))
        await settled()
        r.pipe.give(line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "5"}}))
        await settled()
        assert cancelled == [True]
        assert not r.pipe.sent


async def test_notifications_meet_the_intercept_in_order_and_handlers_may_raise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    seen: list[str] = []
    handled: list[str] = []

    def intercept(method: str, params: Any) -> bool:
        seen.append(method)
        if method == "b":
            raise RuntimeError
        return method == "c"

    async def on_notify(context: Any, method: str, params: Any) -> None:
        await trio.lowlevel.checkpoint()
        handled.append(method)
        raise RuntimeError

    async with rig(intercept=intercept, on_notify=on_notify) as r:
        r.pipe.give(b"".join(line({"jsonrpc": "2.0", "method": m}) for m in "abcd"))
        await settled()
        assert seen == list("abcd")
        assert sorted(handled) == list("abd")


async def test_progress_arrives_in_order_and_its_callback_may_raise_or_block(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    got: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        await trio.lowlevel.checkpoint()
        got.append((progress, total, message))
        if progress == 2:
            raise RuntimeError
        if progress == 4:
            await trio.sleep_forever()

    async with rig() as r:
        call = r.start_call(params={"_meta": {"k": 1}}, opts={"on_progress": on_progress})
        await settled()
        request = r.pipe.messages()[0]
        token = request["params"]["_meta"]["progressToken"]
        assert request["params"]["_meta"] == {"k": 1, "progressToken": request["id"]}
        for step in range(1, 6):
            params = {"progressToken": token, "progress": step, "total": 5 if step == 1 else None}
            r.pipe.give(line({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
        await settled()
        r.pipe.answer(token)
        await settled()
        assert got == [(1, 5, None), (2, None, None), (3, None, None), (4, None, None)]
        assert call.result == {}


@pytest.mark.parametrize("ticks", range(8))
async def test_no_notification_is_handled_twice_when_the_session_is_left_under_it(ticks: int) -> None:
    handled: list[str] = []

    async def on_notify(context: Any, method: str, params: Any) -> None:
        handled.append(method)
        await trio.lowlevel.checkpoint()

    async with rig(on_notify=on_notify) as r:
        r.pipe.give(b"".join(line({"jsonrpc": "2.0", "method": m}) for m in "ab"))
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
    assert len(handled) == len(set(handled))
