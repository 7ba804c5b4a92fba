"""How long a caller waits for the lists of several servers: until all have come, but not for servers that will hardly come.

The rule, where the caller names no deadline: once three times as many servers have listed as are still awaited, those have
until 1.3 times what the slowest of the others took, and at least 1 s; one that could not be listed before has 1 s; one that
somebody has waited for in vain, and that is still under way, is not waited for again; and none has more than 10 s. The obvious
way, one deadline for all, makes an agent wait 10 s for each start of a program that hangs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, final

import trio

from ._listing import Shelf

WITHIN: Final = 10.0
"""Seconds, at most, where the caller names no deadline."""
LEAST: Final = 1.0
"""Seconds that every server has."""
QUORUM: Final = 3
"""How many must have listed for each that is still awaited, before those that are awaited count as slow."""
SLOWER: Final = 1.3
"""How much longer than the slowest of those that have listed a slow one may take."""


def check_within(within: object, *, optional: bool = False) -> None:
    """Raise `TypeError` or `ValueError` for what is no number of seconds."""
    if within is None and optional:
        return
    if isinstance(within, bool) or not isinstance(within, int | float):
        raise TypeError(f"within must be a number of seconds{' or None' * optional}, not {type(within).__name__}")
    if math.isnan(within) or within < 0:
        raise ValueError(f"within must be a number of seconds from 0 on, not {within}")


@final
class Patience:
    """That of one caller. Made before the listings are begun."""

    def __init__(self, within: float | None, servers: Iterable[str], shelf: Callable[[str], Shelf]) -> None:
        self._within = within
        self._shelf = shelf
        self._started = self._slowest = trio.current_time()
        self._awaited = set(servers)
        self._failed = {server for server in self._awaited if shelf(server).error is not None}
        self._overdue = {
            server for server in self._awaited if shelf(server).running and shelf(server).overdue is not None
        }
        self._listed = 0

    def waited(self) -> float:
        """Seconds so far."""
        return trio.current_time() - self._started

    def until(self, awaited: list[str]) -> float:
        """The time, on Trio's clock, until which to wait for these. To be asked whenever one has come or failed."""
        if self._within is not None:
            return self._started + self._within
        for server in self._awaited.difference(awaited):
            if self._shelf(server).error is None:
                self._listed += 1
                self._slowest = trio.current_time()
        self._awaited.intersection_update(awaited)
        new = len(self._awaited - self._failed - self._overdue)
        wait = WITHIN
        if self._awaited <= self._overdue:
            wait = 0.0
        elif new == 0:
            wait = LEAST
        elif self._listed >= QUORUM * new:
            wait = min(WITHIN, max(LEAST, SLOWER * (self._slowest - self._started)))
        return self._started + wait
