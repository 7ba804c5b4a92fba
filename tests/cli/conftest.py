"""The command line in a folder of its own, and servers to name on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.driving import ECHO, EVERYTHING, NOTEBOOK, PLAIN, Cli
from tests.cli.warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """The loaded program; each worker has its own."""
    made = Warm()
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path: Path, warm: Warm, url: str) -> Cli:
    """The program beside a configuration with servers of two eras, one that is not there, and one that dies."""
    (tmp_path / "home").mkdir()
    made = Cli(tmp_path, warm=warm)
    made.configure(
        {
            "echo": {"command": ECHO[0], "args": ECHO[1:]},
            "notebook": {"command": NOTEBOOK[0], "args": NOTEBOOK[1:]},
            "every.thing": {"url": url},
            "gone": {"command": "no-such-server"},
            "dies": {"command": sys.executable, "args": ["-S", "-c", "import sys; sys.exit('no key was given')"]},
            "off": {"command": "s", "disabled": True},
            "wrong": {"command": 5},
        }
    )
    return made


@pytest.fixture
def plain_cli(cli: Cli) -> Cli:
    """The same without the libraries of the extra."""
    return Cli(cli.folder, tuple(PLAIN))


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A server over HTTP."""
    process = subprocess.Popen([*EVERYTHING, "http"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
