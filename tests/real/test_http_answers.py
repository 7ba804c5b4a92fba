"""What is no answer, or too much of one, costs its own call and nobody else (R11, R18, R19). Each beside a sibling that
must not notice, on a server that answers to order."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import pytest
import trio

from tests.real.http_dial import Dialled, dialled
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call

LIMIT = 100_000


@asynccontextmanager
async def beside_a_sibling(plans: dict[str, raw.Plan], **options: Any) -> AsyncIterator[tuple[Dialled, raw.RawServer]]:
    """A session with a call under way that must get its answer, whatever becomes of the others."""
    release = trio.Event()
    answers: list[str] = []

    async def patient(exchange: raw.Exchange) -> None:
        await release.wait()
        await raw.ok(exchange)

    async with raw_server({"patient": patient, **plans}) as server:
        async with dialled(server.url, max_message=LIMIT, max_values=1000, **options) as connection:

            async def sibling() -> None:
                answers.append(await connection.call("patient"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(sibling)
                while "patient" not in server.seen:
                    await trio.sleep(0.005)
                yield connection, server
                release.set()
            assert answers == ["ok"]
            assert await connection.call("good") == "ok"
            assert not connection.link.is_lost
            assert connection.undecided == 0


def json_answer(**changes: Any) -> raw.Plan:
    """A result with some of its members changed, or left out where the change is `...`."""

    async def plan(exchange: raw.Exchange) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")}
        message |= changes
        await exchange.reply_json({name: value for name, value in message.items() if value is not ...})

    return plan


def event_answer(**changes: Any) -> raw.Plan:
    """The same as a server-sent event."""

    async def plan(exchange: raw.Exchange) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")}
        message |= changes
        await exchange.start_events()
        text = json.dumps({name: value for name, value in message.items() if value is not ...})
        await exchange.chunk(f"data: {text}\n\n".encode())
        await exchange.stream.send_all(b"0\r\n\r\n")

    return plan


def body(data: bytes, *headers: str) -> raw.Plan:
    return lambda exchange: exchange.reply(200, data, "content-type: application/json", *headers)


NO_ANSWERS = {
    "foreign-id": json_answer(id=4711),
    "foreign-id-event": event_answer(id="other"),
    "no-id": json_answer(id=...),
    "no-id-event": event_answer(id=...),
    "null-id-on-a-result": json_answer(id=None),
    "true-for-an-id": json_answer(id=True),
    "neither-result-nor-error": json_answer(result=...),
    "both-missing-event": event_answer(result=...),
    "a-list-for-a-result": json_answer(result=[]),
    "an-error-without-a-code": json_answer(result=..., error={"message": "x"}),
    "no-json": body(b"{'python': True}"),
    "empty-body": body(b""),
    "a-number": body(b"7"),
    "an-empty-batch": body(b"[]"),
    "a-batch-of-rubbish": body(b"[1, null]"),
    "accepted": raw.status(202),
}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("plan", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_R18_what_is_no_answer_is_said_at_once_and_to_its_caller_alone(plan: raw.Plan, mode: str) -> None:
    async with beside_a_sibling({"bad": plan}, mode=mode) as (connection, server):
        with trio.fail_after(5), pytest.raises(errors.InvalidResultError) as caught:
            await connection.call("bad")
        assert (caught.value.server, caught.value.outcome) == ("srv", "answered")
        assert server.seen.count("bad") == 1


@pytest.mark.parametrize("make", [json_answer, event_answer])
async def test_an_id_that_was_changed_to_a_string_is_the_same_id(make: Any) -> None:
    async def plan(exchange: raw.Exchange) -> None:
        await make(id=str(exchange.message["id"]))(exchange)

    async with beside_a_sibling({"strings": plan}) as (connection, _):
        assert await connection.call("strings") == "ok"


@pytest.mark.parametrize("make", [json_answer, event_answer])
async def test_an_error_without_an_id_belongs_to_its_exchange(make: Any) -> None:
    async with beside_a_sibling({"bad": make(id=None, result=..., error={"code": -32600, "message": "no"})}) as (
        connection,
        _,
    ):
        with pytest.raises(mcp.MCPError) as caught:
            await connection.call("bad")
        assert (caught.value.error.code, caught.value.error.message) == (-32600, "no")


async def test_two_callers_whose_answers_are_swapped_get_neither() -> None:
    """Each would otherwise be given the data of the other."""
    waiting: list[raw.Exchange] = []

    async def swap(exchange: raw.Exchange) -> None:
        waiting.append(exchange)
        while len(waiting) < 2:
            await trio.sleep(0.001)
        other = next(one for one in waiting if one is not exchange)
        await json_answer(id=other.message["id"])(exchange)

    async with beside_a_sibling({"swap": swap}) as (connection, _):

        async def one() -> None:
            with pytest.raises(errors.InvalidResultError):
                await connection.call("swap")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)


# Too much of an answer.


def result_of(size: int) -> raw.Plan:
    async def plan(exchange: raw.Exchange) -> None:
        await exchange.result(raw.tool_result("x" * size))

    return plan


async def endless(exchange: raw.Exchange) -> None:
    """A body that never ends, of which no length is known."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    await exchange.stream.send_all(head)
    try:
        while True:
            await exchange.chunk(b'"' + b"x" * 10_000)
    except trio.BrokenResourceError:
        exchange.server.gone.append(exchange.name)


