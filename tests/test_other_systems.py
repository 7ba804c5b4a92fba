"""What must hold on systems that the tests do not run on: on Windows, nothing of POSIX may be asked for unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import mcp
import pytest

from trio_mcp_pool import ConnectError, StdioServer, _servers, open_pool
from trio_mcp_pool._wire.stdio import _sdk

# The libraries below are imported first: what they need is theirs to find out.
WITHOUT_POSIX = """
import os, signal, sys
import anyio, httpx2, mcp, mcp.client.stdio, mcp.client.streamable_http, mcp.client.sse, mcp.server.mcpserver, trio
import concurrent.futures, multiprocessing, opentelemetry.metrics, subprocess

for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for name in ("getpgid", "killpg", "pidfd_open", "setsid", "waitid", "P_PID", "WEXITED", "WNOHANG", "WNOWAIT", "CLD_EXITED"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP"):
    if hasattr(signal, name):
        delattr(signal, name)
sys.platform = "win32"

import trio_mcp_pool, trio_mcp_pool.testing, trio_mcp_pool.cli
from trio_mcp_pool._wire.http import _connect, _sdk as _http_sdk
from trio_mcp_pool._wire.stdio import _sdk
"""


def test_the_package_and_the_wires_that_windows_gets_import_without_the_names_of_posix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_where_there_is_no_posix_a_stdio_server_gets_the_wire_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []

    @asynccontextmanager
    async def connect(link: Any, command: str, *_: object, **options: object) -> AsyncIterator[mcp.Client]:
        dialled.append(command)
        raise OSError("enough seen")
        yield

    monkeypatch.setattr(_sdk, "connect_sdk_stdio", connect)
    monkeypatch.setattr(_servers._stdio, "os", SimpleNamespace(name="nt", fspath=os.fspath, PathLike=os.PathLike))
    async with open_pool({"s": StdioServer("a-program")}) as pool:
        with pytest.raises(ConnectError, match="enough seen"):
            await pool.wait_ready()
    assert dialled == ["a-program"]
