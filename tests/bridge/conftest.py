"""A bound on every test here: they wait for real threads, and one that hangs must fail instead."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

BOUND = 40


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BOUND))
            # From Python 3.12 on, a fork is warned of where there are threads. Some tests here are about just that.
            item.add_marker(pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"))


@pytest.fixture(autouse=True)
def bounded_and_nothing_left() -> Iterator[None]:
    """Fail when a bridge's thread is left."""
    # An event loop that waits for its tasks swallows the failure of the bound: then this process of the run ends.
    faulthandler.dump_traceback_later(BOUND + 10, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    left = [thread for thread in threading.enumerate() if thread.name == "trio_mcp_pool"]
    for thread in left:
        thread.join(2)
    assert not any(thread.is_alive() for thread in left)
