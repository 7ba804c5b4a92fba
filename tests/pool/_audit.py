"""An auditor for the exhaustive and random tests: it looks at the books after every event and collects what is wrong.

It looks at two things: the public statistics, where the numbers of the pool must be the sums of its servers', and every lane
by itself, as R10 asks. Faults are collected, not raised: an observer that raises is only logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import trio
from trio.abc import Instrument
from trio.testing import MockClock

from trio_mcp_pool import ConnectionEvent, Event, Pool, PoolClosed, PoolStatistics, ServerStatistics, SessionClosed
from trio_mcp_pool._connection._record import Connection

T = TypeVar("T")

_SUMMED = [f.name for f in fields(PoolStatistics) if f.name != "servers" and not f.name.startswith("peak_")]


def on_virtual_time(
    main: Callable[[], Awaitable[T]], *, seed: int | str | None = None, instruments: Sequence[Instrument] = ()
) -> T:
    """Run it from time 0 on a clock that jumps; a thousand of these fit into one test.

    With a `seed` Trio runs the tasks that are ready at the same time in an order drawn from it, as it does under hypothesis.
    """
    scheduler: Any = trio._core._run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before or seed is not None
    if seed is not None:
        scheduler._r.seed(seed)
    try:
        return trio.run(
            main, clock=MockClock(autojump_threshold=0), instruments=instruments, strict_exception_groups=True
        )
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before


_GAUGES = (
    "size",
    "sessions_idle",
    "sessions_in_use",
    "sessions_connecting",
    "sessions_closing",
    "tasks_waiting_acquire",
    "leases_in_flight",
)


def _unbalanced(who: str, n: Any) -> list[str]:
    faults = []
    closed = n["closed_idle"] + n["closed_lifetime"] + n["closed_drained"] + n["closed_broken"] + n["closed_shutdown"]
    if n["size"] != n["sessions_idle"] + n["sessions_in_use"] + n["sessions_connecting"] + n["sessions_closing"]:
        faults.append(f"{who}: size is not the sum of the states: {n}")
    if n["connects"] != n["connects_failed"] + n["size"] + closed:
        faults.append(f"{who}: connects are not accounted for: {n}")
    if any(value < 0 for value in n.values()):
        faults.append(f"{who}: a number is negative: {n}")
    return faults


def as_dict(stats: PoolStatistics | ServerStatistics) -> dict[str, float]:
    return {name: getattr(stats, name) for name in _SUMMED}


def faults_in(pool: Pool) -> list[str]:
    """What R10 forbids and stands in the books at this moment."""
    stats = pool.statistics()
    faults = _unbalanced("pool", as_dict(stats))
    for name, server in stats.servers.items():
        faults += _unbalanced(name, as_dict(server))
        if server.peak_in_use < server.sessions_in_use or server.peak_tasks_waiting < server.tasks_waiting_acquire:
            faults.append(f"{name}: a peak is below the present: {server}")
    for field in _SUMMED:
        total = sum(getattr(server, field) for server in stats.servers.values())
        if abs(getattr(stats, field) - total) > 1e-6:
            faults.append(f"pool: {field} is not the sum of the servers'")
    core = pool._core
    sums = dict.fromkeys(_GAUGES, 0)
    for lane in core.servers.all_lanes():
        gauges = lane.gauges()
        if gauges["size"] != sum(gauges[f"sessions_{phase}"] for phase in ("idle", "in_use", "connecting", "closing")):
            faults.append(f"{lane!r}: size is not the sum of the states: {gauges}")
        if gauges["size"] > max(lane.limit, lane.policy.max_sessions) + lane.policy.max_overlap:
            faults.append(f"{lane!r}: more connections than max_sessions and max_overlap allow: {gauges}")
        for name in _GAUGES:
            sums[name] += gauges[name]
    for name in _GAUGES:
        if sums[name] != getattr(stats, name):
            faults.append(f"pool: {name} is {getattr(stats, name)}, and the lanes have {sums[name]}")
    if core.servers.peaks.in_use != stats.sessions_in_use or core.servers.peaks.waiting != stats.tasks_waiting_acquire:
        faults.append(f"the pool's peaks stand at {core.servers.peaks}")
    return faults


class Auditor:
    """An observer that audits the pool after every event."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.faults: list[str] = []
        self.events: list[Event] = []
        self._leases: dict[Connection, int] = {}

    def event(self, e: Event) -> None:
        self.events.append(e)
        if self.pool is not None:
            self.check(type(e).__name__)

    def check(self, when: str) -> None:
        """Audit now."""
        assert self.pool is not None
        for fault in [*faults_in(self.pool), *self._new_leases_beyond_limit(self.pool)]:
            self.faults.append(f"at {trio.current_time():g} after {when}: {fault}")

    def _new_leases_beyond_limit(self, pool: Pool) -> list[str]:
        """Leases that a change of policy found are kept; new ones are not given beyond `max_in_flight`."""
        before, self._leases = self._leases, {}
        faults = []
        for lane in pool._core.servers.all_lanes():
            for connection in lane.connections:
                leases = self._leases[connection] = len(connection.leases)
                if leases > max(connection.policy.max_in_flight, before.get(connection, 0)):
                    faults.append(f"{connection!r}: more leases than max_in_flight")
        return faults

    def check_closed(self) -> None:
        """Audit a pool whose block has ended."""
        assert self.pool is not None
        self.check("the end")
        stats = self.pool.statistics()
        for gauge in (
            "size", "sessions_idle", "sessions_in_use", "sessions_connecting", "sessions_closing",
            "tasks_waiting_acquire", "leases_in_flight",
        ):  # fmt: skip
            if getattr(stats, gauge):
                self.faults.append(f"at the end: {gauge} == {getattr(stats, gauge)}")
        opened = {e.connection for e in self.events if isinstance(e, ConnectionEvent)}
        closed = [e.connection for e in self.events if isinstance(e, SessionClosed)]
        if sorted(opened) != sorted(closed):
            self.faults.append(f"connections that began {sorted(opened)}, that ended {sorted(closed)}")
        if [type(e) for e in self.events].count(PoolClosed) != 1 or not isinstance(self.events[-1], PoolClosed):
            self.faults.append("PoolClosed is not the one last event")
