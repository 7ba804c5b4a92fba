"""The metrics of `OpenTelemetryObserver`, read back through OpenTelemetry's own SDK, on the virtual clock."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from trio_mcp_pool import (
    AcquireTimeoutError,
    ConnectError,
    Event,
    OpenTelemetryObserver,
    OutcomeUnknownError,
    PoolPolicy,
    open_pool,
)
from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow


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
                        assert set(attributes) <= {"state"}
                        if isinstance(point, HistogramDataPoint):
                            found[key] = (point.count, point.sum, metric.unit)
                        elif isinstance(point, NumberDataPoint):
                            found[key] = point.value
        return found

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
        "mcp.client.session.duration s": (1, 11, "s"),
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
    assert read["mcp.client.session.duration s"][0] == stats.connects - stats.connects_failed
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
