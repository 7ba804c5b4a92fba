"""The metrics of `OpenTelemetryObserver`, read back through OpenTelemetry's own SDK, on the virtual clock."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import mcp_types as types
import pytest
import trio
import trio.testing
from mcp import MCPError
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider

from trio_mcp_pool import (
    AcquireTimeoutError,
    ConnectError,
    Event,
    InvalidArgumentsError,
    OpenTelemetryObserver,
    OutcomeUnknownError,
    PoolPolicy,
    Session,
    open_pool,
)
from trio_mcp_pool import _call as call_module
from trio_mcp_pool._telemetry import METHODS
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

CONVENTIONAL = ("mcp.client.operation.duration", "mcp.client.session.duration")
"""The metrics that OpenTelemetry's conventions for MCP know."""
BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """An observer whose meter keeps everything in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.observer = OpenTelemetryObserver(self._provider.get_meter("test"))

    def read(self) -> dict[str, Any]:
        """Each time series by its name and attributes: a sum, or the count and the sum of a histogram."""
        found: dict[str, Any] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        attributes = dict(point.attributes or {})
                        key = " ".join(
                            map(str, (metric.name, attributes.pop("mcp.client.pool.server"), *attributes.values()))
                        )
                        assert metric.name in CONVENTIONAL or set(attributes) <= {"state"}
                        if isinstance(point, HistogramDataPoint):
                            assert point.explicit_bounds == BUCKETS
                            found[key] = (point.count, point.sum, metric.unit)
                        elif isinstance(point, NumberDataPoint):
                            found[key] = point.value
        return found

    def points(self, name: str) -> list[tuple[dict[str, Any], int, float]]:
        """The time series of a histogram: attributes, count, sum."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return [
            (dict(point.attributes or {}), point.count, point.sum)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]

    def balances(self) -> dict[str, Any]:
        """What goes up and down."""
        return {key: value for key, value in self.read().items() if ".count" in key or "pending" in key}


