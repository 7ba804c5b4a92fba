"""What every test is given, and what is looked at after every test."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import hypothesis
import pytest

from trio_mcp_pool._groups import is_cancellation

# The machines that run the tests differ too much in speed for a deadline per example, and a failure must come back when
# the tests are run again.
hypothesis.settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")


# Under `nohup` SIGINT is ignored, here and in every child. Tests send it, and programs under test must receive it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A cancellation that comes out of a test, whose scope has gone, would let it pass: pytest-trio takes it for its own."""
    if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj):
        item.obj = _uncancelled(item.obj)
    return (yield)


def _uncancelled(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        try:
            await test(*args, **kwargs)
        except BaseException as exc:
            if is_cancellation(exc):
                raise AssertionError("a cancellation came out of the test") from exc
            raise

    return run


def pytest_collection_finish() -> None:
    """Many tests collect garbage before and after. What was imported lives to the end, and need not be looked at each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_to_collect() -> Iterator[None]:
    """Collect once more at the end, so that a resource that the last test forgot still turns into a failure."""
    yield
    gc.collect()
