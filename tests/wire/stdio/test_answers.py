"""Every answer reaches its caller, or the caller is told at once that it cannot (R11, R18, R19)."""

from __future__ import annotations

import json
from typing import Any

import mcp
import pytest
import trio
import trio.testing

from trio_mcp_pool._errors import InvalidResultError, MessageTooLargeError
from trio_mcp_pool._wire.jsonrpc import _faults

from ..pipes import rig

settled = trio.testing.wait_all_tasks_blocked

DEEP = 300
MANY_DIGITS = "9" * 5000


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


READABLE: dict[str, tuple[bytes, Any]] = {
    "a lone surrogate, as JSON.stringify writes a cut emoji": (
        b'{"jsonrpc":"2.0","id":1,"result":{"text":"cut \\ud83d"}}',
        {"text": "cut \ufffd"},
    ),
    "a lone surrogate in a key, and a whole pair beside it": (
        b'{"jsonrpc":"2.0","id":1,"result":{"\\udc00":"\\ud83d\\ude00","l":["\\ud83d"]}}',
        {"\ufffd": "\U0001f600", "l": ["\ufffd"]},
    ),
    "nesting of 300": (b'{"jsonrpc":"2.0","id":1,"result":%s}' % json.dumps(nested(DEEP)).encode(), nested(DEEP)),
    "a number of 5,000 digits": (
        b'{"jsonrpc":"2.0","id":1,"result":{"n":%s,"m":-%s}}' % (MANY_DIGITS.encode(), MANY_DIGITS.encode()),
        {"n": float("inf"), "m": float("-inf")},
    ),
    "a control character": (b'{"jsonrpc":"2.0","id":1,"result":{"text":"a\x01\tb"}}', {"text": "a\x01\tb"}),
    "a byte order mark": (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"result":{}}', {}),
    "the id 1.0": (b'{"jsonrpc":"2.0","id":1.0,"result":{}}', {}),
    "a missing jsonrpc": (b'{"id":1,"result":{"ok":1}}', {"ok": 1}),
    "another version of jsonrpc": (b'{"jsonrpc":"1.0","id":1,"result":{"ok":1}}', {"ok": 1}),
    "one byte that is no UTF-8": (b'{"jsonrpc":"2.0","id":1,"result":{"text":"caf\xe9"}}', {"text": "caf\ufffd"}),
    "infinity": (b'{"jsonrpc":"2.0","id":1,"result":{"x":Infinity}}', {"x": float("inf")}),
}


@pytest.mark.parametrize("how", READABLE)
async def test_an_answer_that_the_strict_parser_refuses_is_read_where_its_meaning_is_clear(how: str) -> None:
    line, result = READABLE[how]
    async with rig() as r:
        call = r.start_call()
        await settled()
        r.pipe.give(line + b"\n")
        await settled()
        assert call.error is None
        assert call.result == result
        json.dumps(call.result, ensure_ascii=False).encode()  # whole characters only