def bomb(kind: str) -> raw.Plan:
    """A small body that becomes 200 MB."""
    inflated = b'{"jsonrpc": "2.0", "result": "' + b"x" * 200_000_000
    data = gzip.compress(inflated, 9) if kind == "gzip" else zlib.compress(inflated, 9)
    return body(data, f"content-encoding: {kind}")


def values(as_event: bool) -> raw.Plan:
    """A message of two thousand empty objects."""
    result = {"content": [], "structuredContent": {"many": [{}] * 2000}}
    return event_answer(result=result) if as_event else json_answer(result=result)


def event_of(size: int) -> raw.Plan:
    return event_answer(result=raw.tool_result("x" * size))


TOO_LARGE = {
    "json": (result_of(LIMIT), LIMIT),
    "endless-json": (endless, LIMIT),
    "gzip-bomb": (bomb("gzip"), LIMIT),
    "deflate-bomb": (bomb("deflate"), LIMIT),
    "event": (event_of(LIMIT), LIMIT),
    "large-event": (event_of(40 * LIMIT), LIMIT),
    "json-of-many-values": (values(False), 1000),
    "event-of-many-values": (values(True), 1000),
}


@pytest.mark.parametrize(("plan", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_R19_an_answer_over_a_limit_fails_its_own_call(plan: raw.Plan, limit: int) -> None:
    async with beside_a_sibling({"big": plan}) as (connection, server):
        call = Call(trio.CancelScope(), connection.link)
        with trio.fail_after(5), pytest.raises(errors.MessageTooLargeError) as caught:
            await connection.call("big", call)
        assert (caught.value.limit, caught.value.outcome, call.written) == (limit, "answered", True)
        assert server.seen.count("big") == 1


async def test_a_notification_over_the_limit_is_skipped_and_the_answer_behind_it_comes() -> None:
    async def plan(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * (2 * LIMIT)}}
        await exchange.chunk(f"data: {json.dumps(notice)}\n\n".encode())
        await exchange.chunk(exchange.result_event("ok"))
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with beside_a_sibling({"bad": plan}) as (connection, _):
        assert await connection.call("bad") == "ok"


async def test_an_answer_of_exactly_the_limit_is_taken() -> None:
    async def plan(exchange: raw.Exchange) -> None:
        message = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("")}
        room = LIMIT - len(json.dumps(message))
        message["result"] = raw.tool_result("x" * room)
        assert len(json.dumps(message)) == LIMIT
        await exchange.reply_json(message)

    async with beside_a_sibling({"big": plan}) as (connection, _):
        assert len(await connection.call("big")) > LIMIT - 200


