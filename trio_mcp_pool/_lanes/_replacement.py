"""What one lane remembers of the sessions that it replaces (R9).

A session is replaced because it reached `max_lifetime`, because its server was drained or reconfigured, or because a
handshake beside it is to decide whether the server still knows it. While it is in use, it is *outdated*: it is lent on
where no other session has a place, a successor is dialled beside it, and it drains when one is ready. Closing it first and
dialling then would be simpler, but all callers would wait for the longest call that runs on it.

A successor's failed dial says nothing about the server as long as the predecessor lives. It is tried again after a backoff
of its own, and then the predecessor is replaced strictly, old away, then new, as soon as no lease runs.
"""

from __future__ import annotations

import math
import random
from typing import final

import trio

from .._connection._record import Connection
from .._policy import Backoff, PoolPolicy

RECENTLY = 1.0
"""Seconds since its last lease within which a session is replaced as if it was in use."""


@final
class Replacement:
    """The outdated sessions of one lane, and the backoff of their successors."""

    __slots__ = ("failures", "outdated", "overlapping", "retry_at")

    def __init__(self) -> None:
        self.outdated: dict[Connection, None] = {}
        """Ready sessions that want a successor, in the order in which they became outdated."""
        self.overlapping: int = 0
        """Connections being replaced, until they have gone."""
        self.failures: int
        self.retry_at: float
        self.forget_failures()

    def room(self, policy: PoolPolicy) -> int:
        """How many connections may exist beyond `max_sessions` now."""
        return min(policy.max_overlap, self.overlapping)

    def add(self, connection: Connection) -> None:
        """From now on it wants a successor."""
        connection.outdated = True
        self.outdated[connection] = None
        if not connection.overlaps:
            connection.overlaps = True
            self.overlapping += 1

    def keep(self, connection: Connection) -> None:
        """It wants no successor any more: it stays."""
        connection.outdated = False
        self.outdated.pop(connection, None)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """It has gone, or stays: it does not count as being replaced."""
        if connection.overlaps:
            connection.overlaps = False
            self.overlapping -= 1

    def successors_wanted(self) -> int:
        """How many dials the outdated sessions want now."""
        return len(self.outdated) if trio.current_time() >= self.retry_at else 0

    def first(self) -> Connection | None:
        """The session that has been outdated for longest."""
        return next(iter(self.outdated), None)

    def failed(self, backoff: Backoff) -> None:
        """A successor's dial failed."""
        self.failures += 1
        self.retry_at = trio.current_time() + backoff.delay(self.failures, random.random())

    def forget_failures(self) -> None:
        """A successor is ready, or is to be dialled at once, whatever was."""
        self.failures = 0
        self.retry_at = -math.inf
