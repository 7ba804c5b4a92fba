"""Progress, on stderr and only on a terminal: a bar of `rich` where it is installed, a plain one otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._output import one_line
from ._parser import colour_wanted


class Bar:
    """A plain bar, drawn over itself."""

    WIDTH = 30

    def __init__(self) -> None:
        self._drawn = False

    async def update(self, progress: float, total: float | None, message: str | None) -> None:
        """What `mcp.Client` calls for each progress notification."""
        if total:
            share = max(0.0, min(1.0, progress / total))
            filled = round(share * self.WIDTH)
            text = f"[{'#' * filled}{'.' * (self.WIDTH - filled)}] {share:4.0%}"
        else:
            text = f"{progress:g}"
        sys.stderr.write(f"\r\x1b[K{text} {one_line(message, 40)}")
        sys.stderr.flush()
        self._drawn = True

    def close(self) -> None:
        """Leave the line as it was before."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class RichBar(Bar):
    """The same, drawn by `rich`."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("", total=None)

    async def update(self, progress: float, total: float | None, message: str | None) -> None:
        """What `mcp.Client` calls for each progress notification."""
        self._progress.update(self._task, completed=progress, total=total, description=one_line(message, 40))

    def close(self) -> None:
        """Remove it."""
        self._progress.stop()


@contextmanager
def bar(shown: bool) -> Iterator[Bar | None]:
    """A bar for the length of a block; nothing where it would not be seen."""
    if not shown:
        yield None
        return
    made = _rich() or Bar()
    try:
        yield made
    finally:
        made.close()


def _rich() -> Bar | None:
    try:
        from rich.console import Console  # pyright: ignore[reportMissingImports]
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    console = Console(stderr=True, no_color=not colour_wanted())
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    progress = Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True)
    progress.start()
    return RichBar(progress)
