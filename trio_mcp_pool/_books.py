"""The counters of one lane, and the peaks of a server and of the pool.

Gauges are never stored: they are read off the lane's own collections, so they cannot drift. Only what has passed is
counted, here. Peaks need the moment, so each server and the pool keep a small tally that their lanes move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, final


@final
@dataclass(slots=True)
class Counts:
    """Counters of one lane, or of lanes that are forgotten."""

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

    def add(self, other: Counts) -> None:
        """Take over the counters of a lane that is forgotten."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def as_dict(self) -> dict[str, Any]:
        """The counters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@final
class Tally:
    """How many sessions are in use and how many tasks wait, at this moment and at most. Moves its parent along."""

    __slots__ = ("in_use", "parent", "peak_in_use", "peak_waiting", "waiting")

    def __init__(self, parent: Tally | None = None) -> None:
        self.parent: Tally | None = parent
        self.in_use: int = 0
        self.peak_in_use: int = 0
        self.waiting: int = 0
        self.peak_waiting: int = 0

    def use(self, by: int) -> None:
        """That many sessions more, or fewer, are in use."""
        tally: Tally | None = self
        while tally is not None:  # twice per call: a loop is cheaper than asking the parent
            tally.in_use = in_use = tally.in_use + by
            if in_use > tally.peak_in_use:
                tally.peak_in_use = in_use
            tally = tally.parent

    def wait(self, by: int) -> None:
        """That many tasks more, or fewer, wait."""
        self.waiting += by
        if self.waiting > self.peak_waiting:
            self.peak_waiting = self.waiting
        if self.parent is not None:
            self.parent.wait(by)
