"""Every program in these pages of the guide runs as it stands, and prints what the page says that it prints.

Those that need packages which the tests do without are run by `nox -s moving`.
"""

from __future__ import annotations

import builtins
import subprocess
import sys
import webbrowser
from pathlib import Path

import mcp.client.stdio  # noqa: F401 (it keeps the stderr of the moment of its import: not that of a single test)
import pytest

from .pages import DOCS, Program, files, programs
from .servers.office import Person, running_office

PAGES = [
    "guide/anyio.md",
    "guide/application.md",
    "guide/credentials.md",
    "guide/exclusive.md",
    "guide/moving.md",
    "guide/notifications.md",
    "guide/troubleshooting.md",
    "guide/web.md",
    "owner.md",
]
PROGRAMS = [
    pytest.param(page, program, id=f"{page}:{program.line}")
    for page in PAGES
    for program in programs(page)
    if program.environment is None
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
# What the protocol deprecates, such as its logging, still has to be told of.
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
def test_a_program_of_the_guide_prints_what_the_page_says(
    page: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    if page == "guide/credentials.md":
        person = Person()
        monkeypatch.setattr(webbrowser, "open", person.open)
        monkeypatch.setattr(builtins, "input", person.paste)
        with running_office(tmp_path) as addresses:
            run(page, program, addresses)
    elif page == "owner.md":
        run_apart(program)
    else:
        run(page, program, {})
    assert capfd.readouterr().out == program.prints


def run(page: str, program: Program, addresses: dict[str, str]) -> None:
    code = "\n" * program.line + program.code  # so that a traceback shows the lines of the page
    for told, real in addresses.items():
        code = code.replace(told, real)
    exec(compile(code, str(DOCS / page), "exec"), {"__name__": "__main__"})


def run_apart(program: Program) -> None:
    """Run a program that breaks the run it is in, and leaves everything as it is, in a process of its own."""
    subprocess.run([sys.executable, "-c", program.code], timeout=60, check=True)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_these_pages_is_left_out(page: str) -> None:
    assert len(programs(page)) == (DOCS / page).read_text().count("```python") > 0


def test_the_file_of_tests_in_the_guide_passes_with_the_configuration_beside_it(tmp_path: Path) -> None:
    for file in files("guide/testing.md"):
        (tmp_path / file.name).write_text(file.text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
