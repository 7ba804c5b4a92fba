"""A part of the fault matrix: every event on every wire under load; the whole of it is `nox -s faults`.

R8, R9, R11, R12, R13, R15: nothing hangs, nothing runs twice, nobody else fails, everything comes back.
"""

from __future__ import annotations

import pytest

from .events import EVENTS, Cell, all_cells
from .play import run_cell

pytestmark = pytest.mark.exhaustive

# These take seconds each, by their nature or their size.
_LONG = ("frozen", "stops reading, the pipe is full", "mute at connect", "a 10 MB answer", "a line over `max_message`")


def _chosen() -> list[Cell]:
    """Each row on one of its wires, by turns, with fifty calls where that is quick, in a scope and out of one by turns."""
    cells = []
    for row, event in enumerate(EVENTS):
        wire = event.wires[row % len(event.wires)]
        load = event.loads[0] if event.name in _LONG else event.loads[-1]
        cells.append(Cell(row, wire, load, row % 2 == 1))
    return cells


@pytest.mark.parametrize("cell", _chosen(), ids=str)
def test_R13_R15_a_cell_of_the_matrix_stands(cell: Cell) -> None:
    record = run_cell(cell)
    assert record.faults == []


def test_every_cell_is_named_once() -> None:
    names = [str(cell) for cell in all_cells()]
    assert len(set(names)) == len(names)
