"""The books of a pool, checked: by hand after a step, and by an observer on every event (R10)."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import trio

from trio_mcp_pool import (
    AcquireFailed,
    ConnectionEvent,
    Event,
    LeaseEnded,
    LeaseStarted,
    Pool,
    PoolPolicy,
    PoolStatistics,
    Server,
    ServerStatistics,
    SessionClosed,
    open_pool,
)

CLOSED = ("closed_idle", "closed_lifetime", "closed_drained", "closed_broken", "closed_shutdown")
NO_SUMS = ("servers", "peak_in_use", "peak_tasks_waiting")
GAUGES = (
    "min_sessions",
    "max_sessions",
    "size",
    "sessions_idle",
    "sessions_in_use",
    "sessions_connecting",
    "sessions_closing",
    "tasks_waiting_acquire",
    "leases_in_flight",
)


def _balance(name: str, n: PoolStatistics | ServerStatistics) -> None:
    for field in dataclasses.fields(PoolStatistics):  # which a server's numbers share
        if field.name != "servers":
            assert getattr(n, field.name) >= 0, f"{name}: {field.name} is negative"
    parts = n.sessions_idle + n.sessions_in_use + n.sessions_connecting + n.sessions_closing
    assert n.size == parts, f"{name}: size {n.size} != {parts}"
    ended = sum(getattr(n, counter) for counter in CLOSED)
    assert n.connects == n.connects_failed + n.size + ended, f"{name}: {n}"
    assert n.peak_in_use >= n.sessions_in_use, name
    assert n.peak_tasks_waiting >= n.tasks_waiting_acquire, name
    assert n.leases_in_flight >= n.sessions_in_use, name


def check_books(pool: Pool) -> PoolStatistics:
    """Assert R10 for the pool and each of its servers; returns what it looked at."""
    stats = pool.statistics()
    _balance("pool", stats)
    for name, server in stats.servers.items():
        _balance(name, server)
    for field in dataclasses.fields(stats):
        if field.name not in NO_SUMS:
            total = sum(getattr(server, field.name) for server in stats.servers.values())
            assert abs(getattr(stats, field.name) - total) < 1e-6, f"{field.name} is no sum over servers"
    return stats


def check_limits(pool: Pool) -> None:
    """Assert `size <= max_sessions + max_overlap` (1 in these tests), where no server has been removed."""
    stats = pool.statistics()
    for name, server in stats.servers.items():
        assert server.size <= server.max_sessions + 1, f"{name}: {server.size} > {server.max_sessions} + 1"


class Ledger:
    """An observer that keeps all events and checks the books at each. What it finds is raised by `verify`, as an observer
    that raises is merely logged."""

    def __init__(self, *, limits: bool = True) -> None:
        self.pool: Pool | None = None
        self.events: list[Event] = []
        self.failures: list[AssertionError] = []
        self._limits = limits
        self._last: dict[str, float] = {}

    def event(self, e: Event, /) -> None:
        self.events.append(e)
        if self.pool is None:
            return
        try:
            stats = check_books(self.pool)
            if self._limits:
                check_limits(self.pool)
            self._check_counters(stats)
        except AssertionError as failure:
            self.failures.append(failure)

    def _check_counters(self, stats: PoolStatistics) -> None:
        for field in dataclasses.fields(stats):
            if field.name in GAUGES or field.name == "servers":
                continue
            value = getattr(stats, field.name)
            assert value >= self._last.get(field.name, 0) - 1e-9, f"the counter {field.name} went back"
            self._last[field.name] = value

    def verify(self) -> None:
        """Raise the first imbalance, and compare the counters with the events told."""
        if self.failures:
            raise self.failures[0]
        if self.pool is None:
            return
        stats = check_books(self.pool)
        assert stats.acquires == self.count(LeaseStarted)
        assert stats.acquires - stats.leases_in_flight == self.count(LeaseEnded)
        told = [e.reason for e in self.events if isinstance(e, AcquireFailed)]
        assert told.count("cancelled") == stats.acquires_cancelled
        assert told.count("timed out") == stats.acquires_timed_out
        assert told.count("rejected") == stats.acquires_rejected
        assert self.count(SessionClosed) == stats.connects - stats.size

    def count(self, kind: type[Event]) -> int:
        """How many events of that kind there were."""
        return sum(isinstance(e, kind) for e in self.events)

    def story(self, *kinds: type[Event]) -> list[tuple[Any, ...]]:
        """The events as `(time, kind, connection)`, and the reason where there is one."""
        told: list[tuple[Any, ...]] = []
        for e in self.events:
            if kinds and not isinstance(e, kinds):
                continue
            line: tuple[Any, ...] = (round(e.at, 6), type(e).__name__)
            if isinstance(e, ConnectionEvent):
                line += (e.connection,)
            if isinstance(e, SessionClosed | AcquireFailed):
                line += (e.reason,)
            told.append(line)
        return told


@asynccontextmanager
async def watched_pool(
    servers: Mapping[str, Server],
    *,
    policy: PoolPolicy | None = None,
    max_connecting: int = 8,
    limits: bool = True,
    ledger: Ledger | None = None,
) -> AsyncIterator[Pool]:
    """`open_pool` with a ledger that checks every event, and nothing left at the end."""
    ledger = ledger or Ledger(limits=limits)
    async with open_pool(
        servers, policy=policy or PoolPolicy(), max_connecting=max_connecting, observers=[ledger]
    ) as pool:
        ledger.pool = pool
        yield pool
    ledger.verify()
    stats = check_books(pool)
    assert (stats.size, stats.tasks_waiting_acquire, stats.leases_in_flight) == (0, 0, 0)


def text(result: types.CallToolResult) -> str:
    """The text of a tool's result."""
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


def numbers(stats: PoolStatistics | ServerStatistics) -> dict[str, Any]:
    """The numbers that are not 0, limits aside."""
    given = {f.name: getattr(stats, f.name) for f in dataclasses.fields(stats) if f.name not in NO_SUMS}
    return {name: value for name, value in given.items() if value and name not in ("max_sessions", "min_sessions")}


async def settle() -> None:
    """Let every task run until it waits for something."""
    await trio.testing.wait_all_tasks_blocked()


def leaves(why: BaseException) -> Iterable[BaseException]:
    """The exceptions in a group, however nested."""
    if isinstance(why, BaseExceptionGroup):
        for inner in why.exceptions:
            yield from leaves(inner)
    else:
        yield why
