"""Runs the quick tests against one mutant after another, in forks of a process that has collected them.

Starting Python, importing and collecting costs more than most mutants need to be found. So pytest collects once, runs every
test once to see which lines it runs and how long it takes, and then forks for every mutant. The fork changes the code of the
functions concerned (`live.py`) and runs the tests that run the changed lines: first those that found mutants of the same file,
then the shortest. A mutant that changes what is carried out by an import is written into the worker's copy of the tree, and a
fork of a process that has imported nothing of it imports and collects everything anew.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import gc
import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import coverage
import pytest

from .changes import Mutant
from .live import Functions

# They are imported before pytest can rewrite what they assert.
_SILENT = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
# It counts what a thousand of everything cost, which takes as long as all other tests together.
_SLOW = "tests/pool/test_growth.py"
# How long a test may take, in seconds and in times of what it took without a mutation.
_PATIENCE = 4
# What a mutant that never ends, or eats memory, is allowed: a test that nothing can interrupt, and all of them, in seconds.
_HUNG, _SECONDS, _MEMORY = 30, 600, 4 << 30
_LIBRARIES = ("trio", "anyio", "mcp", "mcp.client", "mcp.server", "h11", "httpx2", "jsonschema", "hypothesis")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `by` is the test that found it, `None` if none did, "equivalent" if none is asked for."""

    mutant: Mutant
    shown: str
    by: str | None
    seconds: float


@dataclass
class Known:
    """What one run without a mutation tells of the tests."""

    seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    """By file and line, the tests that run it."""
    failed: list[str] = field(default_factory=list)

    def of(self, mutant: Mutant, source: str) -> set[str]:
        """The tests that run a line of the changed statement."""
        runs = self.runs.get(mutant.path, {})
        return set().union(*(runs.get(line, ()) for line in _statement(source, mutant.line))) - {""}


def _statement(source: str, line: int) -> range:
    """The lines of the innermost statement around this one; of one with a body, the lines before that."""
    best = range(line, line + 1)
    size = sys.maxsize
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt | ast.excepthandler):
            body = getattr(node, "body", None)
            after = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            if node.lineno <= line < max(after, node.lineno + 1) and after - node.lineno < size:
                best, size = range(node.lineno, max(after, node.lineno + 1)), after - node.lineno
    return best


class _Recorder:
    """A pytest plugin for the run without a mutation."""

    def __init__(self, tree: Path, paths: list[str]) -> None:
        self.known = Known()
        self._tree, self._paths = tree, paths
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[str(tree / path) for path in paths]
        )

    def run(self, items: list[pytest.Item]) -> None:
        """Run all, and see what they run."""
        gc.collect()
        gc.freeze()
        self._coverage.start()
        _run(items)
        self._coverage.stop()
        data = self._coverage.get_data()
        for path in self._paths:
            lines = data.contexts_by_lineno(str(self._tree / path))
            self.known.runs[path] = {line: set(tests) for line, tests in lines.items()}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What runs from now on, this test runs."""
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the duration, or the failure."""
        self.known.seconds[report.nodeid] = self.known.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.known.failed.append(report.nodeid)


class _Finder:
    """A pytest plugin: tells which test fails, and ends the process with that."""

    def __init__(self, tell: int) -> None:
        self.tell = tell
        self._nowhere = os.open(os.devnull, os.O_WRONLY)

    def pytest_runtest_logstart(self) -> None:
        """A test that not even its timeout can end takes the process with it."""
        faulthandler.dump_traceback_later(_HUNG, exit=True, file=self._nowhere)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the worker of a failure."""
        if report.failed:
            self._found(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A package that cannot be imported is found out, too."""
        if report.failed:
            self._found("import")

    def _found(self, name: str) -> NoReturn:
        os.write(self.tell, name.encode())
        os._exit(1)


