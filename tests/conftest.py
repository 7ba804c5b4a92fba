"""What every test is given, and what is looked at after every test."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# The machines that run the tests differ too much in speed for a deadline per example, and a failure must come back when
# the tests are run again.
hypothesis.settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")


# Under `nohup` SIGINT is ignored, here and in every child. Tests send it, and programs under test must receive it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Many tests collect garbage before and after. What was imported lives to the end, and need not be looked at each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_to_collect() -> Iterator[None]:
    """Collect once more at the end, so that a resource that the last test forgot still turns into a failure."""
    yield
    gc.collect()
