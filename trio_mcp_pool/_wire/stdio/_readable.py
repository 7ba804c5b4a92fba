"""Who waits until a pipe is readable: the channel's task, or a caller instead of it.

Trio lets one task wait for a file descriptor. So while a caller does, the channel's task is called away and parks; it waits
again as soon as the caller has gone on, for whatever reason. That the channel's task waits alone would be simpler, but then
every answer is handed from one task to another, and comes a round of Trio's loop later: a fifth of what a call takes.
"""

from __future__ import annotations

from typing import final

import trio
from trio.lowlevel import enable_ki_protection

from ._pipe import BytePipe


@final
class ReadableWait:
    """The wait for one pipe."""

    __slots__ = ("_at_pipe", "_parked", "_pipe", "_replaced", "_waits")

    def __init__(self, pipe: BytePipe) -> None:
        self._pipe = pipe
        self._waits = False  # whether the channel's task is in `wait`
        self._at_pipe = False  # whether it waits at the pipe itself
        self._replaced = False  # whether another task does, instead
        self._parked: trio.lowlevel.Task | None = None  # the channel's task, meanwhile

    async def wait(self) -> None:
        """For the channel's task: wait until the pipe may be readable, or until another task has waited instead. Checkpoints.

        Raises what `BytePipe.wait_readable` raises.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waits = self._at_pipe = True
        try:
            await self._pipe.wait_readable()
            self._at_pipe = False
            while self._replaced:
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._waits = self._at_pipe = False

    @property
    def replaceable(self) -> bool:
        """Whether another task may wait instead."""
        return self._waits and not self._replaced

    @enable_ki_protection
    async def wait_instead(self) -> None:
        """For another task: wait until the pipe may be readable, or until `interrupt`. Only where `replaceable`. Checkpoints.

        Raises what `BytePipe.wait_readable` raises.
        """
        self._replaced = True
        try:
            if self._at_pipe:
                self._pipe.stop_waiting()
            await self._pipe.wait_readable()
        finally:
            self._replaced = False
            if self._parked is not None:
                task, self._parked = self._parked, None
                trio.lowlevel.reschedule(task)

    def interrupt(self) -> None:
        """Whoever waits instead goes on."""
        if self._replaced:
            self._pipe.stop_waiting()
