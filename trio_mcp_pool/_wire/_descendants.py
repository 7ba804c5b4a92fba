"""Finding what a child process has started, on Linux.

The members of its process group are known to the kernel. Those that moved to a session of their own are not, but they
still carry the variable that the child was started with. Elsewhere these functions find nobody. They read `/proc` and
take a few milliseconds on a busy machine: call them in a thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import trio

MARKER: Final = "TRIO_MCP_POOL_CHILD"
"""The environment variable that marks a child and all its descendants."""


def _pids() -> list[int]:
    if sys.platform != "linux":
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[str, int] | None:
    """State and process group of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name stands in parentheses and may hold anything, parentheses included.
            state, _parent, group = file.read().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return state.decode(), int(group)


def group_members(pgid: int) -> dict[int, str]:
    """The living members of a process group with their states."""
    found: dict[int, str] = {}
    for pid in _pids():
        stat = _stat(pid)
        if stat is not None and stat[1] == pgid and stat[0] not in "ZX":
            found[pid] = stat[0]
    return found


def marked_processes(mark: str) -> list[int]:
    """The living processes of ours that carry the marker with this value."""
    entry = f"{MARKER}={mark}".encode()
    found: list[int] = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue
        if entry in environment.split(b"\0") and (stat := _stat(pid)) is not None and stat[0] not in "ZX":
            found.append(pid)
    return found


async def wait_gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes, which were killed, runs any more. Not bounded by itself."""
    if sys.platform != "linux":
        return
    for pid in pids:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                trio.lowlevel.notify_closing(handle)
                os.close(handle)
