"""Finding what a child process has started, on Linux.

The members of its process group are known to the kernel. Those that moved to a session of their own are not, but they
still carry the variable that the child was started with. Elsewhere these functions find nobody. They read `/proc` and
take a few milliseconds on a busy machine: call them in a thread.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, ParamSpec, TypeVar

import trio

from .._link import Link

logger = logging.getLogger("trio_mcp_pool.wire")

MARKER: Final = "TRIO_MCP_POOL_CHILD"
"""The environment variable that marks a child and all its descendants."""


P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call one of these functions in a thread; where there is none to be had, here and now: it only takes milliseconds, and a
    process must be seen to all the same. Whoever is cancelled does not wait for the thread."""
    try:
        return await trio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)
    except RuntimeError:
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)


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


def still_living(pids: Iterable[int]) -> list[int]:
    """Those of these processes that have not ended. Where that cannot be seen, one that can be signalled counts as living."""
    return [pid for pid in pids if (_stat(pid) is not None if sys.platform == "linux" else _can_be_signalled(pid))]


def _can_be_signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it lives and is not ours any more
    return True


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


def is_our_child(pid: int) -> bool:
    """Whether there is such a child of ours, running or not yet reaped: then its pid cannot mean anybody else."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


async def wait_gone(pids: Iterable[int], group: int) -> None:
    """Wait until none of these processes of a group runs any more. Not bounded by itself."""
    if sys.platform != "linux":
        return
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except OSError:  # it is gone already, or cannot be watched
            continue
        try:
            # The pid may have been given to somebody else since it was found; the handle cannot.
            stat = _stat(pid)
            if stat is not None and stat[1] == group:
                await trio.lowlevel.wait_readable(handle)
        finally:
            trio.lowlevel.notify_closing(handle)
            os.close(handle)


async def report_escaped(link: Link, mark: str) -> None:
    """Note on the link, and warn of, those that carry the marker and still run. Not bounded by itself."""
    marked = await in_thread(marked_processes, mark)
    # Who was killed may take a moment to die on a busy machine; it has not escaped.
    escaped = [one.pid for one in marked if one.pid not in link.killed]
    if escaped:
        link.left_behind += escaped
        logger.warning(
            "server %s: processes that it started have left its process group and still run: pids %s",
            link.server,
            ", ".join(map(str, escaped)),
        )
