"""Frames split, merged, truncated and hostile; callers cancelled anywhere; pipes of any width."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from typing import Any

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_mcp_pool._wire.stdio._lines import Line, Lines, Overlong

from ..pipes import line, rig

settled = trio.testing.wait_all_tasks_blocked

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"])
near_misses = st.dictionaries(
    keys, json_values | st.sampled_from(["2.0", 1, 2, "1", "notifications/progress", "notifications/cancelled"])
)
cancels = st.builds(
    lambda i, m: {"jsonrpc": "2.0", "method": m, "params": {"requestId": i, "progressToken": i, "progress": 1}},
    json_values | st.integers(0, 3),
    st.sampled_from(["notifications/progress", "notifications/cancelled"]),
)
hostile = st.one_of(
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"") + b"\n"),
    json_values.map(line),
    st.lists(near_misses, max_size=3).map(line),
    near_misses.map(line),
    cancels.map(line),
    near_misses.map(lambda value: line(value)[:-3] + b"\n"),
)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    noise=st.lists(hostile, max_size=6),
    order=st.permutations(range(3)),
    points=st.lists(st.integers(0, 10_000), max_size=12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150)
def test_answers_arrive_whatever_stands_between_and_however_they_are_cut(
    noise: list[bytes], order: list[int], points: list[int], seed: int
) -> None:
    async def main() -> None:
        async with rig() as r:
            # Ids that no noise can guess.
            calls = [r.start_call(opts={"request_id": f"call-{n}"}) for n in range(3)]
            await settled()
            answers = [line({"jsonrpc": "2.0", "id": f"call-{n}", "result": {"n": n}}) for n in order]
            frames = answers + noise
            random.Random(seed).shuffle(frames)
            r.pipe.give(*cut(b"".join(frames), points))
            await settled()
            assert [call.result for call in calls] == [{"n": 0}, {"n": 1}, {"n": 2}]
            assert r.pending == 0
            assert not r.link.is_lost
            r.pipe.messages()  # whatever was answered to the noise is whole messages

    trio.run(main)


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"x")), max_size=8),
    rest=st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"x")),
    points=st.lists(st.integers(0, 10_000), max_size=12),
    limit=st.integers(1, 20),
)
@example(lines=[b"\t"], rest=b"", points=[], limit=1)
@settings(max_examples=300)
def test_lines_are_the_same_however_they_are_cut(
    lines: list[bytes], rest: bytes, points: list[int], limit: int
) -> None:
    got: list[Any] = []
    collector = Lines(limit)

    def take(found: Iterable[Line | Overlong]) -> None:
        got.extend(("over", one.head, one.tail) if isinstance(one, Overlong) else bytes(one) for one in found)

    data = b"".join(one + b"\n" for one in lines) + rest
    for piece in cut(data, points):
        if collector.is_line(piece):
            take([piece.removesuffix(b"\n")])
        elif piece:
            take(collector.feed(piece))
    take(collector.end())
    # An overlong line is told from an empty one; how much of it is kept depends on the cuts, its start and end do not.
    expected = [one for one in [*lines, rest] if len(one) > limit or one.strip()]
    assert len(got) == len(expected)
    for had, one in zip(got, expected, strict=True):
        if len(one) > limit:
            assert had[0] == "over"
            assert one.startswith(had[1])
            assert one.endswith(had[2])
        else:
            assert had == one


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    steps=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 9)), max_size=25),
    room=st.integers(0, 120),
)
@settings(max_examples=200)
def test_no_message_is_ever_broken_by_another_and_written_is_exact(
    sizes: list[int], steps: list[tuple[int, int]], room: int
) -> None:
    """Callers of any size over a pipe of any width, cancelled anywhere."""

    async def main() -> None:
        async with rig(room=room) as r:
            calls = [
                r.start_call(opts={"request_id": f"c{n}"}, params={"x": "y" * size}) for n, size in enumerate(sizes)
            ]
            await settled()
            for more, who in steps:
                if who < len(calls):
                    calls[who].scope.cancel()
                r.pipe.make_room(more)
                await settled()
                whole = {message.get("id") for message in r.pipe.messages()}
                assert [call.call.written for call in calls] == [f"c{n}" in whole for n in range(len(calls))]
            for call in calls:
                call.scope.cancel()
            await settled()
            begun = {f"c{n}" for n, call in enumerate(calls) if call.call.written}
            r.pipe.make_room()
            await settled()
            messages = r.pipe.messages()
            assert r.pipe.sent.endswith(b"\n") or not messages
            requests = [m["id"] for m in messages if "id" in m]
            notices = [m["params"]["requestId"] for m in messages if "id" not in m]
            assert sorted(requests) == sorted(notices)  # every request that left was taken back, no other was
            assert begun <= set(requests)
            for request_id in requests:
                at = [m.get("id") or m["params"]["requestId"] for m in messages]
                assert at.index(request_id) == next(i for i, m in enumerate(messages) if m.get("id") == request_id)

    trio.run(main)


async def test_a_thousand_calls_half_of_them_cancelled_anywhere_mix_nothing_up() -> None:
    seeded = random.Random(1)

    async def serve() -> None:
        """A server that reads in fits, and answers late, in any order, and the cancelled ones too."""
        read = 0
        owed: list[Any] = []
        while True:
            await trio.lowlevel.checkpoint()
            r.pipe.make_room(seeded.randrange(4000))
            for message in r.pipe.messages()[read:] if seeded.random() < 0.2 else []:
                read += 1
                if "id" in message:
                    owed.append(message)
            seeded.shuffle(owed)
            for message in [owed.pop() for _ in range(seeded.randrange(len(owed) + 1))]:
                r.pipe.answer(message["id"], echo=message["params"]["n"])

    async with rig(room=100) as r:
        calls = [r.start_call(params={"n": n, "pad": "p" * seeded.randrange(200)}) for n in range(1000)]
        doomed = set(seeded.sample(range(1000), 500))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for n in doomed:
                for _ in range(seeded.randrange(3)):
                    await trio.lowlevel.checkpoint()
                calls[n].scope.cancel()
            while not all(call.done_at is not None for call in calls):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert r.pending == 0
        for n, call in enumerate(calls):
            assert call.error is None
            assert call.result == {"echo": n} or (n in doomed and call.result is None)
        r.pipe.make_room()
        await settled()
        sent = {message["params"]["n"] for message in r.pipe.messages() if "id" in message}
        assert sent == {n for n, call in enumerate(calls) if call.call.written}
        assert json.dumps(sorted(sent))
