"""`BlockingPool`: the pool for programs of threads.

Opening and leaving wait for the Trio thread in a loop that an interrupt (control-C) can end: the first closes without
draining, the second does not wait. A plain `Thread.join` could not be told from a hang.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, final

from .. import Callbacks, Pool, PoolStatistics, Server, open_pool
from ._blocking_handles import BlockingScopedPool, BlockingSession, Leases, awaited, build, synchronous
from ._mirror import mirrors
from ._thread import TrioThread
from ._waiting import BlockingLink, check_no_trio


@final
@mirrors(Pool, build)
class BlockingPool(Leases):
    """A pool for programs of threads: a `with` block, inside of which any number of threads may call at once.

    `servers` and `options` are the arguments of `open_pool`. The pool runs on a Trio thread of its own. Its verbs have the
    names, arguments, results and errors of `Pool`'s, and block the calling thread; what is `async with` or `async for` there
    is `with` or `for` here. Context variables reach the call. A session or scope may be left in another thread than it was
    entered in.

    Leaving the block takes up to `drain_timeout` plus `close_timeout`, and after an exception `close_timeout`. Raises
    `RuntimeError` inside a Trio run, in the pool's own Trio thread, and in a process forked after it was opened. If the Trio
    thread ends, every call gets `OutcomeUnknownError`, if it had begun to call a server, or else `PoolClosedError`.
    """

    def __init__(self, servers: Mapping[str, Server], **options: Any) -> None:
        signature(open_pool).bind(servers, **options)
        changes: SimpleQueue[None] = SimpleQueue()
        self._changes = changes
        self._link = BlockingLink(
            TrioThread(partial(open_pool, servers, **options), lambda: changes.put(None), "BlockingPool")
        )
        self._entered = False

    @property
    def _target(self) -> Any:
        pool = self._link.thread.pool
        if pool is None:
            raise RuntimeError("this BlockingPool is not open: use it inside its 'with' block")
        return pool

    def __repr__(self) -> str:
        return f"<BlockingPool: {self._link.thread.pool or 'not open'}>"

    def __enter__(self) -> Self:
        check_no_trio()
        if self._entered:
            raise RuntimeError("this BlockingPool was entered already; make another one")
        self._entered = True
        thread = self._link.thread
        thread.start()
        try:
            self._wait_for_change()
        except BaseException:
            self._close_now()
            raise
        if thread.pool is None:
            assert thread.error is not None
            raise thread.error
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        thread = self._link.thread
        if not thread.owns_process():
            return  # a forked child: the pool is the parent's
        if exc is None:
            self._link.release_own()
        thread.leave(clean=exc is None)
        try:
            while not thread.ended:
                self._wait_for_change()
        except BaseException:
            self._close_now()
            raise
        thread.join()
        error = thread.error
        if error is not None and (exc is None or isinstance(error, KeyboardInterrupt | SystemExit)):
            raise error

    def _close_now(self) -> None:
        """Interrupted: give the leases no more time. A second interrupt does not wait for the closing either."""
        self._link.thread.hurry()
        while not self._link.thread.ended:
            self._wait_for_change()

    def _wait_for_change(self) -> None:
        self._changes.get()

    def session(self, server: str, *, scope: Hashable = None) -> AbstractContextManager[BlockingSession]:
        """Lease a session for the length of a `with` block, as `Pool.session`. Entering blocks."""
        return self._block("session", (server,), {"scope": scope})

    def acquire(self, server: str, *, scope: Hashable = None) -> BlockingSession:
        """Lease a session, as `Pool.acquire`; `BlockingSession.release` ends it. Blocks; an interrupt ends the wait."""
        session: BlockingSession = self._call("acquire", (server,), {"scope": scope})
        return session

    def acquire_nowait(self, server: str, *, scope: Hashable = None) -> BlockingSession:
        """Lease a session that is free at this moment, as `Pool.acquire_nowait`; raises `trio.WouldBlock` otherwise."""
        session: BlockingSession = self._call("acquire_nowait", (server,), {"scope": scope})
        return session

    def open_scope(
        self,
        key: Hashable = None,
        *,
        servers: Mapping[str, Server] | None = None,
        callbacks: Callbacks | None = None,
    ) -> AbstractContextManager[BlockingScopedPool]:
        """A corner of the pool whose sessions close with the `with` block, as `Pool.open_scope`.

        The functions of `callbacks` run on the Trio thread.
        """
        return self._block("open_scope", (key,), {"servers": servers, "callbacks": callbacks})

    close_scope = awaited(Pool.close_scope)
    drain = awaited(Pool.drain)
    add_server = synchronous(Pool.add_server)
    remove_server = awaited(Pool.remove_server)
    reconfigure = awaited(Pool.reconfigure)

    def statistics(self) -> PoolStatistics:
        """How things stand, as `Pool.statistics`. Waits for the Trio thread's next turn, usually some 0.1 ms."""
        statistics: PoolStatistics = self._call("statistics", (), {}, at_once=True)
        return statistics

    def aclose(self) -> None:
        """Close the pool before its block ends, as `Pool.aclose`. Blocks up to `drain_timeout` plus `close_timeout`."""
        self._link.release_own()
        self._call("aclose", (), {})
