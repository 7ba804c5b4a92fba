"""Callbacks begin in the order in which their messages arrived, and a flood of them slows the server, not the program (R19).

Each callback runs in a task of its own. Trio runs the tasks of one tick in any order, so one begins per tick. An answer
that comes after a callback's message is given when that callback has begun; one that finds no callback ahead of it does not
come this way.

The bounds: `MAX_RUNNING` callbacks run at a time, the others wait, and with `MAX_WAITING` waiting, or too many bytes of
messages held by all of them, the wire stops reading (`full`). While callbacks come and go, that slows the sender down and
loses nothing. But a callback of the user's may block for ever, and calls, whose answers come by the same way, must not be
held up for ever by that:

- An answer never waits for callbacks that cannot begin because `MAX_RUNNING` others run.
- When nothing has begun or ended for `PATIENCE`, the wire reads on, and what there is no place for is dropped, the oldest
  first: a notification without a word to the server, a request with an error. That ends when there is room again. A warning
  says so once. Where most of them only wait for the server to take their answers, it is the server that holds things up (it
  may read nothing until it has written everything), and `REPLY_PATIENCE` is enough.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeAlias, final

import trio

from .._link import Link

logger = logging.getLogger("trio_mcp_pool.wire")

MAX_RUNNING: Final = 256
"""How many callbacks of one session run at a time."""
MAX_WAITING: Final = 256
"""How many may wait to begin before the wire stops reading."""
PATIENCE: Final = 5.0
"""Seconds that the wire waits for one of them to end before it reads on and drops what has no place."""
REPLY_PATIENCE: Final = 0.5
"""The same where it is the server that does not take the answers to its own requests."""

Refusal: TypeAlias = Callable[[], tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]]


def _nothing() -> None:
    pass


@final
class _Callback:
    """One that waits to begin."""

    __slots__ = ("args", "context", "function", "refuse", "size")

    def __init__(
        self,
        size: int,
        context: Context | None,
        function: Callable[..., Awaitable[None]],
        args: tuple[Any, ...],
        refuse: Refusal | None,
    ) -> None:
        self.size = size
        self.context = context
        self.function = function
        self.args = args
        self.refuse = refuse


@final
class Turns:
    """The queue of callbacks and of the answers among them."""

    def __init__(self, link: Link, max_held: int) -> None:
        self.stopped = False
        """Whether the peer is gone, so that no callback begins any more."""
        self.replying = 0
        """How many of those that run have ended but for their answer, which the server has not taken yet."""
        self._link = link
        self._max_held = max_held
        self._queue: deque[_Callback | Callable[[], object]] = deque()
        self._running = 0
        self._held = 0  # bytes of messages that wait or whose callbacks run
        self._nursery: trio.Nursery | None = None
        self._taking = False
        self._idle: trio.lowlevel.Task | None = None  # the task that takes turns, while nothing can begin
        self._moved_at = 0.0  # when a callback last began or ended
        self._room: trio.Event | None = None  # while the wire waits
        self._stuck = False
        self._dropped = 0
        self._refusals: deque[tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]] = deque()

    def start(self, nursery: trio.Nursery) -> None:
        """Callbacks run in tasks of this nursery."""
        self._nursery = nursery
        self._moved_at = trio.current_time()

    def stop(self) -> None:
        """Nothing begins any more; answers that waited are given. Idempotent."""
        self.stopped = True
        queue, self._queue = self._queue, deque()
        for turn in queue:
            if not isinstance(turn, _Callback):
                turn()
        self._wake()
        self._make_room()

    # In.

    def spawn(self, context: Context | None, function: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """Run something at once, outside the order and uncounted. `False` where it is too late."""
        # The last bytes of a dead server are searched for answers only: handlers could not answer any more.
        if self._nursery is None or self.stopped:
            return False
        if context is None:
            self._nursery.start_soon(function, *args)
        else:
            context.run(self._nursery.start_soon, function, *args)
        return True

    def callback(
        self,
        size: int,
        context: Context | None,
        function: Callable[..., Awaitable[None]],
        *args: Any,
        refuse: Refusal | None = None,
    ) -> None:
        """Run a callback when its turn comes. `refuse` says how a request is answered that finds no place."""
        if self._nursery is None or self.stopped:
            return
        if self._stuck and len(self._queue) >= MAX_WAITING:
            self._drop()
        self._held += size
        self._queue.append(_Callback(size, context, function, args, refuse))
        if not self._taking:
            self._taking = self.spawn(None, self._take_turns)

    def answer(self, give: Callable[..., object], *args: Any) -> None:
        """Call `give` when all callbacks ahead of it have begun, or at once where they cannot begin."""
        if not self._queue or self._idle is not None:
            give(*args)
        else:
            self._queue.append(partial(give, *args))

    # Out.

    async def _take_turns(self) -> None:
        queue = self._queue
        try:
            while queue and not self.stopped:
                if self._running >= MAX_RUNNING and isinstance(queue[0], _Callback):
                    self._answer_now()
                    await self._wait_for_end()
                    continue
                # Its place is kept until it has begun, so that what arrives meanwhile lines up behind it; but it is not
                # begun again if the session is left in that tick.
                turn, queue[0] = queue[0], _nothing
                if isinstance(turn, _Callback):
                    self._begin(turn)
                else:
                    turn()
                await trio.lowlevel.checkpoint()
                if queue:
                    queue.popleft()
                self._moved()
        finally:
            self._taking = False

    def _begin(self, turn: _Callback) -> None:
        self._running += 1
        self.spawn(turn.context, self._run, turn)

    async def _run(self, turn: _Callback) -> None:
        try:
            await turn.function(*turn.args)
        finally:
            self._running -= 1
            self._held -= turn.size
            self._wake()
            self._moved()

    def _moved(self) -> None:
        """A callback has begun or ended."""
        self._moved_at = trio.current_time()
        if (self._room is None and not self._stuck) or self.full:
            return
        self._make_room()
        if self._stuck:
            self._stuck = False
            logger.warning(
                "server %s: its callbacks move again; %d of its messages were dropped", self._link.server, self._dropped
            )
            self._dropped = 0

    def _answer_now(self) -> None:
        """Nothing can begin: what waits must not hold up the answers behind it."""
        waiting = [turn for turn in self._queue if isinstance(turn, _Callback)]
        answers = [turn for turn in self._queue if not isinstance(turn, _Callback)]
        self._queue.clear()
        self._queue.extend(waiting)
        for give in answers:
            give()

    async def _wait_for_end(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        if self._idle is not None:
            task, self._idle = self._idle, None
            trio.lowlevel.reschedule(task)

    # Room.

    @property
    def full(self) -> bool:
        """Whether the wire should stop reading."""
        return not self.stopped and (len(self._queue) >= MAX_WAITING or self._held > self._max_held)

    async def wait_room(self) -> None:
        """Wait until the wire may read on; not for ever, even where all callbacks block."""
        while self.full and not self._stuck:
            self._room = trio.Event()
            with trio.move_on_at(min(self._give_up_at(), trio.current_time() + REPLY_PATIENCE)):
                await self._room.wait()
            if self.full and trio.current_time() >= self._give_up_at():
                self._stuck = True
                logger.warning(
                    "server %s: %d of its messages are being handled and %d wait, and none has been finished for %g s: until "
                    "one is, those that find no place are dropped",
                    self._link.server,
                    self._running,
                    len(self._queue),
                    trio.current_time() - self._moved_at,
                )
        while self._stuck and self._held > self._max_held and self._drop():
            pass

    def _give_up_at(self) -> float:
        return self._moved_at + (REPLY_PATIENCE if self.replying * 2 > self._running else PATIENCE)

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _drop(self) -> bool:
        """Drop the oldest callback that waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not isinstance(turn, _Callback):
                turn()
                continue
            self._held -= turn.size
            self._dropped += 1
            refusal = turn.refuse() if turn.refuse is not None else None
            if refusal is not None and len(self._refusals) < MAX_WAITING:
                self._refusals.append(refusal)
                if len(self._refusals) == 1:
                    self.spawn(None, self._refuse)
            return True
        return False

    async def _refuse(self) -> None:
        while self._refusals:
            function, args = self._refusals[0]
            await function(*args)
            self._refusals.popleft()
