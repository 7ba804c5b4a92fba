"""Turns and clocks: how contenders are measured side by side.

In every round each contender has one turn, in an order that changes from round to round, with a garbage collection before
each. A turn is timed twice: by the wall clock, which includes the server and whoever else uses the machine, and by the
processing time of this process, which does not. A ratio is taken within a round, between turns that lie moments apart, and
the median over the rounds is what is told, with the quartiles as its spread.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn: seconds per operation."""

    wall: float
    cpu: float


class Stopwatch:
    """Adds up the time spent inside its `with` blocks."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0
        self._began = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._began = (time.process_time(), time.perf_counter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wall += time.perf_counter() - self._began[1]
        self._cpu += time.process_time() - self._began[0]

    def sample(self, operations: int) -> Sample:
        """What one operation took."""
        return Sample(self._wall / operations, self._cpu / operations)


Turn = Callable[[], Awaitable[Sample]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values; of a single one, that value thrice."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True)
class Row:
    """One figure: a contender against another, and the most that the ratio may be."""

    key: str
    title: str
    ours: str
    theirs: str
    bound: float | None
    """`None`: the row is there for the reader, and nothing is promised."""
    ours_samples: Sequence[Sample]
    theirs_samples: Sequence[Sample]
    note: str = ""
    condition: bool = True
    """What must be true beside the ratio, such as that there was one process; the note says what it is."""

    @property
    def ratio(self) -> Spread:
        """Ours to theirs by the wall clock, within each round."""
        pairs = zip(self.ours_samples, self.theirs_samples, strict=True)
        return Spread.of([ours.wall / theirs.wall for ours, theirs in pairs])

    @property
    def cpu_ratio(self) -> Spread | None:
        """The same by the processing time of the clients; `None` if one of them took less than the clock can tell."""
        pairs = list(zip(self.ours_samples, self.theirs_samples, strict=True))
        if not all(theirs.cpu > 0 for _, theirs in pairs):
            return None
        return Spread.of([ours.cpu / theirs.cpu for ours, theirs in pairs])

    @property
    def holds(self) -> bool | None:
        """Whether the promise is kept; `None` where there is none."""
        if self.bound is None:
            return None
        return self.condition and self.ratio.median <= self.bound

    def to_json(self) -> dict[str, Any]:
        """The row as it is written to the JSON file."""

        def side(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
            return {
                "name": name,
                "wall_seconds": statistics.median(sample.wall for sample in samples),
                "cpu_seconds": statistics.median(sample.cpu for sample in samples),
                "rounds": [[sample.wall, sample.cpu] for sample in samples],
            }

        def spread(value: Spread | None) -> dict[str, float] | None:
            return None if value is None else {"median": value.median, "low": value.low, "high": value.high}

        return {
            "key": self.key,
            "title": self.title,
            "ours": side(self.ours, self.ours_samples),
            "theirs": side(self.theirs, self.theirs_samples),
            "ratio": spread(self.ratio),
            "cpu_ratio": spread(self.cpu_ratio),
            "bound": self.bound,
            "holds": self.holds,
            "note": self.note,
        }


async def interleave(
    turns: dict[str, Turn], rounds: int, *, warm_up: int = 1, told: Callable[[], None] = lambda: None
) -> dict[str, list[Sample]]:
    """Give every contender its turn in every round. The turns of the warm-up count for nothing."""
    names = list(turns)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            sample = await turns[name]()
            if number >= 0:
                samples[name].append(sample)
        told()
    return samples
