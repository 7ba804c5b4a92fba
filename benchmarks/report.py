"""What is told: a table on the terminal, a JSON file, the same table as Markdown, and a picture."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .measure import Row

SCHEMA = 1
HEADINGS = ("figure", "ours", "against", "ratio", "quartiles", "CPU ratio", "at most", "verdict")


def span(seconds: float) -> str:
    """A time for people."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def verdict(row: Row) -> str:
    """Whether the row keeps its promise."""
    if row.holds is None:
        return "for comparison"
    return "holds" if row.holds else "LOSES"


def cells(row: Row) -> tuple[str, ...]:
    """The row as the table shows it."""
    figures = row.to_json()
    ratio, cpu = row.ratio, row.cpu_ratio
    note = f" ({row.note})" if row.note else ""
    return (
        row.title + note,
        f"{row.ours}: {span(figures['ours']['wall_seconds'])}",
        f"{row.theirs}: {span(figures['theirs']['wall_seconds'])}",
        f"{ratio.median:.2f}",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        "-" if cpu is None else f"{cpu.median:.2f}",
        "" if row.bound is None else f"{row.bound:.2f}",
        verdict(row),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a table for the terminal."""
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def surroundings() -> dict[str, Any]:
    """What the figures were taken with."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **{package: version(package) for package in ("trio-mcp-pool", "mcp", "trio", "anyio", "pydantic-core")},
    }


def to_json(rows: Sequence[Row], plan: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything, the rounds included."""
    return {
        "schema": SCHEMA,
        "surroundings": surroundings() | (more or {}),
        "plan": plan,
        "rows": [row.to_json() for row in rows],
    }


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write the JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Row], taken_with: dict[str, Any]) -> str:
    """The rows as a Markdown table, with a line on what they were taken with."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| " + " | ".join("---" for _ in HEADINGS) + " |"]
    for row in rows:
        shown = [cell.replace(" us", " µs") if column in (1, 2) else cell for column, cell in enumerate(cells(row))]
        shown[-1] = f"**{shown[-1]}**" if row.holds is False else shown[-1]
        lines.append("| " + " | ".join(shown) + " |")
    told = ", ".join(f"{name} {value}" for name, value in taken_with.items())
    return "\n".join(lines) + f"\n\nTaken with {told}.\n"


def write_page(path: Path, section: str, text: str) -> None:
    """Put the text between the page's marks for this section."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise ValueError(f"{path} has no marks {begin} and {end}")
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
