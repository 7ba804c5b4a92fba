"""A load: many callers who call a tool over and over, for `bench` and `top`."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from mcp import MCPError

from .. import PoolError
from ._failures import Failure, explain
from ._output import milliseconds

Call = Callable[[], Awaitable[bool]]
"""One call; gives whether the tool said that all is well."""


@dataclass
class Load:
    """The calls so far, with their times in seconds."""

    concurrency: int
    rate: float | None = None
    """Calls begun per second; `None`: as many as go."""
    times: list[float] = field(default_factory=list)
    errors: int = 0
    failure: Failure | None = None
    """The first failure."""
    seconds: float = 0.0

    async def run(self, call: Call, seconds: float) -> None:
        """Call for so long. Calls that are under way at the end are waited for."""
        began = time.perf_counter()
        end = began + seconds
        started = 0

        async def caller() -> None:
            nonlocal started
            while True:
                due = time.perf_counter()
                if self.rate is not None:
                    # A call's time counts from when it was due: a server that is late must not look quick because the next
                    # calls were not made meanwhile.
                    due = began + started / self.rate
                    started += 1
                    await trio.sleep(max(0.0, due - time.perf_counter()))
                if due >= end or time.perf_counter() >= end:
                    return
                await self._one(call, due)

        async with trio.open_nursery() as nursery:
            for _ in range(self.concurrency):
                nursery.start_soon(caller)
        self.seconds = time.perf_counter() - began

    async def _one(self, call: Call, due: float) -> None:
        try:
            good = await call()
        except (PoolError, MCPError) as error:
            self.failure = self.failure or explain(error)
            good = False
            await trio.sleep(0.01)  # a server that is in backoff must not be asked in an endless loop
        if good:
            self.times.append(time.perf_counter() - due)
        else:
            self.errors += 1

    @property
    def per_second(self) -> float:
        """Good calls per second."""
        return len(self.times) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The time within which this share of the calls was answered; `nan` without any."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def histogram(times: list[float], width: int = 40) -> list[str]:
    """The times as bars, in classes that each are twice as wide as the one before."""
    if not times:
        return []
    first = max(1e-5, min(times))
    classes: dict[int, int] = {}
    for seconds in times:
        number = max(0, math.floor(math.log2(max(seconds, first) / first)))
        classes[number] = classes.get(number, 0) + 1
    most = max(classes.values())
    lines = []
    for number in range(max(classes) + 1):
        count = classes.get(number, 0)
        bar = "#" * math.ceil(count / most * width)
        lines.append(f"  < {milliseconds(first * 2 ** (number + 1)):>9}  {count:>7}  {bar}".rstrip())
    return lines
