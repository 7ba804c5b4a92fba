"""`LogObserver`: every event as one line, at the level of what it means."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

import trio_mcp_pool
from trio_mcp_pool import (
    AcquireFailed,
    AcquireTimeoutError,
    CallResent,
    ConnectError,
    ConnectionEvent,
    Event,
    LogObserver,
    PoolClosed,
    PoolPolicy,
    SessionClosed,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, ok, slow


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of what was logged."""
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "trio_mcp_pool.events"]


async def test_the_life_of_a_session_line_by_line(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(gates={"handshake": [slow(2)]})
    with caplog.at_level(logging.DEBUG):
        async with open_pool({"s": server}, observers=[LogObserver()]) as pool:
            await pool.call_tool("s", "echo", {"text": "hunter2"}, scope="agent 1")
    assert lines(caplog) == [
        ("DEBUG", "server 's', scope 'agent 1': a caller waits"),
        ("INFO", "server 's', scope 'agent 1', session 1: dialling"),
        ("INFO", "server 's', scope 'agent 1', session 1: ready after 2 s"),
        ("DEBUG", "server 's', scope 'agent 1', session 1: leased, waited 2 s"),
        ("DEBUG", "server 's', scope 'agent 1', session 1: released, used 0 ms"),
        ("INFO", "server 's', scope 'agent 1', session 1: closed (shutdown) at the age of 0 ms, in 0 ms"),
        ("INFO", "pool: closed in 0 ms"),
    ]


async def test_what_an_operator_should_look_at_is_a_warning(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(gates={"spawn": [error(OSError("no")), ok]})
    policy = PoolPolicy(max_sessions=1, max_in_flight=1, acquire_timeout=1)
    with caplog.at_level(logging.WARNING):
        async with open_pool({"s": server}, policy=policy, observers=[LogObserver()]) as pool:
            with pytest.raises(ConnectError):
                await pool.wait_ready("s")
            await trio.sleep(1)
            async with pool.session("s"), trio.open_nursery() as nursery:

                async def second() -> None:
                    with pytest.raises(AcquireTimeoutError):
                        await pool.acquire("s")

                nursery.start_soon(second)
            server.kill()
            await trio.sleep(1)
    assert [level for level, _ in lines(caplog)] == ["WARNING"] * 3
    dial, late, died = [text for _, text in lines(caplog)]
    assert dial.startswith("server 's', session 1: the dial failed after 0 ms: server 's' could not be reached")
    assert late == "server 's': a caller got no session (timed out), waited 1 s"
    assert died == "server 's', session 2: lost: end of stream"


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (CallResent(at=0, server="s", method="call_tool"), "INFO", "server 's': call_tool is sent again"),
        (
            SessionClosed(
                at=0, server="s", connection=4, reason="idle", age=90, seconds=0.5, exit_status=-9, killed=(17, 18)
            ),
            "WARNING",
            "server 's', session 4: closed (idle) at the age of 90 s, in 500 ms, exit status -9, killed 17, 18",
        ),
        (PoolClosed(at=0, seconds=3.25, left_behind=(5,)), "WARNING", "pool: closed in 3.25 s, still running 5"),
        (
            AcquireFailed(at=0, server="s", reason="cancelled", waited=0, queued=True),
            "DEBUG",
            "server 's': a caller got no session (cancelled), waited 0 ms",
        ),
        (
            AcquireFailed(at=0, server="s", reason="rejected", waited=0, queued=False),
            "WARNING",
            "server 's': a caller got no session (rejected), waited 0 ms",
        ),
    ],
)
def test_an_event_as_a_line(event: Event, level: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        LogObserver().event(event)
    assert lines(caplog) == [(level, text)]


def test_every_kind_of_event_has_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    kinds = [
        kind
        for name in dir(trio_mcp_pool)
        if isinstance(kind := getattr(trio_mcp_pool, name), type)
        and issubclass(kind, Event)
        and kind not in (Event, ConnectionEvent)
    ]
    values = {
        "at": 0.0,
        "connection": 1,
        "error": ConnectError("no", server="s"),
        "seconds": 0.0,
        "pid": None,
        "reason": "idle",
        "age": 0.0,
        "exit_status": None,
        "waited": 0.0,
        "queued": True,
        "used": 0.0,
        "method": "call_tool",
    }
    with caplog.at_level(logging.DEBUG):
        for kind in kinds:
            required = {name for name, field in kind.__dataclass_fields__.items() if name in values}
            LogObserver().event(kind(server="s", **{name: values[name] for name in required}))
    texts = [text for _, text in lines(caplog)]
    assert len(texts) == len(kinds) == 11
    assert not any(kind.__name__ in text for kind in kinds for text in texts)


def test_the_lines_go_to_the_logger_that_is_given(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("mine")
    with caplog.at_level(logging.INFO):
        LogObserver(mine).event(PoolClosed(at=0, seconds=1))
    assert [record.name for record in caplog.records] == ["mine"]
