"""The matrix as a page: one row per event, wire and load, the cells without and with a scope side by side."""

from __future__ import annotations

from collections.abc import Mapping

from .events import Cell
from .play import Record

_INTRO = """\
# The fault matrix

What callers got when something went wrong, on real processes and sockets. This page is written by `nox -s faults`, which plays
every cell and checks it: no call hangs, no tool runs twice, no other call fails unless the session itself died, what a
caller got agrees with what the server executed, the next call works, and no process, descriptor or task is left.

*Struck* are the calls that the event hit, *siblings* the others on the same session at the time. *Seconds* run from the
event to the last struck caller's outcome, or for a close to the end of the pool's block; they are those of one run on a small,
busy machine. *Executed* is the server's own count, of all these calls. *Then* is what the next calls got, one after the
other. *In a scope* the same inside `open_scope`, where it differs: there nothing is sent again, and the next caller gets one
error that says that the session is gone.

The policy here: `write_timeout=0.5`, `probe_timeout=0.3`, `close_timeout=1.5`, `connect_timeout=1` for a mute server, backoff
from 0.1 to 0.2 s. Closing is by an exception where one call runs, by a cancellation where fifty run. What the outcomes mean
stands in [Errors](guide/errors.md), what is sent again in [Faults](guide/faults.md).
"""


def _counted(outcomes: Mapping[str, int]) -> str:
    if not outcomes:
        return ""
    if len(outcomes) == 1 and sum(outcomes.values()) == 1:
        return f"`{next(iter(outcomes))}`"
    return ", ".join(f"{count} `{name}`" for name, count in sorted(outcomes.items()))


def _then(record: Record) -> str:
    return ", ".join(f"`{one}`" for one in record.after)


def _scope(plain: Record, scoped: Record) -> str:
    parts = []
    if plain.struck != scoped.struck:
        parts.append(_counted(scoped.struck))
    if plain.after != scoped.after:
        parts.append(f"then {_then(scoped)}")
    return "; ".join(parts)


def _row(cell: Cell, plain: Record, scoped: Record) -> list[str]:
    took = f"{plain.seconds:.3f}" if plain.seconds < 0.1 else f"{plain.seconds:.1f}"
    executed = f"{plain.executed} of {plain.calls}" if plain.calls else ""
    return [
        cell.wire,
        cell.load,
        _counted(plain.struck),
        _counted(plain.siblings),
        took,
        executed,
        _then(plain),
        _scope(plain, scoped),
        "; ".join(plain.faults + scoped.faults),
    ]


def page(records: Mapping[Cell, Record]) -> str:
    """The page, in Markdown."""
    heads = ["wire", "calls", "struck", "siblings", "seconds", "executed", "then", "in a scope"]
    faulty = any(record.faults for record in records.values())
    if faulty:
        heads.append("faults")
    lines = [_INTRO]
    last = ""
    for cell, plain in records.items():
        if cell.scoped:
            continue
        if cell.event.name != last:
            last = cell.event.name
            lines += ["", f"## {last[0].upper()}{last[1:]}", ""]
            lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        scoped = records.get(Cell(cell.row, cell.wire, cell.load, True), plain)
        lines.append("| " + " | ".join(_row(cell, plain, scoped)[: len(heads)]) + " |")
    return "\n".join(lines) + "\n"
