"""The process group of a child: asked to end, waited for, then killed.

Behind a wrapper (`sh -c`, `npx`) the child is not the server. It may end at once on SIGTERM while the server, in the same
group, is still cleaning up; so the end of the child is not the end of the group, and the others keep the grace that they were
promised (R2).

The group's number is the child's pid, and the kernel gives neither to anybody else as long as the child is not reaped. Where
somebody else may have reaped it (a handler of SIGCHLD, or SIGCHLD ignored), the number alone says nothing: then only those
processes are signalled that carry the child's marker.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import suppress
from typing import Final, final

import trio

from .._link import Link
from ._descendants import group_members, in_thread, is_our_child, marked_processes, wait_gone

GRACE: Final = 2.0
"""Seconds that a group has between SIGTERM and SIGKILL, where the link allows so much."""
_LOOK: Final = 0.02  # where the end of a process that is no child of ours cannot be waited for


@final
class Group:
    """The process group of one child."""

    def __init__(self, link: Link, pid: int, mark: str) -> None:
        self.asked = False
        """Whether SIGTERM was sent."""
        self._link = link
        self._pid = pid
        self._mark = mark
        self._grace = trio.CancelScope()

    def ask(self, seconds: float) -> None:
        """Send SIGTERM, once, and give so many seconds from now; a second call can only shorten them. Synchronous."""
        until = trio.current_time() + seconds
        if not self.asked:
            self.asked = True
            self._grace.deadline = math.inf
            self._signal(signal.SIGTERM)
        self._grace.deadline = min(self._grace.deadline, until)

    async def kill(self, *, exited: bool) -> None:
        """Send SIGKILL, and note on the link who was still alive. `exited`: whether the child itself has ended already."""
        self.asked = True
        self._grace.cancel(reason="the group is killed")
        # Elsewhere than on Linux nobody can be found but the child itself, which is there if it has not exited.
        members = await in_thread(group_members, self._pid) or ([] if exited else [self._pid])
        self._link.killed += [pid for pid in members if pid not in self._link.killed]
        self._signal(signal.SIGKILL)

    async def end(self, seconds: float) -> None:
        """The child itself has ended, and is not reaped: see to the others. Not bounded after the kill."""
        if not await self._members():
            return
        self.ask(seconds)
        with self._grace:
            while members := await self._members():
                if members == [-1]:
                    await trio.sleep(_LOOK)
                else:
                    await wait_gone(members, self._pid)
            return
        await self.kill(exited=True)
        await wait_gone(self._link.killed, self._pid)

    async def _members(self) -> list[int]:
        """Those that live; `[-1]` where it is known only that there are some."""
        if sys.platform == "linux":
            return await in_thread(group_members, self._pid)
        try:
            os.killpg(self._pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
            return []
        return [-1]

    def _signal(self, sig: signal.Signals) -> None:
        # No await between the check and the signal: the number must not change hands in between.
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform != "linux" or is_our_child(self._pid):
                os.killpg(self._pid, sig)
                return
        for one in marked_processes(self._mark):
            if one.group == self._pid:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(one.pid, sig)
