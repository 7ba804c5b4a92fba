"""The pool: `open_pool`, `serve_pool`, and the handles that they give.

`open_pool` is a service nursery. Its body leaves first and may still call in its own clean-up; then leases are refused and
drained, then all connections close side by side, and only when nothing is left does the block end (R2).

What comes out of the block (R14), case by case:

- The body's own exception, bare, whatever closing has raised. It is never raised inside the service nursery, which would
  wrap it in a group; it is kept aside while the nursery ends, and raised after it.
- Nothing of what an owner raises: it has ended its connection, and reached the callers concerned as a `PoolError`.
- A `KeyboardInterrupt` or `SystemExit` that came out of an owner: the body is cancelled, and it comes out bare with the
  body's error, if there was one, as its `__context__`.
- A cancellation from outside, bare: after a shielded close, bounded by `close_timeout`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import NoReturn, final

import trio
from trio.lowlevel import enable_ki_protection

from ._arguments import explain_timeout_of
from ._blocks import block
from ._callbacks import Callbacks
from ._catalog_source import PoolSource, catalog_of
from ._connection._record import Connection
from ._core._core import Core
from ._core._registry import Scope
from ._events import Observer
from ._groups import interrupt_in, is_cancellation, sole_error
from ._handle import Handle
from ._lanes._lane import Lane
from ._lanes._lease import Lease
from ._policy import PoolPolicy
from ._servers import Server
from ._session import Leasing, Session
from ._statistics import PoolStatistics
from .catalog._catalog import Catalog
from .catalog._notifications import Notifications


def _require_trio(what: str) -> None:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise RuntimeError(
            f"{what} works only under Trio: start the program with trio.run(main), or with anyio.run(main, backend='trio'); "
            "from asyncio or threads, use AsyncioPool or BlockingPool of trio_mcp_pool.bridge"
        ) from None


@final
class _SetupHolder:
    """Holds the lease on which a server's `configure=` function runs. That lease belongs to no caller and is not counted."""

    def __init__(self, name: str) -> None:
        self.name = name

    def release(self, lease: Lease) -> None:
        lease.ended = True

    def answered(self, connection: Connection) -> None:
        """The session is not ready yet, so this proves nothing."""

    def suspect(self, connection: Connection, call: object) -> None:
        """The dial's own deadline covers it."""


async def _configure(connection: Connection) -> None:
    """Run a server's `configure=` function on a session handle of its own."""
    configure = connection.server.configure
    assert configure is not None
    task = trio.lowlevel.current_task()
    lease = Lease(_SetupHolder(connection.name), connection, task, trio.current_time(), in_block=True)
    try:
        await configure(Session(lease))
    finally:
        lease.ended = True


