"""The events of a pool as OpenTelemetry metrics.

There is no convention for pools of MCP sessions, so the names mirror those for database connections
(`db.client.connection.*` in OpenTelemetry's semantic conventions) as `mcp.client.pool.*`. Durations are in seconds, with the
buckets that the MCP conventions give. Nothing is recorded unless the program has configured a meter provider; the API alone
is a dependency, and it comes with the MCP SDK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import final

from opentelemetry.metrics import Meter, get_meter

from . import _events as events

# Seconds, from OpenTelemetry's semantic conventions for MCP (development status, 2026).
_BUCKETS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]


@final
class OpenTelemetryObserver:
    """An observer that turns events into metrics: `open_pool(servers, observers=[OpenTelemetryObserver()])`.

    `meter` is the meter to record on; default: the global provider's. One observer serves one pool.

    Metrics, each with the attribute `mcp.client.pool.server`: `mcp.client.pool.count` (sessions, by the attribute `state`,
    `idle` or `used`), `mcp.client.pool.pending_requests`, `mcp.client.pool.timeouts`, `mcp.client.pool.create_time`,
    `mcp.client.pool.wait_time`, `mcp.client.pool.use_time`, and `mcp.client.session.duration`.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or get_meter("trio_mcp_pool")
        pool = "mcp.client.pool"

        self._count = meter.create_up_down_counter(f"{pool}.count", "{session}", "Live sessions by state")
        self._pending = meter.create_up_down_counter(f"{pool}.pending_requests", "{request}", "Tasks that wait")
        self._timeouts = meter.create_counter(f"{pool}.timeouts", "{timeout}", "Waits that ran out of time")
        self._create = meter.create_histogram(
            f"{pool}.create_time", "s", "Time of a dial", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._wait = meter.create_histogram(
            f"{pool}.wait_time", "s", "Time to obtain a session", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._use = meter.create_histogram(
            f"{pool}.use_time", "s", "Time that a lease was held", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._session = meter.create_histogram(
            "mcp.client.session.duration",
            "s",
            "Time that a session was open",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._leases: Counter[int] = Counter()
        self._open: set[int] = set()

    def event(self, e: events.Event, /) -> None:
        """Record one event. Synchronous; does nothing that blocks."""
        where = {"mcp.client.pool.server": e.server}
        match e:
            case events.SessionOpened():
                self._open.add(e.connection)
                self._create.record(e.seconds, where)
                self._move("idle", 1, where)
            case events.SessionClosed():
                if e.connection in self._open:
                    self._open.remove(e.connection)
                    self._session.record(e.age, where)
                    self._move("idle", -1, where)
            case events.WaitStarted():
                self._pending.add(1, where)
            case events.LeaseStarted():
                self._wait.record(e.waited, where)
                self._left_queue(e.queued, where)
                self._leases[e.connection] += 1
                if self._leases[e.connection] == 1:
                    self._move("idle", -1, where)
                    self._move("used", 1, where)
            case events.LeaseEnded():
                self._use.record(e.used, where)
                self._leases[e.connection] -= 1
                if not self._leases[e.connection]:
                    del self._leases[e.connection]
                    self._move("used", -1, where)
                    self._move("idle", 1, where)
            case events.AcquireFailed():
                self._left_queue(e.queued, where)
                if e.reason == "timed out":
                    self._timeouts.add(1, where)

    def _left_queue(self, queued: bool, where: Mapping[str, str]) -> None:
        if queued:
            self._pending.add(-1, where)

    def _move(self, state: str, by: int, where: Mapping[str, str]) -> None:
        self._count.add(by, {**where, "state": state})
