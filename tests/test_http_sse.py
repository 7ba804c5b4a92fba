"""The parser of server-sent events, against the one that comes with the HTTP library."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool._wire._http_sse import Event, EventParser, EventTooLarge

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
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def by_the_library(text: bytes) -> list[Event]:
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text)
    response.request = httpx2.Request("GET", "http://x")
    return [
        Event(e.event, e.data, e.id, None if e.retry is None else e.retry / 1000) for e in httpx2.EventSource(response)
    ]


@given(st.lists(st.tuples(LINES, ENDS), max_size=12), st.data())
def test_events_are_the_same_wherever_the_bytes_are_split(
    lines: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    # A stream that ends in the middle of a line break is another matter: what follows decides what it was.
    text = b"".join(line + end for line, end in lines) + b"data: last\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parser = EventParser(None)
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += parser.feed(text[start:end])
    assert events == by_the_library(text)


@pytest.mark.parametrize("split", [1, 7, 1000])
def test_an_event_over_the_limit_is_refused_before_it_is_whole(split: int) -> None:
    parser = EventParser(100)
    text = b"data: " + b"x" * 200
    with pytest.raises(EventTooLarge):
        for start in range(0, len(text), split):
            parser.feed(text[start : start + split])


def test_neither_comments_nor_many_events_count_towards_the_limit() -> None:
    parser = EventParser(100)
    assert len(parser.feed(b"data: " + b"x" * 80 + b"\n\n")) == 1
    for _ in range(50):
        assert parser.feed(b": still here\n") == []
    assert len(parser.feed(b"data: " + b"x" * 80 + b"\n\n")) == 1


def test_bytes_that_are_no_utf_8_cost_nothing_but_themselves() -> None:
    assert EventParser(None).feed(b"data: a\xffb\n\n") == [Event("message", "a\ufffdb", "", None)]