@final
class Pool(Handle):
    """A pool of MCP sessions. Made by `open_pool` and `serve_pool`; may be used from any task of the same Trio run."""

    def __init__(self, core: Core) -> None:
        """For the pool itself; programs call `open_pool`."""
        self._core = core

    def __repr__(self) -> str:
        stats = self._core.statistics()
        state = "closed" if self._core.closing is not None else "open"
        return f"<Pool {state}: {stats.size} sessions, {stats.tasks_waiting_acquire} waiting>"

    def _lane(self, server: str, scope: Hashable) -> Lane:
        return self._core.scopes.lane(server, scope)

    def _leasing(self, server: str, scope: Hashable) -> AbstractAsyncContextManager[Session]:
        return Leasing(lambda: self._lane(server, scope), self._core.token)

    def _names(self) -> list[str]:
        return list(self._core.servers.entries)

    @property
    def servers(self) -> Mapping[str, Server]:
        """What is configured now, by name. Read-only; `add_server`, `remove_server` and `reconfigure` change it."""
        return self._core.servers.configured

    def session(self, server: str, *, scope: Hashable = None) -> AbstractAsyncContextManager[Session]:
        """Lease a session for the length of an `async with` block. The usual way.

        Entering waits as `acquire` does and checkpoints; leaving releases, does not checkpoint and cannot fail.
        """
        return self._leasing(server, scope)

    @explain_timeout_of
    @enable_ki_protection
    async def acquire(self, server: str, *, scope: Hashable = None) -> Session:
        """Lease a session; `Session.release` gives it back. Checkpoints.

        `scope` is any hashable key: callers that give the same key share sessions.

        Raises `UnknownServerError`; `ConnectError` if the dial failed that was to serve this caller, and
        `ServerUnavailableError` at once while a failed server is in backoff; `AcquireTimeoutError` after `acquire_timeout`;
        `TooManyWaitersError` beyond `max_waiting`; `PoolClosedError`; `ValueError` if the scope belongs to an `open_scope`
        block; `RuntimeError` if this task would wait for itself.
        """
        return Session(await self._core.scopes.lane(server, scope).acquire(in_block=False), self._core.token)

    @enable_ki_protection
    def acquire_nowait(self, server: str, *, scope: Hashable = None) -> Session:
        """Lease a session that is free at this moment. Synchronous.

        Raises `trio.WouldBlock` where `acquire` would wait or dial, and otherwise what `acquire` raises.
        """
        lease = self._core.scopes.lane(server, scope).try_acquire(in_block=False)
        if lease is None:
            raise trio.WouldBlock
        return Session(lease, self._core.token)

    @block("pool.open_scope")
    async def open_scope(
        self,
        key: Hashable = None,
        *,
        servers: Mapping[str, Server] | None = None,
        callbacks: Callbacks | None = None,
    ) -> AsyncIterator[ScopedPool]:
        """A scope: sessions that are shared with nobody outside of it and close with the block.

        There is one session per server in it, never closed for idleness or age, because it may hold state. When it is lost,
        the next call gets `SessionLostError` once, and the one after that a new session.

        `key` names the scope in events (default: a fresh one); `servers` are added to the pool's for the inside, and
        override those of the same name; `callbacks` answer what servers ask on the scope's sessions. Leaving checkpoints and
        takes up to `drain_timeout` plus `close_timeout`.

        Raises `ValueError` if the key is open or in use already, `PoolClosedError` if the pool is closed.
        """
        scope = self._core.scopes.enter(key, servers, callbacks)
        clean = False
        try:
            yield ScopedPool(self._core, scope)
            clean = True
        finally:
            await self._core.scopes.leave(scope, trio.lowlevel.current_task(), clean)  # noqa: ASYNC102 (bounded)

    async def close_scope(self, key: Hashable) -> None:
        """End the sessions of a shared `scope=` key, of all servers, and wait until they are gone. Checkpoints.

        Running leases have `drain_timeout`. Callers that name the key afterwards, or wait already, get new sessions. Nothing
        happens where the key is not in use.

        Raises `ValueError` for the key of an `open_scope` block, which closes it itself; `PoolClosedError`; `RuntimeError` if
        this task would wait for its own lease.
        """
        await self._core.ends.wait_gone(self._core.scopes.close_key(key))

    async def drain(self, server: str) -> None:
        """Replace every connection of a server, in all scopes, and wait until the old ones are gone. Checkpoints.

        A session that is in use, or was in the last second, is lent on while its successor is dialled beside it, as far as
        `max_overlap` allows. Running leases have `drain_timeout` from this call on. What was remembered of failed dials is
        forgotten, so that the next caller dials at once.

        Raises `UnknownServerError`, `PoolClosedError`, and `RuntimeError` if this task would wait for its own lease.
        """
        await self._core.ends.wait_gone(self._core.servers.drain(server))

    def add_server(self, name: str, server: Server) -> None:
        """One more server. Synchronous. Raises `ValueError` if the name is taken, `PoolClosedError`.

        Where a server of that name was removed a moment ago, its last connections still count towards `max_sessions`.
        """
        self._core.servers.add(name, server)

    async def remove_server(self, name: str) -> None:
        """Take a server out: no new leases at once, running ones have `drain_timeout`. Waits until all is gone.

        Waiting callers get `UnknownServerError`. Checkpoints. Raises `UnknownServerError`, `PoolClosedError`, and
        `RuntimeError` if this task would wait for its own lease.
        """
        await self._core.ends.wait_gone(self._core.servers.remove(name))

    async def reconfigure(self, servers: Mapping[str, Server]) -> None:
        """Bring the pool in line with a new mapping of servers, touching only what differs. Checkpoints.

        New ones are added, missing ones removed, changed ones drained and dialled anew by their new description; equal ones
        are not touched. Where a server's policy alone has changed, its sessions stay, and the new policy applies to them. The
        change takes effect at once; the call returns when the old connections are gone.

        Raises `TypeError` or `ValueError` for a wrong mapping, of which nothing is applied; `PoolClosedError`;
        `RuntimeError` if this task would wait for its own lease.
        """
        await self._core.ends.wait_gone(self._core.servers.reconfigure(servers))

    @property
    def catalog(self) -> Catalog:
        """What all servers offer, as one list that keeps itself up to date. Empty until something is listed. Synchronous."""
        return catalog_of(self._core, self)

    def notifications(self, server: str | None = None, scope: Hashable = None, *, buffer: int = 1000) -> Notifications:
        """What servers say unasked, as an async iterator: changes, log messages, progress without a taker.

        Each comes with its server, scope and session number. `server` and `scope` name one of them (default: all). A reader
        that is more than `buffer` (default 1,000) behind loses the oldest; `missed` counts them. It begins with this call
        and ends when the pool closes. In the modern era a server says what it is listened to for: changes of its lists.
        Synchronous. Raises `UnknownServerError`, and `TypeError` or `ValueError` for a `buffer` that is no number from 1 on.
        """
        return self.catalog.notifications(server, scope, buffer=buffer)

    def statistics(self) -> PoolStatistics:
        """How things stand, as a frozen value. Synchronous, and cheap enough to poll."""
        return self._core.statistics()

    async def aclose(self) -> None:
        """Refuse leases at once, give running ones `drain_timeout`, close everything within `close_timeout`.

        Waits for connections, never for the task that hosts the pool, so the body may call it. The leases that the calling
        task holds itself end at once. Idempotent. Under cancellation it closes without draining. Checkpoints.
        """
        await self._core.aclose(trio.lowlevel.current_task(), clean=True)


