"""Docstrings here are written as plain Markdown; autodoc wants reStructuredText. This turns the little that is used of the
one into the other: code in backticks, indented blocks of code, and tables.
"""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w)?)")


def _inline(line: str) -> str:
    # A letter right after the closing backtick, as in a plural, has to be kept apart from it.
    return _CODE.sub(lambda m: f"``{m[1]}``" + ("\\ " if m[2] else ""), line)


def _table(rows: list[str]) -> list[str]:
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    cells = [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    made = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        for number, cell in enumerate(row):
            made.append(f"   {'* -' if number == 0 else '  -'} {_inline(cell)}")
    return [*made, ""]


def _is_code(line: str, before: list[str]) -> bool:
    return line.startswith("    ") and (not before or not before[-1].strip())


def to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    made: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("|"):
            end = number
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            made += _table(lines[number:end])
            number = end
        elif _is_code(line, lines[:number]):
            end = number
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
                end += 1
            made += ["", ".. code-block:: python", "", *(f"    {code[4:]}" for code in lines[number:end]), ""]
            number = end
        else:
            begins_list = line.startswith("- ") and made and made[-1].strip()
            if begins_list and not made[-1].startswith(("- ", " ")):
                made.append("")  # Markdown lets a list follow its paragraph at once
            made.append(_inline(line))
            number += 1
    return made


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
