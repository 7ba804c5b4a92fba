"""Servers, and a look at what was left behind, for the tests that use real processes and sockets."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator

import pytest

from tests.processes import children, descriptors
from tests.servers.install import InstallError, RealServers, install

_GRACE = 2.0
"""Seconds that the kernel has to finish what a test has ended: to close a socket, to report a dead child."""


@pytest.fixture(scope="session")
def real_servers() -> RealServers:
    """How to start the servers that nobody here wrote; installs them first where they are missing."""
    try:
        return install()
    except InstallError as error:
        pytest.fail(f"the servers for the tests in tests/real could not be installed: {error}", pytrace=False)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may leave a child process or a file descriptor. The mark `keeps_resources` excuses one."""
    if sys.platform != "linux" or request.node.get_closest_marker("keeps_resources"):
        yield
        return
    gc.collect()
    before = descriptors(), children()
    yield
    gc.collect()
    give_up = time.monotonic() + _GRACE
    while True:
        left = sorted((descriptors() - before[0]) | (children() - before[1]))
        if not left or time.monotonic() > give_up:
            break
        time.sleep(0.01)
    assert not left, f"left behind by process {os.getpid()}: {left}"
