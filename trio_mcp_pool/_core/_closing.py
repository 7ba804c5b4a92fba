"""The order in which a pool, or a scope, closes (R2).

Leases are refused first, and waiters get the error. Then running leases have `drain_timeout`, unless the end was not a
clean one, and then all connections close side by side within `close_timeout`. What has not ended a moment after that is
reported and no longer waited for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Final, final

import trio

from .._connection._record import Connection
from .._connection._states import State
from .._errors import PoolError
from .._events import CloseReason, PoolClosed
from .._lanes._host import Host, step
from .._lanes._lane import Lane
from .._wire.stdio._descendants import still_living

logger = logging.getLogger("trio_mcp_pool")

GONE: Final = (State.CLOSED, State.FAILED)
# Clean-up that shields itself past its deadline is waited for a moment longer, then reported.
_GRACE: Final = 0.5


@final
class Closing:
    """The waits for connections to go, and what had to be done to their processes."""

    def __init__(self, host: Host) -> None:
        self.host: Host = host
        self._moved = trio.Event()
        self._killed: list[int] = []
        self._left_behind: list[int] = []

    def connection_moved(self) -> None:
        """A connection begins to close, or is gone. Synchronous."""
        if self._moved.statistics().tasks_waiting:
            moved, self._moved = self._moved, trio.Event()
            moved.set()

    def gone(self, connection: Connection) -> None:
        """Nothing of a connection is left but, perhaps, processes that escaped."""
        self._killed += connection.link.killed
        self._left_behind += connection.link.left_behind

    def report(self, since: float) -> PoolClosed:
        """The pool's last event. Also logs a warning for the processes that were killed, and for those that still run."""
        if self._killed:
            logger.warning("processes that did not end in time were killed: %s", self._killed)
        # A process may have ended since it was reported.
        escaped = still_living(self._left_behind)
        if escaped:
            logger.warning("processes that left their process group still run: %s", escaped)
        now = trio.current_time()
        return PoolClosed(at=now, seconds=now - min(since, now), killed=tuple(self._killed), left_behind=tuple(escaped))

    async def wait_gone(self, connections: Iterable[Connection]) -> None:
        """Wait until nothing of these connections is left. Checkpoints."""
        await trio.lowlevel.checkpoint()
        # One after the other: to look at all of them whenever one has gone would take a time that grows with their square.
        for connection in connections:
            while connection.state not in GONE:
                await self._moved.wait()

    async def end(
        self, lanes: list[Lane], error: PoolError, reason: CloseReason, task: trio.lowlevel.Task, *, clean: bool
    ) -> None:
        """Refuse, drain if `clean`, close. Under cancellation nothing is waited for beyond `close_timeout`."""
        connections = self._retire(lanes, error, reason, task, clean=clean)
        try:
            with trio.CancelScope(shield=not clean):
                await self._wait_closed(connections)
        except BaseException:
            # Cancelled, or interrupted: from here on leases have no time either.
            self._close(lanes, reason)
            with trio.CancelScope(shield=True):
                await self._wait_closed(connections)
            raise
        finally:
            for connection in connections:
                if connection.state not in GONE:
                    pid = connection.link.pid
                    logger.warning(
                        "server %r: its session has not closed within close_timeout (%s)",
                        connection.name,
                        "no process known" if pid is None else f"pid {pid}",
                    )

    @step
    def _retire(
        self, lanes: list[Lane], error: PoolError, reason: CloseReason, task: trio.lowlevel.Task, *, clean: bool
    ) -> list[Connection]:
        connections: list[Connection] = []
        for lane in lanes:
            lane.refuse(error)
        for lane in lanes:
            lane.end_leases(task)
            connections += lane.retire_all(lane.policy.drain_timeout, reason)
        if not clean:
            self._close(lanes, reason)  # after an error, leases have no time
        return connections

    @step
    def _close(self, lanes: list[Lane], reason: CloseReason) -> None:
        for lane in lanes:
            lane.close(reason, trio.current_time() + lane.policy.close_timeout)

    async def _wait_closed(self, connections: list[Connection]) -> None:
        """Wait until nothing of these connections is left, or until the last of them has exceeded its time to close."""
        await trio.lowlevel.checkpoint()
        for connection in connections:
            while connection.state not in GONE:
                # While leases run, the end of draining will move things on.
                by = _GRACE + connection.link.close_by if connection.state is State.CLOSING else math.inf
                if trio.current_time() >= by:
                    break
                with trio.move_on_at(by):
                    await self._moved.wait()