UNREADABLE = {
    "nesting of 100,000": b'{"jsonrpc":"2.0","id":1,"result":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "cut in the middle": b'{"jsonrpc":"2.0","id":1,"result":{"text":"secret',
    "the id last": b'{"result":{"text": secret},"jsonrpc":"2.0","id":1}',
    "rubbish behind the id": b'{"jsonrpc":"2.0","id":"1","result":{"text":\x00\xff}}',
    "an error": b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":secret}}',
    "two messages in one line": b'{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":2,"result":{}}',
}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_R18_the_caller_of_an_unreadable_answer_is_told_at_once_and_its_siblings_notice_nothing(how: str) -> None:
    async with rig(max_values=1_000_000) as r:
        call, sibling = r.start_call(opts={"request_id": 1}), r.start_call(opts={"request_id": 7})
        await settled()
        r.pipe.give(UNREADABLE[how] + b"\n")
        await settled()
        assert isinstance(call.error, InvalidResultError)
        assert (call.error.server, call.error.outcome, call.error.result) == ("s", "answered", None)
        assert "secret" not in str(call.error)
        assert sibling.done_at is None
        r.pipe.answer(7, ok=1)
        await settled()
        assert sibling.result == {"ok": 1}


MALFORMED: dict[str, tuple[bytes, Any]] = {
    "no result and no error": (b'{"jsonrpc":"2.0","id":1}', None),
    "a result that is no object": (b'{"jsonrpc":"2.0","id":1,"result":[1]}', [1]),
    "an error without a code": (b'{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}', {"message": "m"}),
    "an error that is a text": (b'{"jsonrpc":"2.0","id":1,"error":"no"}', "no"),
}


@pytest.mark.parametrize("how", MALFORMED)
async def test_R18_an_answer_against_the_protocol_is_an_invalid_result_with_what_came(how: str) -> None:
    line, came = MALFORMED[how]
    async with rig() as r:
        call = r.start_call()
        await settled()
        r.pipe.give(line + b"\n")
        await settled()
        assert isinstance(call.error, InvalidResultError)
        assert (call.error.outcome, call.error.result) == ("answered", came)


async def test_an_error_and_a_result_in_one_answer_are_a_result() -> None:
    async with rig() as r:
        call, refused = (r.start_call(opts={"request_id": n}) for n in (1, 2))
        await settled()
        r.pipe.give(b'{"jsonrpc":"2.0","id":1,"result":{"a":1},"error":null}\n')
        r.pipe.give(b'{"jsonrpc":"2.0","id":2,"result":null,"error":{"code":-3,"message":"no"}}\n')
        await settled()
        assert call.result == {"a": 1}
        assert isinstance(refused.error, mcp.MCPError)


# How much one may hold.


@pytest.mark.parametrize("value", [b"{}", b"[]", b"1", b'"x"', b'{"k":1}'])
async def test_R19_an_answer_of_too_many_values_fails_its_call_unparsed(value: bytes) -> None:
    async with rig(max_values=1000) as r:
        call, sibling = (r.start_call(opts={"request_id": n}) for n in (1, 2))
        await settled()
        r.pipe.give(b'{"jsonrpc":"2.0","id":1,"result":{"x":[' + b",".join([value] * 1001) + b"]}}\n")
        r.pipe.answer(2, ok=1)
        await settled()
        assert isinstance(call.error, MessageTooLargeError)
        assert (call.error.limit, call.error.outcome) == (1000, "answered")
        assert "1000 JSON values" in str(call.error)
        assert sibling.result == {"ok": 1}


async def test_R19_what_stands_in_a_text_is_no_value() -> None:
    text = '{[, \\"' * 5000
    async with rig(max_values=1000) as r:
        call = r.start_call()
        await settled()
        r.pipe.answer(1, text=text)
        await settled()
        assert call.result == {"text": text}


# What the log says.


async def test_R16_a_bad_line_is_logged_with_length_position_kind_and_id_and_nothing_of_its_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig() as r:
        for line in (
            b"the key is hunter2secret " + b"x" * 5000,
            b'{"jsonrpc":"2.0","id":7,"result":{"text": hunter2secret}}',
            b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":hunter2secret}}',
            b'{"jsonrpc":"2.0","id":"hunter2 secret","result":{"text": hunter2secret}}',
            b'{"id":"abc","result":{"text":"hunter2secret"}}',
            b'{"jsonrpc":"2.0","method":"tools/x","params":"hunter2secret"}',
        ):
            r.pipe.give(line + b"\n")
        await settled()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "server s: a line is not JSON (5026 bytes)",
        "server s: a line is not JSON: Expecting value at character 42 (58 bytes, id 7)",
        "server s: a line is not JSON: Expecting value at character 67 (83 bytes, method notifications/message)",
        "server s: a line is not JSON: Expecting value at character 57 (73 bytes)",
        "server s: a line does not say that it is JSON-RPC 2.0 (47 bytes, id abc)",
        "server s: a line has a malformed method or malformed params (62 bytes, method tools/x)",
    ]


async def test_R19_a_server_that_writes_rubbish_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as r:
        r.pipe.give(b"rubbish\n" * 1000)
        await trio.sleep(2)
        r.pipe.give(b"rubbish\n")
        await settled()
    assert len(caplog.records) == _faults.PER_SECOND + 1
    assert "(and 990 more since the last warning)" in caplog.records[-1].getMessage()
