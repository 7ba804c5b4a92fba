"""Long messages are read in steps, and what they say is what the parser makes of them in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from trio_mcp_pool._wire.jsonrpc import _long
from trio_mcp_pool._wire.jsonrpc._long import cut_long_strings
from trio_mcp_pool._wire.jsonrpc._messages import decode


@pytest.fixture(autouse=True, scope="module")
def small_sizes() -> Iterator[None]:
    """So that what is long can be written down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_long, "LONG", 20)
        patch.setattr(_long, "_LONG_STRING", 8)
        patch.setattr(_long, "_PIECE", 16)
        patch.setattr(_long, "_MOST_STRINGS", 40)
        yield


def read(data: bytes, pauses: list[None] | None = None) -> Any:
    """Read it in steps, and say whether that was done."""

    async def pause() -> None:
        if pauses is not None:
            pauses.append(None)

    async def main() -> Any:
        cut = await cut_long_strings(data, pause)
        return decode(data, cut), cut is not None

    return trio.run(main)


texts = st.text(max_size=30) | st.text(alphabet='\\"ué€😀\n\x00/ ', max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values, st.booleans(), st.booleans())
def test_it_says_what_the_parser_says(value: Any, ascii_only: bool, spaced: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=1 if spaced else None).encode()
    assert read(data)[0] == from_json(data)


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b'{"k":"' + b"x" * 100 + b'"}', True),
        (b'["short","' + b"y" * 9 + b'","' + "é€😀".encode() * 9 + b'"]', True),
        (rb'["line one\nline two\nline three", "a \"quoted\" word and a \\"]', True),
        (rb'["\ud83d\ude00\ud83d\ude00\ud83d\ude00\ud83d\ude00"]', True),
        (rb'["a\ud83d\ude00\ud83d\ude00\ud83d\ude00\ud83d\ude00"]', True),
        (b'{"a key of many letters":1,"another one of many":[2]}', True),
        (b'{"a key of many letters":1,"a key of many letters":2}', True),
        (b"[1,2,3,4,5,6,7,8,9,10,11,12,13]", False),
        (b'["ab","cd","ef","gh","ij","kl","mn"]', False),
        (b'["short"]', False),
        (b"[" + b",".join(b'"a long one, %d"' % n for n in range(41)) + b"]", False),
    ],
)
def test_long_strings_are_cut_out_where_that_helps(data: bytes, cut: bool) -> None:
    assert read(data) == (from_json(data), cut)


@pytest.mark.parametrize(
    "data",
    [
        b'{"k":"' + b"x" * 100,
        b'{"k":"' + b"x" * 100 + b"\\",
        b'{"k":"' + b"x" * 100 + b'\\"',
        rb'["bad escape \x and some more letters"]',
        rb'["half an escape \u12 and more letters"]',
        rb'["half a pair \ud83d and some more letters"]',
        b'["no UTF-8: \xff\xfe and some more letters"]',
        b'{"k":"' + b"x" * 100 + b'"]',
        b'"' * 50,
    ],
)
def test_what_is_no_json_is_refused_as_ever(data: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(data)
    with pytest.raises(ValueError):
        read(data)


def test_others_have_their_turns_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_long, "_SLICE", 0.0)
    pauses: list[None] = []
    data = rb'["line one\nline two\nline three","' + b"x" * 100 + b'"]'
    assert read(data, pauses)[1]
    assert len(pauses) >= 3
