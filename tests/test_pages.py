"""Every program in these pages of the guide runs as it stands, and prints what the page says that it prints.

Those that need packages which the tests do without are run by `nox -s moving`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mcp.client.stdio  # noqa: F401 (it keeps the stderr of the moment of its import: not that of a single test)
import pytest

from .pages import GUIDE, Program, programs

PAGES = ["moving.md"]
PROGRAMS = [
    pytest.param(page, program, id=f"{page}:{program.line}")
    for page in PAGES
    for program in programs(page)
    if program.environment is None
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_a_program_of_the_guide_prints_what_the_page_says(
    page: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    lines = "\n" * program.line  # so that a traceback shows the lines of the page
    exec(compile(lines + program.code, str(GUIDE / page), "exec"), {"__name__": "__main__"})
    assert capfd.readouterr().out == program.prints


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_these_pages_is_left_out(page: str) -> None:
    assert len(programs(page)) == (GUIDE / page).read_text().count("```python") > 0
