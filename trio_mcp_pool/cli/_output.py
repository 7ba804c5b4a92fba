"""What is printed. Results go to stdout and nothing else does; the rest goes to stderr.

With `rich` (the extra `cli`) and a terminal, tables have colour and wrap; otherwise the same words go out plain.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from ._parser import colour_wanted

# What a terminal would obey rather than show. A server's text must not move the cursor or set the title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Text that a terminal may be given."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def one_line(text: str | None, width: int = 72) -> str:
    """The first line of a text, shortened."""
    line = clean(next(iter((text or "").strip().splitlines()), ""))
    return line if len(line) <= width else line[: width - 1] + "…"


def plain(result: Any) -> Any:
    """A protocol object as its JSON."""
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


class Output:
    """Where a command writes."""

    def __init__(self, formatted: str = "table") -> None:
        self.format = formatted

    @property
    def is_table(self) -> bool:
        """Whether people read it."""
        return self.format == "table"

    def json(self, value: Any) -> None:
        """A JSON value: indented, or on one line for `ndjson`."""
        indent = 2 if self.format == "json" else None
        self._write(json.dumps(value, indent=indent, ensure_ascii=False))

    def text(self, text: str) -> None:
        """Text for people; on a terminal without what it would obey."""
        self._write(clean(text) if sys.stdout.isatty() else text)

    def rows(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""
        cells = [[clean(str(cell)) for cell in row] for row in rows]
        if sys.stdout.isatty() and self._rich_table(heads, cells):
            return
        widths = [max([len(head), *(len(row[n]) for row in cells)]) for n, head in enumerate(heads)]
        for row in [list(heads), *cells]:
            self._write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _rich_table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        try:
            from rich.console import Console  # pyright: ignore[reportMissingImports]
            from rich.table import Table  # pyright: ignore[reportMissingImports]
            from rich.text import Text  # pyright: ignore[reportMissingImports]
        except ImportError:
            return False
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, head in enumerate(heads):
            table.add_column(head, style="cyan" if number == 0 else None, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # as it is: a description may look like markup
        Console(highlight=False, no_color=not colour_wanted()).print(table)
        return True

    def note(self, text: str) -> None:
        """Something beside the results, on stderr."""
        print(clean(text), file=sys.stderr)

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def milliseconds(seconds: float) -> str:
    """A span for people, with its unit."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
