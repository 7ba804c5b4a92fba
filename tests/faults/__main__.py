"""`python -m tests.faults`: the whole matrix, on real processes and sockets, as a table.

`--only WORDS` plays the rows that contain them, `--write` puts the table into `docs/faults-matrix.md`. The exit status is 1 if
a cell does not stand.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from .events import Cell, all_cells
from .place import ROOT
from .play import Record, play_cell
from .table import page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Play the matrix of faults.")
    parser.add_argument("--only", default="", help="only cells whose name contains this")
    parser.add_argument("--workers", type=int, default=4, help="cells that are played side by side (default: 4)")
    parser.add_argument("--write", action="store_true", help="write docs/faults-matrix.md")
    options = parser.parse_args()
    cells = [cell for cell in all_cells() if options.only in str(cell)]
    began = time.monotonic()
    records: dict[Cell, Record] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context) as executor:
        for future in as_completed(futures := {executor.submit(play_cell, cell): cell for cell in cells}):
            record = records[futures[future]] = future.result()
            for fault in record.faults:
                print(f"{record.cell}: {fault}", file=sys.stderr)
            if sys.stderr.isatty():
                print(f"\r{len(records)} of {len(cells)}", end="", file=sys.stderr)
    text = page({cell: records[cell] for cell in cells})
    print(text)
    faulty = sum(bool(record.faults) for record in records.values())
    print(f"{len(cells)} cells in {time.monotonic() - began:.0f} s, {faulty} do not stand", file=sys.stderr)
    if options.write and not options.only:
        (ROOT / "docs" / "faults-matrix.md").write_text(text)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
