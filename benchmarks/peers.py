"""`python -m benchmarks.peers`: the pool beside other MCP client layers, each in an environment of its own.

The environments are made under `.peers/` at the first run, from the registry. Every contender, the pool included, is a
process of its own with its own copy of the echo server; in every round each has its turn while the others wait. The
promise is made to the fastest of the four peers; the SDK's client is told beside them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from . import picture, report
from .contests import ECHO
from .measure import Row, Sample

# `fastmcp-slim[client]` is FastMCP's client without its server.
PEERS = {
    "fastmcp": "fastmcp-slim[client]==4.1.6",
    "openai-agents": "openai-agents==0.24.0",
    "mcp-pool": "mcp-pool==1.0.0",
    "langchain-mcp-adapters": "langchain-mcp-adapters==0.3.2",
}
HOME = Path(__file__).resolve().parent.parent / ".peers"
WORKER = str(Path(__file__).with_name("peer_worker.py"))
# What starts a process per call would otherwise take all the time of the benchmark.
FEW_CALLS = {"langchain-mcp-adapters": 4}


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that has `requirements`, made now if it does not exist."""
    folder = HOME / name
    python = folder / "bin" / "python"
    done = folder / "requirement.txt"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {', '.join(requirements)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(wanted)
    return python


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    def hear(self) -> dict[str, Any]:
        """The worker's next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.name} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self, calls: int, concurrent: int) -> Sample:
        """One turn."""
        assert self._process.stdin is not None
        if concurrent == 1:
            calls = min(calls, FEW_CALLS.get(self.name, calls))
        elif self.name in FEW_CALLS:
            calls = concurrent
        self._process.stdin.write(json.dumps({"calls": calls, "concurrent": concurrent}) + "\n")
        self._process.stdin.flush()
        answer = self.hear()
        return Sample(answer["wall"], answer["cpu"])


@contextmanager
def start(name: str) -> Iterator[Worker]:
    """A worker, ready for its first turn."""
    python = environment(name, [PEERS[name]]) if name in PEERS else sys.executable
    process = subprocess.Popen(
        [python, "-P", WORKER, name, ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        worker = Worker(name, process)
        worker.hear()
        yield worker
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(names: Sequence[str], rounds: int, calls: int, concurrent: int) -> list[Row]:
    """All contenders in turn; the rows."""
    rows: list[Row] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(start(name)) for name in ("pool", "mcp.Client", *names)]
        for key, title, at_once, bound in (
            ("peers-sequence", "warm call, in sequence", 1, 0.85),
            ("peers-concurrent", f"warm call, {concurrent} at once", concurrent, 0.60),
        ):
            samples: dict[str, list[Sample]] = {worker.name: [] for worker in workers}
            for number in range(-1, rounds):
                first = number % len(workers)
                for worker in workers[first:] + workers[:first]:
                    sample = worker.turn(calls, at_once)
                    if number >= 0:
                        samples[worker.name].append(sample)
                print(".", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            fastest = min(names, key=lambda name: median(sample.wall for sample in samples[name]))
            for name in ("mcp.Client", *names):
                is_fastest = name == fastest
                rows.append(
                    Row(
                        key if is_fastest else f"{key}-{name}",
                        title,
                        "pool.call_tool",
                        name,
                        bound if is_fastest else None,
                        samples["pool"],
                        samples[name],
                        note="the fastest peer" if is_fastest else "",
                    )
                )
    return sorted(rows, key=lambda row: row.bound is None)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--calls", type=int, default=400, help="calls in one turn (default: 400)")
    parser.add_argument("--concurrent", type=int, default=50, help="default: 50")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="this peer only; may be repeated")
    parser.add_argument("--json", type=Path, help="write everything, the rounds included, to this file")
    parser.add_argument("--svg", type=Path, help="draw the promises into this file")
    parser.add_argument("--page", type=Path, help="replace the figures in this Markdown page")
    options = parser.parse_args(given)
    rows = measure(options.only or list(PEERS), options.rounds, options.calls, options.concurrent)
    print(report.table(rows))
    versions = {name: requirement.split("==")[1] for name, requirement in PEERS.items()}
    plan = {"rounds": options.rounds, "calls": options.calls, "concurrent": options.concurrent}
    if options.json is not None:
        report.write_json(options.json, report.to_json(rows, plan, versions))
    if options.svg is not None:
        picture.write(options.svg, rows, "Ratios to the fastest of four other client layers")
    if options.page is not None:
        report.write_page(options.page, "peers", report.markdown(rows, report.surroundings() | versions))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
