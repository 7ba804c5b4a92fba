"""Finding what a child process has started, on Linux.

The members of its process group are known to the kernel. Those that moved to a session of their own are not, but they
still carry the variable that the child was started with. Elsewhere these functions find nobody. They read `/proc` and
take a few milliseconds on a busy machine: call them in a thread.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from ._link import Link

logger = logging.getLogger("trio_mcp_pool.wire")

MARKER: Final = "TRIO_MCP_POOL_CHILD"
"""The environment variable that marks a child and all its descendants."""


def _pids() -> list[int]:
    if sys.platform != "linux":
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and process group of a living process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name stands in parentheses and may hold anything, parentheses included.
            state, parent, group = file.read().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else (int(parent), int(group))


def group_members(pgid: int) -> list[int]:
    """The living members of a process group."""
    return [pid for pid in _pids() if (stat := _stat(pid)) is not None and stat[1] == pgid]


@dataclass(frozen=True)
class Marked:
    """A living process that carries a marker."""

    pid: int
    parent: int
    group: int


def marked_processes(mark: str) -> list[Marked]:
    """The living processes of ours that carry the marker with this value."""
    entry = f"{MARKER}={mark}".encode()
    found: list[Marked] = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue
        if entry in environment.split(b"\0") and (stat := _stat(pid)) is not None:
            found.append(Marked(pid, *stat))
    return found


def status_unreaped(pid: int) -> int | None:
    """The return code of an exited child that is not yet reaped, as `subprocess` counts it; `None` if there is none."""
    if sys.platform == "win32":
        return None
    try:
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


async def wait_gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes, which were killed, runs any more. Not bounded by itself."""
    if sys.platform != "linux":
        return
    for pid in pids:
        with suppress(OSError):  # it is gone already, or cannot be watched
            handle = os.pidfd_open(pid)
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                trio.lowlevel.notify_closing(handle)
                os.close(handle)


async def report_escaped(link: Link, mark: str) -> None:
    """Note on the link, and warn of, those that carry the marker and still run. Not bounded by itself."""
    marked = await trio.to_thread.run_sync(marked_processes, mark, abandon_on_cancel=True)
    # Who was killed may take a moment to die on a busy machine; it has not escaped.
    escaped = [one.pid for one in marked if one.pid not in link.killed]
    if escaped:
        link.left_behind += escaped
        logger.warning(
            "server %s: processes that it started have left its process group and still run: pids %s",
            link.server,
            ", ".join(map(str, escaped)),
        )
