"""The parser of server-sent events, against the one that comes with the HTTP library."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool._wire.http._events import ENDS, MAX_RETRY, Event, EventParser

LIMIT = 1 << 20
LINES = st.sampled_from(
    [
        b"data: x",
        b"data:y",
        b"data",
        b"event: other",
        b"id: 7",
        b"id",
        b"retry: 20",
        b"retry: soon",
        b": ping",
        b"",
        b"z: 1",
        "data: \u2028\u00e9".encode(),
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def by_the_library(text: bytes) -> list[Event]:
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text)
    response.request = httpx2.Request("GET", "http://x")
    return [
        Event(e.event.encode(), e.data.encode(), e.id.encode(), None if e.retry is None else e.retry / 1000)
        for e in httpx2.EventSource(response)
    ]


@given(st.lists(st.tuples(LINES, LINE_ENDS), max_size=12), st.data())
def test_events_are_the_same_wherever_the_bytes_are_split(
    lines: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    # A stream that ends in the middle of a line break is another matter: what follows decides what it was.
    text = b"".join(line + end for line, end in lines) + b"data: last\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parser = EventParser(LIMIT)
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += parser.feed(text[start:end])
    assert events == by_the_library(text)


@pytest.mark.parametrize("split", [1, 7, 1000])
@pytest.mark.parametrize("lines", [1, 50])
def test_R19_an_event_over_the_limit_is_skipped_and_the_next_is_read(split: int, lines: int) -> None:
    parser = EventParser(500)
    body = b"\n".join([b"data: <begin>" + b"x" * (20_000 // lines)] * lines) + b"<end>"
    text = body + b"\n\ndata: next\n\n"
    events = []
    for start in range(0, len(text), split):
        events += parser.feed(text[start : start + split])
    overlong, following = events
    assert overlong.tail is not None
    assert overlong.data.startswith(b"<begin>")
    assert len(overlong.data) <= ENDS
    assert overlong.tail.endswith(b"<end>")
    assert following == Event(b"message", b"next", b"", None)


def test_R19_what_is_skipped_is_not_kept() -> None:
    parser = EventParser(1000)
    for _ in range(1000):
        parser.feed(b"data: " + b"x" * 10_000)
    assert sum(map(len, parser._line)) + sum(map(len, parser._data)) + len(parser._tail) < 10_000


def test_neither_comments_nor_many_events_count_towards_the_limit() -> None:
    parser = EventParser(200)
    assert len(parser.feed(b"data: " + b"x" * 80 + b"\n\n")) == 1
    for _ in range(50):
        assert parser.feed(b": still here\n") == []
    (event,) = parser.feed(b"data: " + b"x" * 80 + b"\n\n")
    assert event.tail is None


def test_R19_empty_lines_of_data_count_more_than_their_bytes() -> None:
    parser = EventParser(1000)
    (event,) = parser.feed(b"data:\n" * 100 + b"\n")
    assert event.tail is not None


@pytest.mark.parametrize(
    ("field", "retry"), [(b"9" * 400, None), (b"999999999", MAX_RETRY), (b"20", 0.02), (b"-1", None)]
)
def test_a_delay_is_capped_and_what_is_no_number_ignored(field: bytes, retry: float | None) -> None:
    (event,) = EventParser(LIMIT).feed(b"retry: " + field + b"\ndata: x\n\n")
    assert event.retry == retry


@pytest.mark.parametrize("split", [1, 2, 3, 100])
def test_a_byte_order_mark_is_no_part_of_the_first_field(split: int) -> None:
    text, parser, events = b"\xef\xbb\xbfdata: x\n\n", EventParser(LIMIT), []
    for start in range(0, len(text), split):
        events += parser.feed(text[start : start + split])
    assert events == [Event(b"message", b"x", b"", None)]


def test_an_id_with_a_null_byte_is_none() -> None:
    first, second = EventParser(LIMIT).feed(b"id: 7\ndata: x\n\nid: a\0b\ndata: y\n\n")
    assert (first.id, second.id) == (b"7", b"7")


def test_an_event_shows_nothing_of_its_data() -> None:
    (event,) = EventParser(LIMIT).feed(b"data: xyzzy\n\n")
    assert repr(event) == "<Event b'message', 5 bytes>"
    assert event != "something else"