class _Collected:
    """A pytest plugin that hands over what was collected instead of running it."""

    def __init__(self, then: Callable[[pytest.Session], None]) -> None:
        self.then = then

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Hand it over."""
        if session.testsfailed:
            raise session.Failed("not everything could be collected")
        self.then(session)
        return True


def _run(items: list[pytest.Item]) -> None:
    for item, after in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)


def record(tree: Path, tests: list[str], paths: list[str]) -> Known:
    """Run the tests once without a mutation. Ends the process if one fails."""
    here, there = multiprocessing.Pipe()

    def measure(session: pytest.Session) -> None:
        recorder = _Recorder(tree, paths)
        session.config.pluginmanager.register(recorder)
        recorder.run(session.items)
        with contextlib.suppress(BrokenPipeError):
            there.send_bytes(pickle.dumps(recorder.known))

    child = _fork(lambda: _pytest(tree, tests, _Collected(measure)))
    there.close()
    try:
        known: Known = pickle.loads(here.recv_bytes())
    except EOFError:
        raise SystemExit("the tests cannot be collected without a mutation") from None
    os.waitpid(child, 0)
    if known.failed:
        raise SystemExit(f"without a mutation, too, these fail: {', '.join(known.failed)}")
    return known


class Worker:
    """One copy of the tree, and the process that forks."""

    def __init__(self, tree: Path, tests: list[str], known: Known, equivalents: set[str]) -> None:
        self.tree = tree
        self.tests = tests
        self.known = known
        self.equivalents = equivalents
        self.killers: dict[str, list[str]] = {}

    def play(self, mutants: Iterable[Mutant]) -> Iterator[Verdict]:
        """Try each of them."""
        collected = self._collect()
        for mutant in mutants:
            source = (self.tree / mutant.path).read_text(encoding="utf-8")
            changed = mutant.text(source)
            if changed is None:
                continue
            shown = mutant.shown(source, changed)
            if f"{mutant.path}: {shown}" in self.equivalents:
                yield Verdict(mutant, shown, "equivalent", 0.0)
                continue
            began = time.monotonic()
            collected.send((mutant, source, changed, self.killers.get(mutant.path, [])))
            by = collected.recv()
            if by is False:
                by = self._anew(mutant, changed)
            if by is not None and "::" in by:
                killers = self.killers.setdefault(mutant.path, [])
                if by in killers:
                    killers.remove(by)
                killers.insert(0, by)
            yield Verdict(mutant, shown, by, time.monotonic() - began)
        collected.send(None)

    def _collect(self) -> Connection:
        """A process that has collected the tests, and answers for a mutant: the test that finds it, `None`, or `False` if it
        takes an import."""
        here, there = multiprocessing.Pipe()

        def answer(session: pytest.Session) -> None:
            here.close()
            functions = Functions(self.tree)
            items = {item.nodeid: item for item in self._bounded(session.items)}
            gc.collect()
            gc.freeze()
            while (task := there.recv()) is not None:
                mutant, source, changed, killers = task
                chosen = self._order(self.known.of(mutant, source), killers)
                # What no test runs may have been run by an import.
                tests = [items[name] for name in chosen]
                there.send(_try(functions, mutant, source, changed, tests) if tests else False)

        _fork(lambda: _pytest(self.tree, self.tests, _Collected(answer)))
        there.close()
        return here

    def _bounded(self, items: list[pytest.Item]) -> list[pytest.Item]:
        for item in items:
            item.add_marker(pytest.mark.timeout(_PATIENCE + _PATIENCE * self.known.seconds.get(item.nodeid, 0.0)))
        return items

    def _order(self, names: Iterable[str], killers: list[str]) -> list[str]:
        first = {name: place for place, name in enumerate(killers)}
        seconds = self.known.seconds
        return sorted(names, key=lambda name: (first.get(name, len(first)), seconds.get(name, 0.0)))

    def _anew(self, mutant: Mutant, changed: str) -> str | None:
        """The test that finds a mutant that is imported."""
        order = self._order(self.known.seconds, self.killers.get(mutant.path, []))
        places = {name: place for place, name in enumerate(order)}
        path = self.tree / mutant.path
        source = path.read_text(encoding="utf-8")

        def run(session: pytest.Session) -> None:
            _run(sorted(self._bounded(session.items), key=lambda item: places.get(item.nodeid, 0)))

        def test(tell: int) -> None:
            _pytest(self.tree, self.tests, _Collected(run), _Finder(tell))

        path.write_text(changed, encoding="utf-8")
        try:
            return _find(test)
        finally:
            path.write_text(source, encoding="utf-8")


def _try(
    functions: Functions, mutant: Mutant, source: str, changed: str, items: list[pytest.Item]
) -> str | bool | None:
    """In a fork, change the functions and run these tests."""

    def test(tell: int) -> None:
        if not functions.change(mutant.path, source, changed):
            os.write(tell, b"imported")
        else:
            items[0].config.pluginmanager.register(_Finder(tell))
            _run(items)

    by = _find(test)
    return False if by == "imported" else by


def _find(test: Callable[[int], None]) -> str | None:
    """Run this in a fork; what it writes is the test that fails."""
    readable, writable = os.pipe()

    def run() -> None:
        os.close(readable)
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        test(writable)

    child = _fork(run)
    os.close(writable)
    alarm = _alarm(child)
    with os.fdopen(readable, encoding="utf-8") as told:
        by = told.read()
    _, status = os.waitpid(child, 0)
    alarm.cancel()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status and not by:
        return "too long" if os.WIFSIGNALED(status) else "an end"
    return by or None


def _fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        run()
        code = 0
    os._exit(code)


def _pytest(tree: Path, tests: list[str], *plugins: object) -> None:
    """Have pytest collect the tests of a tree, in a process that has imported nothing of it."""
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != Path.cwd())]
    sys.dont_write_bytecode = True
    for name in _LIBRARIES:
        importlib.import_module(name)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("trio_mcp_pool", "tests") and not name.startswith(__package__):
            del sys.modules[name]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    quick = [f"--ignore={_SLOW}", "-n", "0", "-p", "no:cacheprovider", "-s", "-q", f"--basetemp={tree}.tmp"]
    pytest.main([*quick, *_SILENT, *tests], plugins=list(plugins))


def _alarm(child: int) -> threading.Timer:
    """Kills the fork when its time is over."""

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(_SECONDS, kill)
    timer.daemon = True
    timer.start()
    return timer
