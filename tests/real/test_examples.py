"""Every program in `examples/`, and the program in the README, runs by itself and does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.install import RealServers

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[!_]*.py"))

SAYS = {
    "agent_tasks.py": "Cyd has 3 notes",
    "agents.py": "expected array, got string",
    "anyio_program.py": "after the block:",
    "many_calls.py": "10000 calls by 4 processes",
    "quickstart.py": "the notebook says:",
    "reconfigure.py": "answered by 2 processes one after the other",
    "test_with_the_kit.py": "5 passed",
    "token_refresh.py": "revoked, replaced, answered",
    "watched_config.py": "the steady server kept its process all the while",
    "web_handler.py": "20 requests answered by 1 process",
}


def run(*command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    # Warnings are shown, not raised: the programs use libraries whose warnings are not ours.
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
    )


def test_every_example_is_known_here() -> None:
    assert sorted(SAYS) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_by_itself(name: str, real_servers: RealServers) -> None:
    known = [real_servers.filesystem[1], real_servers.memory[1], real_servers.time[0]]
    done = run(sys.executable, f"examples/{name}", *(known if name == "agents.py" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAYS[name] in done.stdout


def test_the_quick_start_lists_the_tools_of_any_command() -> None:
    done = run(sys.executable, "examples/quickstart.py", *demo_server())
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'await pool.call_tool("mine", "write", {"text": "string"})' in done.stdout


def test_the_first_call_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "trio.run(main)" in block]
    script = Path(demo_server()[0])
    assert '".venv/bin/trio-mcp-pool"' in program
    here = tmp_path / "first_call.py"
    here.write_text(program.replace('".venv/bin/trio-mcp-pool"', repr(str(script))))
    done = run(sys.executable, str(here))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "line 1 written\n"


def demo_server() -> tuple[str, str, str]:
    return str(Path(sys.executable).with_name("trio-mcp-pool")), "demo-server", "notebook"
