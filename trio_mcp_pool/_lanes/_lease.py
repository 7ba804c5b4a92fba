"""A lease, and a waiter for one: plain records. What happens to them is decided by the lane and its matcher."""

from __future__ import annotations

from contextvars import Context
from typing import Protocol, final

import trio

from .._connection._record import Connection
from .._errors import PoolError


class LeaseHolder(Protocol):
    """What a lease needs of the object that gave it."""

    name: str
    """The name of the server."""

    def release(self, lease: Lease, /) -> None:
        """End the lease. Synchronous and idempotent."""


@final
class Lease:
    """One caller's claim on one connection, from acquire to release."""

    __slots__ = ("connection", "context", "ended", "holder", "in_block", "shared", "since", "task")

    def __init__(
        self, holder: LeaseHolder, connection: Connection, task: trio.lowlevel.Task | None, since: float, in_block: bool
    ) -> None:
        self.holder: LeaseHolder = holder
        self.connection: Connection = connection
        self.task: trio.lowlevel.Task | None = task
        """The task that acquired it."""
        self.since: float = since
        self.in_block: bool = in_block
        """Whether it belongs to a `session` block of that task, which no other task can end."""
        self.shared: bool = False
        """Whether another task has called through it: then that task may release it, too."""
        self.ended: bool = False
        self.context: Context | None = None
        """The context variables of that task when it acquired it, for the observers; `None` where there are none of these."""


@final
class Waiter:
    """One task that waits for a lease, or only for a session to be ready."""

    __slots__ = ("in_block", "parked", "result", "since", "task")

    def __init__(self, in_block: bool) -> None:
        self.task: trio.lowlevel.Task = trio.lowlevel.current_task()
        self.since: float = trio.current_time()
        self.in_block: bool = in_block
        self.parked: bool = False
        """Whether the task sleeps. Before that it looks at `result` itself when it comes to park."""
        self.result: Lease | PoolError | bool | None = None
        """The lease, why there is none, or `True` for a waiter that wants none."""

    def resolve(self, result: Lease | PoolError | bool) -> None:
        """Give it its result and wake its task. Only for a waiter that is still in the queue."""
        self.result = result
        if self.parked:
            trio.lowlevel.reschedule(self.task)
