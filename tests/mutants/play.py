"""Runs the quick tests against one mutant after another, in forks of a process that has imported all the libraries.

Starting Python and importing costs more than most mutants need to be found. So each worker imports them once and forks for
every mutant; the fork imports the changed package and the tests. Tests that found mutants of the same file before come first,
then the shortest ones. A worker has a copy of the tree of its own, since the file is changed in place.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .changes import Mutant

# What a mutant that never ends, or eats memory, is allowed.
# They are imported before pytest can rewrite what they assert.
_SILENT = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
# It counts what a thousand of everything cost, which takes as long as all other tests together.
_SLOW = "tests/pool/test_growth.py"
_SECONDS, _TEST_SECONDS, _MEMORY = 240, 20, 4 << 30
_LIBRARIES = ("trio", "anyio", "mcp", "mcp.client", "mcp.server", "h11", "httpx2", "jsonschema", "hypothesis")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `by` is the test that found it, `None` if none did."""

    mutant: Mutant
    shown: str
    by: str | None
    seconds: float


class _Order:
    """A pytest plugin: tests that found something first, then the shortest; tells which test fails."""

    def __init__(self, first: list[str], seconds: dict[str, float], tell: int) -> None:
        self.first = {name: place for place, name in enumerate(first)}
        self.seconds = seconds
        self.tell = tell

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort them."""
        last = len(self.first)
        items.sort(key=lambda item: (self.first.get(item.nodeid, last), self.seconds.get(item.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the worker of a failure, or of a duration."""
        if report.failed:
            os.write(self.tell, f"failed {report.nodeid}\n".encode())
        elif report.when == "call":
            os.write(self.tell, f"took {report.duration} {report.nodeid}\n".encode())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A package that cannot be imported is found out, too."""
        if report.failed:
            os.write(self.tell, b"failed import\n")


class Worker:
    """One copy of the tree, and the process that forks."""

    def __init__(self, tree: Path, tests: list[str]) -> None:
        self.tree = tree
        self.tests = tests
        self.killers: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """Import what does not change, and run the tests once: they must pass."""
        os.chdir(self.tree)
        sys.path[:] = [str(self.tree), *(path for path in sys.path if Path(path or ".").resolve() != Path.cwd())]
        for name in _LIBRARIES:
            importlib.import_module(name)
        if (failed := self._run([], write=True)) is not None:
            raise SystemExit(f"{failed} fails without a mutation")

    def play(self, mutants: Iterable[Mutant]) -> Iterator[Verdict]:
        """Try each of them."""
        for mutant in mutants:
            path = self.tree / mutant.path
            source = path.read_text(encoding="utf-8")
            changed = mutant.text(source)
            if changed is None:
                continue
            kept = path.with_suffix(".kept")
            shutil.copy2(path, kept)
            began = time.monotonic()
            try:
                path.write_text(changed, encoding="utf-8")
                by = self._run(self.killers.get(mutant.path, []), write=False)
            finally:
                os.replace(kept, path)
            if by is not None and by not in ("import", "too long"):
                killers = self.killers.setdefault(mutant.path, [])
                if by in killers:
                    killers.remove(by)
                killers.insert(0, by)
            yield Verdict(mutant, mutant.shown(source, changed), by, time.monotonic() - began)

    def _run(self, first: list[str], *, write: bool) -> str | None:
        """The test that fails, if any."""
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            self._test(_Order(first, self.seconds, writable), write=write)
        os.close(writable)
        by = None
        alarm = _alarm(child)
        with os.fdopen(readable, encoding="utf-8") as told:
            for line in told:
                word, _, rest = line.strip().partition(" ")
                if word == "took":
                    seconds, _, name = rest.partition(" ")
                    self.seconds[name] = float(seconds)
                elif by is None:
                    by = rest
        _, status = os.waitpid(child, 0)
        alarm.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        return by or ("too long" if status else None)

    def _test(self, order: _Order, *, write: bool) -> None:
        os.setpgid(0, 0)
        sys.dont_write_bytecode = not write
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        for name in list(sys.modules):
            if name.partition(".")[0] in ("trio_mcp_pool", "tests"):
                del sys.modules[name]
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        quick = [
            f"--ignore={_SLOW}",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-x",
            "-q",
            "--timeout",
            str(_TEST_SECONDS),
            *_SILENT,
        ]
        code = 1
        with contextlib.suppress(BaseException):
            code = pytest.main([*quick, *self.tests], plugins=[order])
        os._exit(int(code))


def _alarm(child: int) -> threading.Timer:
    """Kills the fork when its time is over."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(_SECONDS, kill)
    timer.daemon = True
    timer.start()
    return timer
