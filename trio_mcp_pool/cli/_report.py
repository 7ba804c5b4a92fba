"""What the demo prints: scenes as they happen, and the figures as a table at the end.

With `rich` installed (the extra `cli`) and a terminal to print to, there is some colour; otherwise the same words go out
plain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NotShown(Exception):
    """Something that the demo set out to show did not happen; the message says what."""


def expect(happened: bool, what: str) -> None:
    """Raise `NotShown` unless it happened."""
    if not happened:
        raise NotShown(what)


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    what: str
    by_hand: str
    pooled: str


def _rich_console() -> Any:
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return Console(highlight=False)


class Report:
    """Prints to stdout, and keeps the figures."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._console = None if write is not None else _rich_console()
        self._write = write if write is not None else _to_stdout
        self.figures: list[Figure] = []

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._put("")
        self._put(title, style="bold")

    def say(self, text: str) -> None:
        """Print what happened."""
        self._put(f"  {text}")

    def aside(self, text: str) -> None:
        """Print what the pool has reported."""
        self._put(f"    [{text}]", style="dim")

    def failed(self, text: str) -> None:
        """Print what did not happen."""
        self._put(f"  NOT SHOWN: {text}", style="bold red")

    def figure(self, what: str, by_hand: str, pooled: str) -> None:
        """Keep a row for the table."""
        self.figures.append(Figure(what, by_hand, pooled))

    def table(self) -> None:
        """Print the figures."""
        rows = [Figure("", "session per call", "pool"), *self.figures]
        first = max(len(row.what) for row in rows)
        second = max(len(row.by_hand) for row in rows)
        third = max(len(row.pooled) for row in rows)
        self.scene("The figures")
        for number, row in enumerate(rows):
            self._put(f"  {row.what:<{first}}  {row.by_hand:>{second}}  {row.pooled:>{third}}")
            if number == 0:
                self._put(f"  {'-' * first}  {'-' * second}  {'-' * third}")

    def _put(self, text: str, style: str | None = None) -> None:
        if self._console is not None:
            self._console.print(text, style=style, markup=False, soft_wrap=True)
        else:
            self._write(text)


def _to_stdout(text: str) -> None:
    print(text, flush=True)


def milliseconds(seconds: float) -> str:
    """A short span for people."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