async def test_every_metric_with_its_attributes_at_exact_times(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    server = ScriptedServer(gates={"spawn": slow(1), "call": slow(3)})
    policy = PoolPolicy(max_in_flight=1, acquire_timeout=2)

    async with open_pool({"s": server}, policy=policy, observers=[metrics.observer]) as pool:

        async def call(after: float) -> None:
            await trio.sleep(after)
            await pool.call_tool("s", "echo", {"text": "?"})

        async def too_late() -> None:
            await trio.sleep(0.5)
            with pytest.raises(AcquireTimeoutError):
                await pool.call_tool("s", "echo", {"text": "?"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 0)  # waits from 0 to 1, uses it from 1 to 4
            nursery.start_soon(too_late)  # waits from 0.5 to 2.5, in vain
            nursery.start_soon(call, 2.5)  # waits from 2.5 to 4, uses it from 4 to 7
            await trio.sleep(3)
            assert metrics.balances() == {
                "mcp.client.pool.count s idle": 0,
                "mcp.client.pool.count s used": 1,
                "mcp.client.pool.pending_requests s": 1,
            }
        assert trio.current_time() == 7
        await trio.sleep(2)
        assert metrics.balances() == {
            "mcp.client.pool.count s idle": 1,
            "mcp.client.pool.count s used": 0,
            "mcp.client.pool.pending_requests s": 0,
        }
        await pool.call_tool("s", "echo", {"text": "?"})  # does not wait; uses it from 9 to 12
    assert metrics.read() == {
        "mcp.client.pool.count s idle": 0,
        "mcp.client.pool.count s used": 0,
        "mcp.client.pool.pending_requests s": 0,
        "mcp.client.pool.timeouts s": 1,
        "mcp.client.pool.create_time s": (1, 1, "s"),
        "mcp.client.pool.wait_time s": (3, 2.5, "s"),
        "mcp.client.pool.use_time s": (3, 9, "s"),
        f"mcp.client.session.duration s {LATEST_MODERN_VERSION}": (1, 11, "s"),
        f"mcp.client.operation.duration s {LATEST_MODERN_VERSION} tools/call execute_tool echo": (3, 9, "s"),
    }


async def test_whatever_happens_the_metrics_balance_in_the_end(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    server = ScriptedServer(gates={"spawn": [error(OSError("no")), ok], "call": [ok, never]})
    policy = PoolPolicy(max_in_flight=1, drain_timeout=1)

    async with open_pool({"s": server}, policy=policy, observers=[metrics.observer]) as pool:

        async def call() -> None:
            await pool.call_tool("s", "echo", {"text": "?"})

        async def give_up(after: float) -> None:
            with trio.move_on_after(after):
                await call()

        with pytest.raises(ConnectError):
            await call()
        await trio.sleep(60)
        await call()
        async with trio.open_nursery() as nursery:  # one that holds the session while another gives up waiting
            nursery.start_soon(give_up, 5)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(give_up, 2)
        server.gates["stream"] = [error()]
        with pytest.raises(OutcomeUnknownError):
            await call()
        async with pool.open_scope("corner") as corner:
            await corner.call_tool("s", "echo", {"text": "?"})
        async with pool.session("s"):
            await pool.drain("s")
        server.gates["call"] = never
        await trio.sleep(60)

        async def cut() -> None:
            with pytest.raises(OutcomeUnknownError):
                await call()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            await trio.testing.wait_all_tasks_blocked()
            await pool.aclose()
    assert set(metrics.balances().values()) == {0}
    stats, read = pool.statistics(), metrics.read()
    assert read["mcp.client.pool.create_time s"][0] == stats.connects - stats.connects_failed
    sessions = [value[0] for key, value in read.items() if key.startswith("mcp.client.session.duration")]
    assert sum(sessions) == stats.connects - stats.connects_failed
    assert read["mcp.client.pool.wait_time s"][0] == read["mcp.client.pool.use_time s"][0] == stats.acquires
    assert stats.connects_failed == 1
    assert stats.acquires_cancelled == 1


async def test_an_observer_that_raises_is_logged_and_skipped(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising:
        def event(self, e: Event) -> None:
            raise RuntimeError("the observer's own mistake")

    class Counting:
        seen: tuple[str, ...] = ()

        def event(self, e: Event) -> None:
            self.seen += (type(e).__name__,)

    counting = Counting()
    caplog.set_level(logging.ERROR, "trio_mcp_pool")
    async with open_pool({"s": ScriptedServer()}, observers=[Raising(), counting]) as pool:
        await pool.call_tool("s", "echo", {"text": "?"})
    assert counting.seen == (
        "WaitStarted",
        "DialStarted",
        "SessionOpened",
        "LeaseStarted",
        "LeaseEnded",
        "SessionClosed",
        "PoolClosed",
    )
    assert len(caplog.records) == len(counting.seen)
    assert [record.message for record in caplog.records] == [
        f"an observer of type Raising raised for {name}; the others are called all the same" for name in counting.seen
    ]
    assert all(record.exc_info for record in caplog.records)


async def test_each_request_is_measured_with_what_was_called_and_how_it_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def configure(session: Session) -> None:
        await session.list_tools()

    metrics = Metrics()
    gates = {"call": [slow(3), error(RuntimeError("no")), error(MCPError(-7, "no")), never, never, ok]}
    server = ScriptedServer(gates=gates, configure=configure, eras="legacy")
    async with open_pool({"s": server}, policy=PoolPolicy(drain_timeout=0), observers=[metrics.observer]) as pool:
        await pool.call_tool("s", "echo", {"text": "?"})
        await pool.call_tool("s", "echo", {"text": "?"})
        with pytest.raises(MCPError):
            await pool.call_tool("s", "echo", {"text": "?"})
        with pytest.raises(MCPError):
            await pool.call_tool("s", "echo", {"text": "?"}, read_timeout_seconds=2)
        with trio.move_on_after(5):
            await pool.call_tool("s", "echo", {"text": "?"})
        await pool.get_prompt("s", "greet")
        await pool.read_resource("s", "memo://hello")
        async with pool.session("s") as session:
            await session.call_tool("echo", {"text": "?"}, allow_input_required=True)
            await session.send_request(types.PingRequest(), types.EmptyResult)
        server.gates["stream"] = [error()]
        with pytest.raises(OutcomeUnknownError):
            await pool.call_tool("s", "echo", {"text": "?"})

    session_known = {"mcp.client.pool.server": "s", "mcp.protocol.version": LATEST_HANDSHAKE_VERSION}
    tool = {
        **session_known,
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
    }
    code = {"error.type": "-7", "rpc.response.status_code": "-7"}
    assert metrics.points("mcp.client.operation.duration") == [
        ({"mcp.client.pool.server": "s", "mcp.method.name": "tools/list"}, 1, 0),  # before the session was open
        (tool, 2, 3),
        ({**tool, "error.type": "tool_error"}, 1, 0),
        ({**tool, **code}, 1, 0),
        ({**tool, "error.type": "timeout"}, 1, 2),
        ({**tool, "error.type": "trio.Cancelled"}, 1, 5),
        ({**session_known, "mcp.method.name": "prompts/get", "gen_ai.prompt.name": "greet"}, 1, 0),
        ({**session_known, "mcp.method.name": "resources/read"}, 1, 0),
        ({**session_known, "mcp.method.name": "ping"}, 1, 0),
        ({**tool, "error.type": "trio_mcp_pool.OutcomeUnknownError"}, 1, 0),
    ]
    assert metrics.points("mcp.client.session.duration") == [({**session_known, "error.type": "session_lost"}, 1, 10)]


async def test_what_was_never_sent_is_not_measured(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with open_pool({"s": ScriptedServer()}, observers=[metrics.observer]) as pool:
        await pool.list_tools("s")
        with pytest.raises(InvalidArgumentsError):
            await pool.call_tool("s", "echo", {"text": object()})
    assert [attributes["mcp.method.name"] for attributes, _, _ in metrics.points("mcp.client.operation.duration")] == [
        "tools/list"
    ]


def test_every_verb_of_a_session_has_its_method() -> None:
    verbs = {
        name
        for name, value in vars(Session).items()
        if inspect.iscoroutinefunction(value) and not name.startswith("_") and name != "wait_lost"
    }
    assert verbs - METHODS.keys() == {"send_request"}  # whose request says its own


async def test_a_caller_finds_its_wait_in_its_own_span(autojump_clock: trio.testing.MockClock) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("the program")
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    server = ScriptedServer(gates={"spawn": slow(1), "call": slow(3)})
    policy = PoolPolicy(max_in_flight=1, acquire_timeout=2)

    async with open_pool({"s": server}, policy=policy, observers=[OpenTelemetryObserver()]) as pool:

        async def call(name: str, after: float) -> None:
            await trio.sleep(after)
            with tracer.start_as_current_span(name) as span:
                try:
                    await pool.call_tool("s", "echo", {"text": "?"})
                except AcquireTimeoutError:
                    pass
            events = getattr(span, "events")  # noqa: B009 (the API's type has none)
            found[name] = [(event.name, dict(event.attributes)) for event in events]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "first", 0)
            nursery.start_soon(call, "too late", 0.5)
            nursery.start_soon(call, "second", 2.5)
            nursery.start_soon(call, "at once", 8)
        await pool.call_tool("s", "echo", {"text": "?"})  # without a span

    def wait(seconds: float, **more: str) -> list[tuple[str, dict[str, Any]]]:
        attributes = {"mcp.client.pool.server": "s", "mcp.client.pool.wait_time": seconds}
        return [("mcp.client.pool.wait", attributes | {name.replace("_", "."): value for name, value in more.items()})]

    assert found == {
        "first": wait(1),
        "too late": wait(2, error_type="trio_mcp_pool.AcquireTimeoutError"),
        "second": wait(1.5),
        "at once": [],
    }


async def test_an_observer_that_raises_in_the_callers_task_is_logged_and_the_answer_kept(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising:
        def event(self, e: Event) -> None:
            pass

        def waited(self, *_: object) -> None:
            raise RuntimeError("the observer's own mistake")

        called = waited

    metrics = Metrics()
    caplog.set_level(logging.ERROR, "trio_mcp_pool")
    async with open_pool({"s": ScriptedServer()}, observers=[Raising(), metrics.observer]) as pool:
        assert not (await pool.call_tool("s", "echo", {"text": "?"})).is_error
    assert [(record.message, bool(record.exc_info)) for record in caplog.records] == [
        ("an observer of type Raising raised in the task of a caller", True)
    ] * 2
    assert metrics.points("mcp.client.operation.duration")[0][1] == 1


@pytest.mark.parametrize("observed", [False, True])
async def test_nothing_is_measured_for_a_call_unless_it_was_asked_for(
    observed: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain:
        def event(self, e: Event) -> None:
            pass

    took: list[str] = []
    measured = call_module._observed

    def noted(*args: Any, **kwargs: Any) -> Any:
        took.append("measured")
        return measured(*args, **kwargs)

    monkeypatch.setattr(call_module, "_observed", noted)
    observers = [Plain(), OpenTelemetryObserver()] if observed else [Plain()]
    async with open_pool({"s": ScriptedServer()}, observers=observers) as pool:
        await pool.call_tool("s", "echo", {"text": "?"})
    assert took == ["measured"] * observed
