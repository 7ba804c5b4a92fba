"""`python -m benchmarks`: the pool beside what a program would use instead, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import trio

from . import picture, report
from .contests import CONTESTS as CALLS_AND_LEASES
from .contests import Plan
from .growth import growth
from .http_calls import http
from .measure import Row
from .tool_sets import tool_sets

# Over HTTP first: what the others leave in memory, the collections of `mcp.Client` would have to go through.
CONTESTS = {"http": http, **CALLS_AND_LEASES, "tool sets": tool_sets, "growth": growth}


async def run(names: Sequence[str], plan: Plan) -> list[Row]:
    """The contests, one after the other. A dot on stderr is a round."""

    def told() -> None:
        print(".", end="", file=sys.stderr, flush=True)

    rows: list[Row] = []
    for name in names:
        print(f"{name} ", end="", file=sys.stderr, flush=True)
        rows += await CONTESTS[name](plan, told)
        print(file=sys.stderr)
    # Promises first.
    return sorted(rows, key=lambda row: row.bound is None)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=None, help="rounds of every contest (default: 25; fewer of slow ones)"
    )
    parser.add_argument("--calls", type=int, default=None, help="calls in one turn of a contender (default: 400)")
    parser.add_argument("--only", action="append", choices=list(CONTESTS), help="this contest only; may be repeated")
    parser.add_argument("--json", type=Path, help="write everything, the rounds included, to this file")
    parser.add_argument("--svg", type=Path, help="draw the promises into this file")
    parser.add_argument("--page", type=Path, help="replace the figures in this Markdown page")
    parser.add_argument("--quick", action="store_true", help="everything once and small, to see that it runs")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns 1 if a promise is not kept; in quick mode there are none."""
    options = arguments(given)
    plan = Plan().quick() if options.quick else Plan()
    if options.rounds is not None:
        few = {name: min(options.rounds, getattr(plan, name)) for name in ("big_rounds", "lane_rounds", "http_rounds")}
        plan = replace(plan, rounds=options.rounds, **few)
    if options.calls is not None:
        plan = replace(plan, calls=options.calls)
    rows = trio.run(run, options.only or list(CONTESTS), plan)
    if options.quick:
        print("Quick mode: the figures mean nothing.")
    print(report.table(rows))
    document = report.to_json(rows, asdict(plan) | {"quick": options.quick})
    if options.json is not None:
        report.write_json(options.json, document)
    if options.svg is not None:
        picture.write(options.svg, rows, "Ratios to what a program would use instead")
    if options.page is not None:
        report.write_page(options.page, "figures", report.markdown(rows, report.surroundings()))
    return 0 if options.quick or all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
