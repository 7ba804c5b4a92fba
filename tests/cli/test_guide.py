"""Every block of the two chapters runs as it stands, in their order, in an empty folder.

A block of a file's content has `<!-- file: NAME -->` before it, a command that fails `<!-- exit: STATUS -->`. Blocks of `text`
show what was printed once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.warm import Warm

pytestmark = pytest.mark.skipif(os.name != "posix", reason="shell scripts")

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"(?:<!-- (?P<mark>\w+): (?P<value>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
_EXITS = re.compile(r"^\| (?P<status>\d+) .*\| `(?P<command>[^`]+)` \|$", re.MULTILINE)


@pytest.fixture(params=["loaded", pytest.param("started anew", marks=pytest.mark.exhaustive)])
def env(request: pytest.FixtureRequest, tmp_path: Path, warm: Warm) -> dict[str, str]:
    """An environment in which `trio-mcp-pool` is found: the loaded program, or the installed one."""
    programs = Path(sys.executable).parent
    if request.param == "loaded":
        programs = tmp_path / "bin"
        programs.mkdir()
        warm.install(programs)
    return {**os.environ, "HOME": str(tmp_path), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("page", ["config.md", "command-line.md"])
def test_every_block_runs(page: str, tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    ran = 0
    for block in _BLOCK.finditer((ROOT / "docs" / "guide" / page).read_text()):
        kind, text = block["kind"], block["text"]
        if block["mark"] == "file":
            (folder / block["value"]).write_text(text)
            continue
        if kind == "text":
            continue
        assert kind in ("sh", "python"), f"{page}: a block of {kind} is neither run nor a file"
        command = ["bash", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        wanted = int(block["value"]) if block["mark"] == "exit" else 0
        assert done.returncode == wanted, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        ran += 1
    assert ran >= 5


def test_the_table_of_exit_statuses_tells_the_truth_where_it_can_be_tried(tmp_path: Path, env: dict[str, str]) -> None:
    page = (ROOT / "docs" / "guide" / "command-line.md").read_text()
    (config,) = [block["text"] for block in _BLOCK.finditer(page) if block["mark"] == "file"]
    (tmp_path / "mcp.json").write_text(config)
    tried = 0
    for row in _EXITS.finditer(page):
        if "example.org" in row["command"] or "files." in row["command"]:
            continue
        done = subprocess.run(
            ["bash", "-c", f"trio-mcp-pool {row['command']}"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == int(row["status"]), (row["command"], done)
        tried += 1
    assert tried == 4
