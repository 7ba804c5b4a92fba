"""The simulation of many workers: its figures in the guide are what it says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fleet import Fleet, simulate, table

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "scaling.md"


def test_the_guides_rows_are_what_the_simulation_says() -> None:
    rows = table([10], 120.0, seed=1).splitlines()[2:]
    assert len(rows) >= 6
    page = GUIDE.read_text().splitlines()
    assert [row for row in rows if row not in page] == []


def test_a_seed_plays_the_same_again_and_another_one_differently() -> None:
    fleet = Fleet(workers=10, seconds=20.0)
    assert simulate(fleet, 1) == simulate(fleet, 1)
    assert simulate(fleet, 1) != simulate(fleet, 2)
