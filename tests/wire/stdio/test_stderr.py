"""stderr: its end is kept, its lines are logged, and no amount of them holds up the program (R19)."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest
import trio

from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire.stdio import _stderr
from trio_mcp_pool._wire.stdio._stderr import Stderr

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes that can be waited for")


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


async def test_others_have_a_turn_every_two_milliseconds_of_logging(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trio_mcp_pool.stderr")
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 0.0002  # so long takes a line
        return now

    monkeypatch.setattr(_stderr, "perf_counter", tick)
    monkeypatch.setattr(_stderr, "_LAST_LINES", 30.0)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            seen = now
            await trio.lowlevel.checkpoint()
            longest = max(longest, now - seen)

    reading, writing = os.pipe()
    stderr = Stderr(Link("s"), reading)
    os.write(writing, b"a\n" * 2000 + b"the last")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(stderr.run)
            while len(caplog.records) < 100:
                await trio.lowlevel.checkpoint()
            os.close(writing)
            await stderr.finish()
            nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == ["s: a"] * 2000 + ["s: the last"]
    assert longest < 0.01  # the turns of two ticks may lie between two looks


@pytest.mark.parametrize("lines", [200_000, pytest.param(2_000_000, marks=pytest.mark.exhaustive)])
async def test_megabytes_of_two_byte_lines_reach_the_log_and_their_end_the_tail(
    lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("trio_mcp_pool.stderr")
    count = 0

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal count
            count += 1

    handler = Counter()
    logger.addHandler(handler)
    logger.propagate = False
    caplog.set_level(logging.INFO, logger="trio_mcp_pool.stderr")
    link = Link("s")
    reading, writing = os.pipe()
    stderr = Stderr(link, reading)
    writer = threading.Thread(target=write_all, args=(writing, b"a\n" * lines + b"bye\n"))
    writer.start()
    held = 0.0
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def tick() -> None:
                    nonlocal held
                    while True:
                        used = time.thread_time()
                        await trio.lowlevel.checkpoint()
                        held = max(held, time.thread_time() - used)

                await stderr.run()
                await stderr.finish()
                nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        writer.join()
    assert count == lines + 1
    assert link.stderr_tail.endswith("a\nbye\n")
    assert held < 0.5  # in one piece 4 MB took fifteen seconds; a collection of garbage takes a tenth of one


async def test_R2_what_cannot_be_logged_in_time_at_the_end_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trio_mcp_pool.stderr")
    monkeypatch.setattr(_stderr, "_LAST_LINES", -1.0)
    reading, writing = os.pipe()
    stderr = Stderr(Link("s"), reading)
    write_all(writing, b"one\ntwo\nthree")
    await stderr.finish()
    await stderr.finish()
    assert [record.getMessage() for record in caplog.records] == ["s: (3 more lines)"]
