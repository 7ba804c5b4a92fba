"""The second reading of a message that the strict parser refuses, and what can be said of one that nobody can read (R11, R16).

Servers do write such messages: a cut emoji becomes a lone surrogate in `JSON.stringify`, a log line brings a control
character along, a number has thousands of digits. Where the meaning is clear the caller gets its answer. Where it is not,
the caller must not wait for ever: the id of an answer is looked for in the raw bytes, but only where it is surely the
message's own, at its very start or its very end.

What is said about a bad message holds nothing of its content but its method or its id.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, final

from mcp_types import RequestId

from ._messages import as_request_id, coerce_request_id

ENDS: Final = 4096
"""How many bytes of each end of a message are searched for its id."""

_DIGITS: Final = 4000  # of an int that Python reads without a fuss
_BOM: Final = b"\xef\xbb\xbf"

_V = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_ID = rb'"id"\s*:\s*(-?\d{1,18}|"[^"\\]{0,200}")'
_START = rb"(?:\xef\xbb\xbf)?\s*\{\s*"
_ID_FIRST = re.compile(_START + _V + _ID + rb"\s*,\s*" + _V + rb'"(?:result|error)"\s*:')
_RESULT_FIRST = re.compile(_START + _V + rb'"(?:result|error)"\s*:')
_ID_LAST = re.compile(_ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')
_METHOD = re.compile(_START + _V + rb"(?:" + _ID + rb'\s*,\s*)?"method"\s*:\s*"([\w/.$-]{1,64})"')
_NAME = re.compile(r"[\w/.$:-]{1,64}", re.ASCII)


@final
class Unreadable(Exception):
    """No JSON by any reading. The text says what kind of fault it is, and where, without any content."""


def decode_tolerantly(data: bytes | bytearray) -> tuple[Any, str]:
    """What a message says that the strict parser has refused, and what is wrong with it, in words.

    Bytes that are no UTF-8 and lone surrogates become replacement characters, control characters in strings are kept, and a
    number of thousands of digits is infinite, as it is in JavaScript. Raises `Unreadable`.
    """
    faults: list[str] = []
    if data.startswith(_BOM):
        faults.append("starts with a byte order mark")
        data = data[len(_BOM) :]
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        faults.append(f"is not valid UTF-8 at byte {exc.start}")
        text = data.decode("utf-8", "replace")

    if text.lstrip()[:1] not in ("{", "["):
        # Most bad lines are text for people. No JSON-RPC message begins like that.
        raise Unreadable(" and ".join([*faults, "is not JSON"]))

    def parse_int(digits: str) -> int | float:
        if len(digits) <= _DIGITS:
            return int(digits)
        faults.append(f"holds a number of {len(digits)} digits")
        return float(digits)

    try:
        message = json.loads(text, strict=False, parse_int=parse_int)
    except json.JSONDecodeError as exc:
        raise Unreadable(" and ".join([*faults, f"is not JSON: {exc.msg} at character {exc.pos}"])) from None
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    message = _without_surrogates(message)
    return message, " and ".join(faults) or "is not strict JSON"


def _without_surrogates(message: Any) -> Any:
    """The same with whole characters only: the rest of the program cannot encode half of one."""
    if type(message) is str:
        return _whole(message)
    waiting = [message]
    while waiting:  # not by recursion: it may be nested as deeply as the parser allows
        one = waiting.pop()
        if type(one) is dict:
            for key in list(one):
                value = one.pop(key)  # popped and put back, so that the order stays
                if type(value) is str:
                    value = _whole(value)
                elif type(value) in (dict, list):
                    waiting.append(value)
                one[_whole(key)] = value
        elif type(one) is list:
            for at, value in enumerate(one):
                if type(value) is str:
                    one[at] = _whole(value)
                elif type(value) in (dict, list):
                    waiting.append(value)
    return message


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def id_of_answer(head: bytes | bytearray, tail: bytes | bytearray) -> RequestId | None:
    """The key of the request that a message answers, by its first and its last `ENDS` bytes; `None` where that is not sure."""
    found = _ID_FIRST.match(head) or (_RESULT_FIRST.match(head) and _ID_LAST.search(tail))
    return coerce_request_id(json.loads(found.group(1).decode("utf-8", "replace"))) if found else None


def describe(data: bytes | bytearray, message: Any = None) -> str:
    """How long a bad message is and which one it is: its method or id, where it has one that looks like one."""
    name = ""
    if type(message) is dict:
        method, request_id = message.get("method"), as_request_id(message.get("id"))
        if type(method) is str:
            name = f", method {method}" if _NAME.fullmatch(method) else ""
        elif request_id is not None:
            name = f", id {request_id}" if _NAME.fullmatch(str(request_id)) else ""
    elif found := _METHOD.match(data[:ENDS]):
        name = f", method {found.group(2).decode('ascii')}"
    else:
        key = id_of_answer(data[:ENDS], data[-ENDS:])
        name = f", id {key}" if key is not None and _NAME.fullmatch(str(key)) else ""
    return f"{len(data)} bytes{name}"