@final
class ScopedPool(Handle):
    """A scope of a pool: the pool's verbs, on sessions of its own. Made by `Pool.open_scope`."""

    def __init__(self, core: Core, scope: Scope) -> None:
        """For the pool itself; programs call `Pool.open_scope`."""
        self._core = core
        self._scope = scope
        self._catalog: Catalog | None = None

    def __repr__(self) -> str:
        state = "open" if self._scope.closed_error is None else "closed"
        return f"<ScopedPool {self._scope.key.value!r}: {state}>"

    @property
    def key(self) -> Hashable:
        """The scope's key."""
        return self._scope.key.value

    @property
    def servers(self) -> Mapping[str, Server]:
        """What is configured now, the scope's own servers included. Read-only."""
        own = {name: entry.server for name, entry in self._scope.own.items()}
        return MappingProxyType({**self._core.servers.configured, **own})

    def open_scope(self, *_: object, **__: object) -> NoReturn:
        """There are no scopes in scopes. Raises `RuntimeError`."""
        raise RuntimeError("a scope cannot open another scope; call open_scope of the pool")

    def _lane(self, server: str, scope: Hashable) -> Lane:
        if scope is not None:
            raise ValueError("a call inside a scope cannot name another scope; call through the pool for that")
        return self._core.scopes.block_lane(server, self._scope)

    def _leasing(self, server: str, scope: Hashable) -> AbstractAsyncContextManager[Session]:
        return Leasing(lambda: self._lane(server, scope), self._core.token)

    def _names(self) -> list[str]:
        return list(dict.fromkeys((*self._core.servers.entries, *self._scope.own)))

    @property
    def catalog(self) -> Catalog:
        """As `Pool.catalog`. It shares the pool's lists until a session of the scope reports a change."""
        if self._catalog is None:
            parent = catalog_of(self._core, Pool(self._core))
            self._catalog = Catalog(PoolSource(self._core, self, self._scope), parent)
        return self._catalog

    def notifications(self, server: str | None = None, *, buffer: int = 1000) -> Notifications:
        """What servers say unasked on the scope's own sessions, as `Pool.notifications`."""
        return self.catalog.notifications(server, buffer=buffer)

    def session(self, server: str) -> AbstractAsyncContextManager[Session]:
        """Lease the scope's session of a server for the length of an `async with` block, as `Pool.session`."""
        return self._leasing(server, None)

    @enable_ki_protection
    async def acquire(self, server: str) -> Session:
        """Lease the scope's session of a server, as `Pool.acquire`. Raises `SessionLostError` once if it was lost."""
        return Session(
            await self._core.scopes.block_lane(server, self._scope).acquire(in_block=False), self._core.token
        )

    @enable_ki_protection
    def acquire_nowait(self, server: str) -> Session:
        """Lease the scope's session of a server if it is free at this moment, as `Pool.acquire_nowait`."""
        lease = self._core.scopes.block_lane(server, self._scope).try_acquire(in_block=False)
        if lease is None:
            raise trio.WouldBlock
        return Session(lease, self._core.token)


