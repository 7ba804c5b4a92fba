"""`python -m tests.mutants`: break the core one line at a time, and see whether a quick test fails.

Takes all mutants of the core by default, which is about two hours on two cores; `--sample` takes some at random, `--module`
those of one room. It works on copies of what git tracks. A mutant that changes nothing which could be observed is named, with
the reason, in `tests/mutants/equivalent.txt`; it is not tried and does not count.

Ends with 1 if more than one in twenty survives.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .changes import Mutant, mutants
from .play import Known, Verdict, Worker, record

ROOT = Path(__file__).parents[2]
MODULES = ("trio_mcp_pool/_core", "trio_mcp_pool/_lanes", "trio_mcp_pool/_connection", "trio_mcp_pool/_call.py")
TESTS = (
    "tests/pool",
    "tests/testing",
    "tests/catalog",
    "tests/wire/test_tool_call.py",
    "tests/test_callbacks.py",
    "tests/test_log_observer.py",
    "tests/test_telemetry.py",
    "tests/real/test_dial_errors.py",
    "tests/real/test_http_answers.py",
    "tests/real/test_http_beside.py",
    "tests/real/test_http_calls.py",
    "tests/real/test_http_rounds.py",
    "tests/real/test_stdio_leaving.py",
)
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
MOST_SURVIVORS = 0.05


def equivalents() -> set[str]:
    """The mutants that no test can tell from the original, as they are printed."""
    lines = map(str.strip, EQUIVALENT.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line and not line.startswith("#")}


def tracked() -> list[str]:
    """The files of the tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copy_tree(tree: Path) -> None:
    """A copy of it."""
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)


def work(
    tree: Path,
    tests: list[str],
    known: Known,
    tasks: multiprocessing.Queue[Mutant | None],
    done: multiprocessing.Queue[Verdict | None],
) -> None:
    """A worker process: takes mutants until there are none."""
    try:
        for verdict in Worker(tree, tests, known, equivalents()).play(iter(tasks.get, None)):
            done.put(verdict)
    finally:
        done.put(None)


def main(given: Sequence[str] | None = None) -> int:
    """Break, test, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, help="only so many, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: one a core)")
    parser.add_argument("--module", action="append", help="only this file or folder; may be repeated")
    parser.add_argument("--only", type=Path, help="only the mutants that this file names, a line each, as printed")
    parser.add_argument(
        "--tests", nargs="+", default=list(TESTS), help=f"what pytest runs (default: {' '.join(TESTS)})"
    )
    options = parser.parse_args(given)
    within = tuple(options.module or MODULES)
    found = [
        each for name in tracked() if name.endswith(".py") and name.startswith(within) for each in mutants(ROOT, name)
    ]
    if options.only is not None:
        wanted = options.only.read_text(encoding="utf-8")
        found = [each for each in found if f"{each.path}:{each.line}: " in wanted]
    random.Random(options.seed).shuffle(found)
    found = found[: options.sample]
    found.sort(key=lambda mutant: mutant.path)
    print(f"{len(found)} mutants", flush=True)
    tried, equivalent, survived = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [Path(folder, str(number)) for number in range(options.jobs)]
        for tree in trees:
            copy_tree(tree)
        known = record(trees[0], options.tests, sorted({each.path for each in found}))
        print(f"{len(known.seconds)} tests pass without a mutation", flush=True)
        tasks: multiprocessing.Queue[Mutant | None] = multiprocessing.Queue()
        done: multiprocessing.Queue[Verdict | None] = multiprocessing.Queue()
        for each in [*found, *[None] * options.jobs]:
            tasks.put(each)
        processes = []
        for tree in trees:
            processes.append(multiprocessing.Process(target=work, args=(tree, options.tests, known, tasks, done)))
            processes[-1].start()
        running = len(processes)
        while running:
            verdict = done.get()
            if verdict is None:
                running -= 1
                continue
            tried += 1
            equivalent += verdict.by == "equivalent"
            if verdict.by is None:
                survived += 1
                where = f"{verdict.mutant.path}:{verdict.mutant.line}: {verdict.shown}"
                print(f"SURVIVED {where} [{verdict.mutant.operator}] {verdict.seconds:.0f} s", flush=True)
            if tried % 50 == 0:
                print(f"{tried} of {len(found)} tried, {survived} survived", file=sys.stderr, flush=True)
        for process in processes:
            process.join()
    counted = tried - equivalent
    share = survived / counted if counted else 0.0
    print(f"{survived} of {counted} mutants survived ({share:.1%}); {equivalent} more are equivalent")
    return 1 if share > MOST_SURVIVORS or not counted else 0


if __name__ == "__main__":
    sys.exit(main())
