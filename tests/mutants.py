"""`python -m tests.mutants`: break the core one line at a time, and see whether a test fails.

The mutants are cosmic-ray's. It changes files in place, so this works on a copy of what git tracks. By default it takes a
random sample, because all mutants take hours; `--all` takes them all. A mutant that changes nothing which could be observed is
named, with the reason, in `tests/mutants-equivalent.txt`, and does not count.

Ends with 1 if more than one in twenty survives.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = ("trio_mcp_pool/_core", "trio_mcp_pool/_lanes", "trio_mcp_pool/_connection", "trio_mcp_pool/_call.py")
EQUIVALENT = Path(__file__).with_name("mutants-equivalent.txt")
MOST_SURVIVORS = 0.05
TESTS = "tests/pool tests/testing"

# `|` stands in annotations nearly everywhere, which nobody evaluates; and of the decorators only `@final` can be removed alone.
LEFT_OUT = (
    "core/RemoveDecorator",
    "core/ReplaceBinaryOperator_BitOr_",
)

CONFIG = """
[cosmic-ray]
module-path = [{modules}]
timeout = 240.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider -n 0 --timeout 60 {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def equivalents() -> set[tuple[str, str]]:
    """Pairs of a file and the mutated line, as the survivors are printed."""
    known = set()
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            path, _, code = line.partition(": ")
            known.add((path, code.strip()))
    return known


def sample(session: Path, most: int | None, seed: int) -> int:
    """Leave out what is not to be tried. Returns how many are left."""
    from cosmic_ray.work_db import use_db  # not installed but for this
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session)) as db:
        items = list(db.work_items)
        wanted = [item for item in items if not item.mutations[0].operator_name.startswith(LEFT_OUT)]
        if most is not None and most < len(wanted):
            wanted = random.Random(seed).sample(wanted, most)
        keep = {item.job_id for item in wanted}
        for item in items:
            if item.job_id not in keep:
                db.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    return len(keep)


def survivors(session: Path) -> tuple[int, list[tuple[str, int, str]]]:
    """How many mutants were tried, and of those that survived: the file, the line's number, and the mutated line."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome

    tried, alive = 0, []
    with use_db(str(session)) as db:
        for item, result in db.completed_work_items:
            if result.worker_outcome != WorkerOutcome.NORMAL:
                continue
            tried += 1
            if result.test_outcome == TestOutcome.SURVIVED:
                mutation = item.mutations[0]
                added = [
                    line for line in (result.diff or "").splitlines() if line.startswith("+") and line[:3] != "+++"
                ]
                alive.append((str(mutation.module_path), mutation.start_pos[0], added[0][1:].strip() if added else "?"))
    return tried, alive


def main(given: Sequence[str] | None = None) -> int:
    """Break, test, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="how many mutants, chosen at random (default: 100)")
    parser.add_argument("--all", action="store_true", help="all of them; takes hours")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--module", action="append", help="only this file or folder; may be repeated")
    parser.add_argument("--tests", default=TESTS, help=f"what pytest runs (default: {TESTS})")
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder, "tree")
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        modules = ", ".join(f'"{module}"' for module in options.module or MODULES)
        (copy / "mutants.toml").write_text(
            CONFIG.format(modules=modules, python=sys.executable, tests=options.tests), encoding="utf-8"
        )
        session = copy / "mutants.sqlite"

        def cosmic_ray(*arguments: str) -> None:
            subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *arguments], cwd=copy, check=True)

        cosmic_ray("init", "mutants.toml", session.name)
        count = sample(session, None if options.all else options.sample, options.seed)
        print(f"{count} mutants", flush=True)
        cosmic_ray("baseline", "mutants.toml")
        cosmic_ray("exec", "mutants.toml", session.name)
        tried, alive = survivors(session)
    known = equivalents()
    for path, line, code in alive:
        said = "equivalent" if (path, code) in known else "SURVIVED"
        print(f"{said} {path}: {code}   (line {line})")
    left = [each for each in alive if (each[0], each[2]) not in known]
    counted = tried - (len(alive) - len(left))
    share = len(left) / counted if counted else 0.0
    print(f"{len(left)} of {counted} mutants survived ({share:.1%}); {len(alive) - len(left)} more are equivalent")
    return 1 if share > MOST_SURVIVORS else 0


if __name__ == "__main__":
    sys.exit(main())