# Codings.


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "x-gzip", "identity"])
@pytest.mark.parametrize("events", [False, True])
async def test_a_compressed_answer_is_read(coding: str, events: bool) -> None:
    async def plan(exchange: raw.Exchange) -> None:
        assert "gzip" in exchange.headers["accept-encoding"]
        answer = json.dumps({"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")})
        data = (f"data: {answer}\n\n" if events else answer).encode()
        kind = {"raw deflate": "deflate"}.get(coding, coding)
        if coding in ("gzip", "x-gzip"):
            data = gzip.compress(data[:20]) + gzip.compress(data[20:])  # two members
        elif coding == "deflate":
            data = zlib.compress(data)
        elif coding == "raw deflate":
            data = zlib.compress(data)[2:-4]
        media = "text/event-stream" if events else "application/json"
        await exchange.reply(200, data, f"content-type: {media}", f"content-encoding: {kind}")

    async with beside_a_sibling({"packed": plan}) as (connection, _):
        assert await connection.call("packed") == "ok"


@pytest.mark.parametrize(("coding", "data"), [("gzip", b"not gzip"), ("lzma", b"x"), ("gzip, gzip", b"x")])
async def test_a_coding_that_cannot_be_read_is_an_unknown_outcome(coding: str, data: bytes) -> None:
    async with beside_a_sibling({"bad": body(data, f"content-encoding: {coding}")}) as (connection, _):
        with pytest.raises(errors.OutcomeUnknownError, match="a body"):
            await connection.call("bad")


# Strange, but clear.

STRANGE = {
    "byte-order-mark": b"\xef\xbb\xbf%s",
    "white space": b"\r\n  %s\r\n",
}


@pytest.mark.parametrize("frame", STRANGE.values(), ids=STRANGE)
async def test_a_body_with_something_around_it_is_read(frame: bytes) -> None:
    async def plan(exchange: raw.Exchange) -> None:
        answer = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")}
        await exchange.reply(200, frame % json.dumps(answer).encode(), "content-type: application/json")

    async with beside_a_sibling({"strange": plan}) as (connection, _):
        assert await connection.call("strange") == "ok"


@pytest.mark.parametrize(
    "before",
    [
        b"\xef\xbb\xbf",
        b": keep-alive\n\n",
        b"retry: " + b"9" * 400 + b"\n\n",
        b"event: other\ndata: {}\n\n",
        b"data:\n\n",
        b"data: no json\n\n" * 0 + b"id: \x00\n\n",
        b'data: {"jsonrpc": "2.0", "method": 7}\n\n',
        b"unknown: field\n\n",
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_what_comes_before_an_answer_on_its_stream_does_not_lose_it(before: bytes, end: bytes) -> None:
    async def plan(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk((before + exchange.result_event("ok")).replace(b"\n", end))
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with beside_a_sibling({"odd": plan}) as (connection, _):
        assert await connection.call("odd") == "ok"


async def test_an_answer_over_several_data_lines_is_one_answer() -> None:
    async def plan(exchange: raw.Exchange) -> None:
        answer = {"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")}
        await exchange.start_events()
        text = json.dumps(answer, indent=1).replace("\n", "\ndata: ")
        await exchange.chunk(f"event: message\ndata: {text}\n\n".encode())
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with beside_a_sibling({"lines": plan}) as (connection, _):
        assert await connection.call("lines") == "ok"


@pytest.mark.parametrize("answer", [json_answer, event_answer])
async def test_R19_a_long_answer_is_read_in_steps_and_arrives_whole(answer: Any) -> None:
    text = "a line with an \u00fc\n" * 200_000
    async with raw_server({"long": answer(result=raw.tool_result(text))}) as server:
        async with dialled(server.url, max_message=16 * 1024 * 1024) as connection:
            assert await connection.call("long") == text
