"""The connections that have a free place, ordered so that the next one to lend is found at once (R4).

The next to lend is, among those with the fewest leases, the one that was lent last, so that the surplus can idle out. There is
one heap for each number of leases. A connection that leaves a heap from its middle stays there as a stale entry until it comes
to the top, or until most entries are stale. Looking through all connections instead would make the price of every lease grow
with their number. The one that was put in last is kept aside, because it is usually the next one, too: a session that is lent
and given back, again and again, never meets a heap.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias, final

from .._connection._record import Connection

_Entry: TypeAlias = tuple[int, Connection]
# A heap is cleaned when it has this many entries more than twice what it may hold.
_SLACK: Final = 32


def _place(connection: Connection) -> tuple[int, int, Connection]:
    """The smaller, the sooner it is lent."""
    return connection.free_leases, -connection.lent, connection


@final
class FreeConnections:
    """An ordered set of connections with a free place. The caller says how many leases a connection has."""

    __slots__ = ("_aside", "_by_leases", "_fewest", "_size")

    def __init__(self) -> None:
        self._aside: Connection | None = None
        self._by_leases: list[list[_Entry]] = [[]]
        self._fewest = 0  # no heap below this one holds anything
        self._size = 0

    def put(self, connection: Connection, leases: int) -> None:
        """Put it in, or move it."""
        if self._aside is not connection:
            before = connection.free_leases
            if before < 0:
                self._size += 1
            elif (heap := self._by_leases[before]) and heap[0][1] is connection:
                heappop(heap)
            if self._aside is not None:
                self._push(self._aside)
            self._aside = connection
        connection.free_leases = leases

    def _push(self, connection: Connection) -> None:
        """Into its heap."""
        heaps, leases = self._by_leases, connection.free_leases
        if len(heaps) <= leases:
            heaps.extend([] for _ in range(len(heaps), leases + 1))
        heap = heaps[leases]
        heappush(heap, (-connection.lent, connection))
        if leases < self._fewest:
            self._fewest = leases
        if len(heap) > 2 * self._size + _SLACK:
            heap[:] = {entry[1]: entry for entry in heap if self._is_valid(entry, leases)}.values()
            heapify(heap)

    def remove(self, connection: Connection) -> None:
        """Take it out, if it is in."""
        leases = connection.free_leases
        if leases < 0:
            return
        if self._aside is connection:
            self._aside = None
        elif (heap := self._by_leases[leases]) and heap[0][1] is connection:
            heappop(heap)
        connection.free_leases = -1
        self._size -= 1

    def best(self) -> Connection | None:
        """The one lent last among those with the fewest leases; `None` if there is none."""
        aside = self._aside
        if self._size == (aside is not None):
            return aside
        first = self._first()
        if aside is None:
            return first
        return min(first, aside, key=_place)

    def _first(self) -> Connection:
        """The best one of the heaps, which are not empty."""
        heaps = self._by_leases
        while True:
            heap = heaps[self._fewest]
            while heap:
                entry = heap[0]
                if self._is_valid(entry, self._fewest):
                    return entry[1]
                heappop(heap)
            self._fewest += 1

    def _is_valid(self, entry: _Entry, leases: int) -> bool:
        lent, connection = entry
        return connection.free_leases == leases and connection.free_in is self and connection.lent == -lent
