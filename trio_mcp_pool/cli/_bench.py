"""`bench`: the same calls with a session each, and through the pool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import Event, LeaseEnded, LeaseStarted, Pool, Server
from . import _failures
from ._context import Context, duration
from ._failures import UNREACHABLE, Usage
from ._inventory import find_tool
from ._load import Load, histogram
from ._output import milliseconds
from ._targets import Named
from ._values import Values


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    servers: Mapping[str, Server]
    named: Named
    values: Values
    seconds: float


def prepare(context: Context) -> Plan:
    """The tool, its arguments, and how long."""
    options = context.options
    servers, named = context.targets.one(options.words)
    seconds = duration(options.duration, 3, "--duration")
    if not 0 < seconds < math.inf:
        raise Usage("--duration must be longer than 0 and end some time")
    if options.rate is not None and not 0 < options.rate <= 1_000_000:
        raise Usage("--rate must be greater than 0")
    return Plan(servers, named, Values(named.rest, options.json_arguments), seconds)


class Leases:
    """An observer that adds up how long callers waited for sessions and used them."""

    def __init__(self) -> None:
        self.count = 0
        self.waited = 0.0
        self.used = 0.0

    def event(self, e: Event) -> None:
        """Count."""
        if isinstance(e, LeaseStarted):
            self.count += 1
            self.waited += e.waited
        elif isinstance(e, LeaseEnded):
            self.used += e.used

    def clear(self) -> None:
        """Start again."""
        self.count, self.waited, self.used = 0, 0.0, 0.0


async def run(context: Context, plan: Plan) -> int:
    """Measure; gives the exit status."""
    options, named = context.options, plan.named
    leases = Leases()
    loads: list[tuple[str, Load, float, float]] = []
    async with context.new_pool(plan.servers, leases, max(8, options.concurrency)) as pool:
        tool = await find_tool(pool, named.server, named.name)
        arguments = plan.values.fitted(tool.name, tool.input_schema)
        for way in ("session per call", "pool"):
            leases.clear()
            load = Load(options.concurrency, options.rate)
            await load.run(_caller(pool, named, arguments, alone=way != "pool"), plan.seconds)
            share = max(1, leases.count)
            loads.append((way, load, leases.waited / share, leases.used / share))
    _print(context, named, loads)
    failure = next((load.failure for _, load, _, _ in loads if load.failure is not None), None)
    if failure is not None:
        return _failures.report(failure, context.out.format)
    return 0 if all(load.times for _, load, _, _ in loads) else UNREACHABLE


def _caller(pool: Pool, named: Named, arguments: dict[str, Any], *, alone: bool) -> Any:
    async def pooled() -> bool:
        return not (await pool.call_tool(named.server, named.name, arguments)).is_error

    async def by_itself() -> bool:
        # A scope's session is dialled for its first call and closed with it: what a session per call costs.
        async with pool.open_scope() as scope:
            return not (await scope.call_tool(named.server, named.name, arguments)).is_error

    return by_itself if alone else pooled


def _print(context: Context, named: Named, loads: list[tuple[str, Load, float, float]]) -> None:
    out = context.out
    if not out.is_table:
        rows = [
            {
                "tool": f"{named.server}.{named.name}",
                "way": way,
                "concurrency": load.concurrency,
                "calls": len(load.times),
                "errors": load.errors,
                "perSecond": load.per_second,
                **{f"p{n}Seconds": _number(load.percentile(n / 100)) for n in (50, 90, 99)},
                "waitSeconds": waited,
                "useSeconds": used,
            }
            for way, load, waited, used in loads
        ]
        for row in rows if out.format == "ndjson" else [rows]:
            out.json(row)
        return
    out.rows(
        ("WAY", "CALLS", "ERRORS", "PER SECOND", "P50", "P90", "P99", "MEAN WAIT", "MEAN USE"),
        [
            (
                way,
                str(len(load.times)),
                str(load.errors),
                f"{load.per_second:.1f}",
                *(_shown(load.percentile(n / 100)) for n in (50, 90, 99)),
                milliseconds(waited),
                milliseconds(used),
            )
            for way, load, waited, used in loads
        ],
    )
    for way, load, _, _ in loads:
        if load.times:
            out.text(f"\n{way}")
            for line in histogram(load.times):
                out.text(line)


def _shown(seconds: float) -> str:
    return "-" if math.isnan(seconds) else milliseconds(seconds)


def _number(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds
