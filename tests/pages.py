"""The programs in the pages of the guide: complete ones, each with the output that the page shows below it; and whole files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
_PROGRAM = re.compile(
    r"^(?:<!-- in: (?P<environment>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<prints>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"^<!-- file: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class File:
    """A file that a page shows as a whole."""

    name: str
    text: str


@dataclass(frozen=True)
class Program:
    """One block of a page."""

    line: int
    code: str
    prints: str
    """What the page says that it prints; empty where the page shows nothing."""
    environment: str | None
    """The environment that it needs; `None` for that of the tests."""


def programs(page: str) -> list[Program]:
    """All blocks of Python of a page of `docs/`, in order."""
    text = (DOCS / page).read_text()
    return [
        Program(text.count("\n", 0, found.start("code")), found["code"], found["prints"] or "", found["environment"])
        for found in _PROGRAM.finditer(text)
    ]


def files(page: str) -> list[File]:
    """All files that a page shows, in order."""
    return [File(found["name"], found["text"]) for found in _FILE.finditer((DOCS / page).read_text())]
