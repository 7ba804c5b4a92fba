"""The connections to one origin: kept alive, looked at before they are used again, limited in number, given out in
turn.

A connection is in use, idle, or *ending*: its answer was read, but the end of the response had not arrived yet. An
ending one is looked at when the next connection is wanted, so that nobody waits for a last chunk that comes in a packet
of its own.

Servers close idle connections, common ones after five seconds. A request that crosses with that is lost, and whether it
ran nobody knows; so a connection that has lain idle for four seconds is not used again, unless the server says by
`Keep-Alive` that it waits longer, and one on which anything has arrived meanwhile, the end of the stream included, is
not used at all.
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Final, final

import outcome
import trio

from ._address import Origin
from ._connection import Connection, Head
from ._dialling import Dialler
from ._failures import ConnectFailed

_IDLE: Final = 4.0
_LONGEST_IDLE: Final = 300.0
_ENDING: Final = 1.0
"""Seconds that a server may take to end a response after the answer in it. Then the connection is closed."""
_LOOKS: Final = 4
"""How many ending connections are looked at for one request; the oldest are the likeliest to have ended."""

_TIMEOUT = re.compile(r"(?:^|[,\s])timeout=(\d{1,6})(?!\d)")


@final
class Connections:
    """The connections to one origin. All methods but `acquire`, `dial` and `reap` are synchronous."""

    def __init__(self, origin: Origin, dialler: Dialler, *, max_connections: int) -> None:
        self.origin: Final = origin
        self.closed = False
        self.proxy: Final = dialler.proxy(origin)
        """What they go through, if anything. Looked up once: to read the environment takes longer than all else here."""
        self._dialler = dialler
        self._max = max_connections
        self._places = 0
        """Places taken, by connections that count and by dials under way."""
        self._idle: list[Connection] = []  # the last one was used last
        self._ending: deque[Connection] = deque()
        self._in_use: set[Connection] = set()
        self._waiters: deque[trio.lowlevel.Task] = deque()
        self._reaper: trio.lowlevel.Task | None = None  # while it has nothing to do

    def __repr__(self) -> str:
        used, idle, waiters = len(self._in_use), len(self._idle), len(self._waiters)
        return f"<Connections to {self.origin}: {used} in use, {idle} idle, {waiters} waiters>"

    async def acquire(self) -> Connection:
        """A connection to send a request on, first come, first served. Raises `ConnectFailed`. `release` or `discard`
        ends it."""
        if self._waiters or (connection := self._try_acquire()) is None:
            if self._waiters or not self._take_place():
                handed_over = await self._wait()
                if handed_over is not None:
                    return handed_over
            return await self._dial()
        return connection

    async def dial(self) -> Connection:
        """A connection that takes none of the places and is not kept: for a stream that stands open for long."""
        self._check_open()
        connection = Connection(*await self._dialler.connect(self.origin, self.proxy))
        connection.counted = False
        return self._used(connection)

    @trio.lowlevel.enable_ki_protection
    def release(self, connection: Connection, head: Head | None = None) -> None:
        """The answer was read. Keep the connection if its response has ended, or is about to."""
        if connection not in self._in_use:
            return
        if self.closed or not connection.counted or connection.closed:
            self.discard(connection)
            return
        finished = connection.finish()
        if finished is False:
            self.discard(connection)
            return
        self._in_use.discard(connection)
        now = trio.current_time()
        connection.idle_since = now
        connection.idle_limit = _idle_limit(head)
        if finished is None:
            self._ending.append(connection)
        elif not self._hand_over(connection):
            self._idle.append(connection)
        if self._reaper is not None:
            task, self._reaper = self._reaper, None
            trio.lowlevel.reschedule(task)

    @trio.lowlevel.enable_ki_protection
    def discard(self, connection: Connection) -> None:
        """Close a connection at once, in the middle of whatever it does. Idempotent."""
        connection.close()
        if connection in self._in_use:
            self._in_use.discard(connection)
            if connection.counted:
                self._give_place()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close them all. Whoever waits for a place gets one, and fails when it dials."""
        self.closed = True
        for connection in (*self._idle, *self._ending, *self._in_use):
            connection.close()
        self._idle.clear()
        self._ending.clear()

    async def reap(self) -> None:
        """Close what has lain idle too long, for as long as the session lives."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reaper = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._idle and not self._ending:
                self._reaper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            # What comes to an end meanwhile expires earlier than what was there.
            await trio.sleep(min(_ENDING, max(0.05, self._next_expiry() - trio.current_time())))
            self._close_expired(trio.current_time())

    # Which one.

    @trio.lowlevel.enable_ki_protection
    def _try_acquire(self) -> Connection | None:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable(now):
                self._in_use.add(connection)
                return connection
            self._drop(connection)
        for _ in range(min(_LOOKS, len(self._ending))):
            finished = self._ending[0].finish()
            if finished is None:
                break
            connection = self._ending.popleft()
            if finished:
                connection.idle_since = now
                if connection.is_usable(now):
                    self._in_use.add(connection)
                    return connection
            self._drop(connection)
        return None

    def _used(self, connection: Connection) -> Connection:
        if self.closed:
            connection.close()
        self._in_use.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._give_place()

    # Places.

    def _take_place(self) -> bool:
        if self._places >= self._max and self._ending:
            self._ending.popleft().close()
            self._places -= 1
        if self._places >= self._max:
            return False
        self._places += 1
        return True

    def _give_place(self) -> None:
        """A place is free: it goes to the first waiter, who will dial."""
        if self._waiters:
            trio.lowlevel.reschedule(self._waiters.popleft(), outcome.Value(None))
        else:
            self._places -= 1

    def _hand_over(self, connection: Connection) -> bool:
        if not self._waiters:
            return False
        self._in_use.add(connection)
        trio.lowlevel.reschedule(self._waiters.popleft(), outcome.Value(connection))
        return True

    async def _wait(self) -> Connection | None:
        """Wait for a connection, or for a place to dial one: `None`."""
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiters.append(task)
        connection: Connection | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return connection

    async def _dial(self) -> Connection:
        """Dial in a place that was taken."""
        connection = None
        try:
            self._check_open()
            parts = await self._dialler.connect(self.origin, self.proxy)
            connection = self._used(Connection(*parts))
        finally:
            if connection is None:
                self._give_place()
        return connection

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectFailed("the session is over")

    # Age.

    def _next_expiry(self) -> float:
        ages = [connection.idle_since + connection.idle_limit for connection in self._idle]
        ages += [connection.idle_since + _ENDING for connection in self._ending]
        return min(ages, default=math.inf)

    @trio.lowlevel.enable_ki_protection
    def _close_expired(self, now: float) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            if connection.is_usable(now):
                self._idle.append(connection)
            else:
                self._drop(connection)
        ending, self._ending = self._ending, deque()
        for connection in ending:
            finished = connection.finish()
            if finished and now - connection.idle_since < connection.idle_limit:
                if not self._hand_over(connection):
                    self._idle.append(connection)
            elif finished is None and now - connection.idle_since < _ENDING:
                self._ending.append(connection)
            else:
                self._drop(connection)


def _idle_limit(head: Head | None) -> float:
    """How long the connection may lie idle, by what its last response says."""
    if head is None or b"keep-alive" not in head.headers:
        return _IDLE
    found = _TIMEOUT.search(head.get(b"keep-alive").lower())
    if found is None:
        return _IDLE
    seconds = float(found[1])
    # A second of it is for the way there.
    return min(_LONGEST_IDLE, max(seconds - 1, seconds / 2))