_DEFAULT_POLICY = PoolPolicy()


def _what_comes_out(error: BaseException | None, closing: BaseException) -> BaseException:
    """The body's own error, if there is one, rather than that closing was cut short; but an interrupt is never lost.

    Neither is a defect in a task of the pool: it has cancelled the body, whose `Cancelled` would be caught by nobody.
    """
    interrupt = interrupt_in(closing)
    if interrupt is None:
        if error is not None and is_cancellation(error) and not is_cancellation(closing):
            return sole_error(closing)
        return error or closing
    if error is not None and not is_cancellation(error):
        interrupt.__context__ = error
    return interrupt


@explain_timeout_of
@block("open_pool")
@enable_ki_protection
async def open_pool(
    servers: Mapping[str, Server],
    *,
    policy: PoolPolicy = _DEFAULT_POLICY,
    max_connecting: int = 8,
    max_sessions_total: int | None = None,
    observers: Iterable[Observer] = (),
    callbacks: Callbacks | None = None,
) -> AsyncIterator[Pool]:
    """A pool for the length of an `async with` block.

    `servers` maps names to descriptions; nothing is dialled until it is needed, except for `min_sessions`. `policy`
    holds for every server that has none of its own. `max_connecting` bounds the dials under way at a time, over all servers
    (default 8), and `max_sessions_total` the sessions that exist at a time, over all servers and scopes (default `None`: no
    limit but `max_sessions` of each); where it is reached, the least recently used idle session outside of `open_scope` makes
    room. `observers` receive every event. `callbacks` answer what servers ask, where a server or a scope declares none.

    Leaving the block takes up to `drain_timeout` plus `close_timeout`. Raises `TypeError` or `ValueError` for bad
    arguments, `RuntimeError` outside of Trio, and otherwise only what the body raises, bare.
    """
    _require_trio("open_pool")
    core = Core(servers, policy, max_connecting, max_sessions_total, observers, _configure, callbacks)
    task = trio.lowlevel.current_task()
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            core.open(nursery)
            try:
                with core.body_scope:
                    try:
                        yield Pool(core)
                    except BaseException as exc:  # noqa: ASYNC103 (raised bare below)
                        error = exc
            except RuntimeError as exc:
                # Trio finds that the body has left a cancel scope of its own open. The pool has to be closed all the same:
                # its tasks are shielded, so that the nursery would wait for them for ever.
                error = exc
            try:
                await core.aclose(task, clean=error is None)
            except BaseException as exc:  # noqa: ASYNC103 (raised bare below)
                error = _what_comes_out(error, exc)
    except BaseExceptionGroup as group:
        # Only an interrupt that came while the last owners were waited for can be in here.
        error = _what_comes_out(error, group)
    core.finish()
    if core.fatal_error is not None:
        if error is not None and not is_cancellation(error):
            core.fatal_error.__context__ = error
        raise core.fatal_error
    if error is not None:
        try:
            raise error
        finally:
            # The frame would otherwise keep the error, and the error the frame.
            del error


async def serve_pool(
    servers: Mapping[str, Server],
    *,
    policy: PoolPolicy = _DEFAULT_POLICY,
    max_connecting: int = 8,
    max_sessions_total: int | None = None,
    observers: Iterable[Observer] = (),
    callbacks: Callbacks | None = None,
    task_status: trio.TaskStatus[Pool] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A pool as a task of the application's own nursery: `pool = await nursery.start(partial(serve_pool, servers))`.

    Arguments as `open_pool`. Runs until `Pool.aclose` is called or the task is cancelled, which closes without draining. It
    cannot promise that the tasks which use the pool leave first; that is for the application to arrange.
    """
    _require_trio("serve_pool")
    async with open_pool(
        servers,
        policy=policy,
        max_connecting=max_connecting,
        max_sessions_total=max_sessions_total,
        observers=observers,
        callbacks=callbacks,
    ) as pool:
        task_status.started(pool)
        await pool._core.closed.wait()
