"""The numbers of one server: what is counted, and the gauges, kept up to date step by step.

A server may have ten thousand lanes, so its numbers are not added up on demand. Each lane writes into the numbers
of its server, and those of the whole pool are the sum over the servers, plus one sum for all servers that have gone. Only
the two peaks are no sums: each is the largest number at one moment, so the pool counts its own, and so does a name, which
several servers may have: one that was removed and still drains, its successor, and one that a scope brings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, final

from .._connection._record import Phase

COUNTERS: Final = (
    "acquires", "acquires_waited", "acquires_cancelled", "acquires_timed_out", "acquires_rejected",
    "acquire_wait_seconds", "connects", "connects_failed", "connect_seconds", "usage_seconds", "sessions_lost",
    "closed_idle", "closed_lifetime", "closed_drained", "closed_broken", "closed_shutdown",
)  # fmt: skip


@final
@dataclass(slots=True, weakref_slot=True)
class Peaks:
    """How many sessions are in use and how many tasks wait, in the whole pool or under one name, now and at most."""

    in_use: int = 0
    peak_in_use: int = 0
    waiting: int = 0
    peak_waiting: int = 0

    def wait(self, by: int) -> None:
        """That many tasks more, or fewer, wait."""
        self.waiting += by
        if self.waiting > self.peak_waiting:
            self.peak_waiting = self.waiting


@final
@dataclass(slots=True)
class Counts:
    """The numbers of one server, or the sum of those that have gone."""

    pool: Peaks = field(default_factory=Peaks)
    named: Peaks = field(default_factory=Peaks)
    """Shared by all servers of the name."""

    acquires: int = 0
    acquires_waited: int = 0
    acquires_cancelled: int = 0
    acquires_timed_out: int = 0
    acquires_rejected: int = 0
    acquire_wait_seconds: float = 0.0
    connects: int = 0
    connects_failed: int = 0
    connect_seconds: float = 0.0
    usage_seconds: float = 0.0
    sessions_lost: int = 0
    closed_idle: int = 0
    closed_lifetime: int = 0
    closed_drained: int = 0
    closed_broken: int = 0
    closed_shutdown: int = 0

    min_sessions: int = 0
    max_sessions: int = 0
    idle: int = 0
    in_use: int = 0
    connecting: int = 0
    closing: int = 0
    waiting: int = 0
    leases: int = 0

    def first_lease(self) -> None:
        """An idle connection is in use now."""
        self.idle -= 1
        self.in_use += 1
        for peaks in (self.named, self.pool):
            peaks.in_use += 1
            if peaks.in_use > peaks.peak_in_use:
                peaks.peak_in_use = peaks.in_use

    def last_release(self) -> None:
        """A connection in use is idle now."""
        self.in_use -= 1
        self.named.in_use -= 1
        self.pool.in_use -= 1
        self.idle += 1

    def recount(self, before: Phase | None, after: Phase | None) -> None:
        """A connection is counted differently now; `None`: it did not exist, or is gone."""
        if before == "in_use":
            self.in_use -= 1
            self.named.in_use -= 1
            self.pool.in_use -= 1
        elif before is not None:
            setattr(self, before, getattr(self, before) - 1)
        if after is not None:
            setattr(self, after, getattr(self, after) + 1)

    def wait(self, by: int) -> None:
        """That many tasks more, or fewer, wait."""
        self.waiting += by
        self.named.wait(by)
        self.pool.wait(by)

    def add_counters(self, other: Counts) -> None:
        """Take over the counters of a server that has gone."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_statistics(self) -> dict[str, Any]:
        """The numbers by the names of `ServerStatistics`, peaks included."""
        numbers = {name: getattr(self, name) for name in COUNTERS}
        numbers.update(
            min_sessions=self.min_sessions,
            max_sessions=self.max_sessions,
            size=self.idle + self.in_use + self.connecting + self.closing,
            sessions_idle=self.idle,
            sessions_in_use=self.in_use,
            sessions_connecting=self.connecting,
            sessions_closing=self.closing,
            tasks_waiting_acquire=self.waiting,
            leases_in_flight=self.leases,
            peak_in_use=self.named.peak_in_use,
            peak_tasks_waiting=self.named.peak_waiting,
        )
        return numbers
