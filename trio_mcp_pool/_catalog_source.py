"""The pool as the catalogue sees it: `catalog._source.Source`, over the core.

The rule: this is the only module that knows both. Sessions and messages of the whole pool come to one `Hub`, which is made when
somebody first asks for a catalogue, and hands them to the watchers of the scope concerned. It is told by the core in steps, and
tells after them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import mcp_types as types
import trio
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ._callbacks import Elicit, Progress
from ._connection._record import Connection
from ._connection._states import State
from ._core._core import Core
from ._core._registry import Scope
from .catalog._catalog import Catalog
from .catalog._source import Kind, ListResult, SessionFacts, Watcher

if TYPE_CHECKING:
    from mcp.client.subscriptions import Subscription

    from ._servers import Server
    from ._session import Session

logger = logging.getLogger("trio_mcp_pool")

_LENT: Final = (State.READY, State.DRAINING)
HEARS_TIMEOUT: Final = 1.0
"""Seconds that the catalogue waits for a standing stream. Some servers answer the request for one with their first message."""


class Handle(Protocol):
    """What is needed of `Pool` and `ScopedPool`, which are above."""

    async def wait_ready(self, *servers: str) -> None:
        """As `Pool.wait_ready`."""

    def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        *,
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
    ) -> Awaitable[types.CallToolResult]:
        """As `Pool.call_tool`."""

    def session(self, server: str) -> AbstractAsyncContextManager[Session]:
        """As `Pool.session`."""


def _facts(connection: Connection) -> SessionFacts | None:
    client = connection.client
    if client is None or connection.state not in _LENT:
        return None
    return SessionFacts(
        server=connection.name,
        scope=connection.scope,
        number=connection.number,
        modern=client.protocol_version in MODERN_PROTOCOL_VERSIONS,
        capabilities=client.server_capabilities,
    )


@final
class Hub:
    """What happens in one pool, for its catalogue and those of its scopes: see `_core/_hub.py`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.catalog: Catalog | None = None
        """The pool's own."""
        self._watchers: dict[Watcher, Hashable] = {}
        self._tasks: dict[trio.CancelScope, Hashable] = {}
        self._opened: set[int] = set()
        """The numbers of the sessions that watchers were told of, and not yet of their end."""
        self._news: deque[Callable[[], None]] = deque()
        self._telling = False
        for connection in core.connections():
            self.dialling(connection)
            if _facts(connection) is not None:
                self._opened.add(connection.number)

    def watch(self, watcher: Watcher, scope: Hashable) -> Callable[[], None]:
        self._watchers[watcher] = scope

        def end() -> None:
            self._watchers.pop(watcher, None)

        return end

    def _concerned(self, scope: Hashable) -> list[Watcher]:
        return [watcher for watcher, own in self._watchers.items() if own is None or own == scope]

    # What the core tells, in its steps.

    @property
    def pending(self) -> bool:
        return bool(self._news)

    def dialling(self, connection: Connection) -> None:
        connection.link.on_message = partial(self._message, connection.name, connection.scope, connection.number)

    def moved(self, connection: Connection) -> None:
        self._news.append(partial(self._tell_moved, connection))

    def server_changed(self, name: str) -> None:
        self._news.append(partial(self._tell_server_changed, name))

    def closing(self, scope: Hashable = None) -> None:
        self._news.append(partial(self._tell_closing, scope))

    # What is told on, after the step. Watchers may begin another one.

    def tell(self) -> None:
        if self._telling:
            return
        self._telling = True
        try:
            while self._news:
                try:
                    self._news.popleft()()
                except Exception:
                    logger.exception("a watcher of the catalogue raised")  # it would otherwise end what made the step
        finally:
            self._telling = False

    def _tell_moved(self, connection: Connection) -> None:
        facts, number = _facts(connection), connection.number
        if facts is not None and number not in self._opened:
            self._opened.add(number)
            for watcher in self._concerned(connection.scope):
                watcher.session_opened(facts)
        elif facts is None and number in self._opened:
            self._opened.discard(number)
            for watcher in self._concerned(connection.scope):
                watcher.session_closed(connection.name, connection.scope, number)

    def _message(self, server: str, scope: Hashable, number: int, message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            for watcher in self._concerned(scope):
                watcher.message(server, scope, number, message)

    def _tell_server_changed(self, name: str) -> None:
        for watcher in list(self._watchers):
            watcher.servers_changed(name)

    def _tell_closing(self, scope: Hashable) -> None:
        for watcher, own in list(self._watchers.items()):
            if scope is None or own == scope:
                del self._watchers[watcher]
                watcher.pool_closed()
        for task, own in list(self._tasks.items()):
            if scope is None or own == scope:
                task.cancel(reason="the pool closes" if scope is None else "the scope closes")

    # Tasks of the catalogue.

    def spawn(self, task: Callable[[], Awaitable[None]], name: str, scope: Hashable) -> bool:
        if self._core.closing is not None:
            return False
        cancel = trio.CancelScope()
        self._tasks[cancel] = scope

        async def run() -> None:
            try:
                with cancel:
                    await task()
            finally:
                del self._tasks[cancel]

        self._core.spawn(run, name)
        return True


def hub_of(core: Core) -> Hub:
    """The pool's hub, made at the first call."""
    if not isinstance(core.hub, Hub):
        core.hub = Hub(core)
    return core.hub


def catalog_of(core: Core, pool: Handle) -> Catalog:
    """The pool's catalogue, made at the first call."""
    hub = hub_of(core)
    if hub.catalog is None:
        hub.catalog = Catalog(PoolSource(core, pool, None))
    return hub.catalog


@final
class PoolSource:
    """A pool, or a scope, as the catalogue sees it."""

    def __init__(self, core: Core, handle: Handle, scope: Scope | None) -> None:
        self._core = core
        self._handle = handle
        self._scope = scope
        self._hub = hub_of(core)

    @property
    def scope(self) -> Hashable:
        return None if self._scope is None else self._scope.key.value

    @property
    def servers(self) -> Mapping[str, Server]:
        own = {} if self._scope is None else self._scope.own
        found = {name: own.get(name, entry).server for name, entry in self._core.servers.entries.items()}
        for name, entry in own.items():
            found.setdefault(name, entry.server)
        return found

    @property
    def closed_error(self) -> Exception | None:
        own = None if self._scope is None else self._scope.closed_error
        error = own or self._core.closing
        return None if error is None else error._fresh()

    def shares(self, server: str) -> bool:
        return self._scope is None or server not in self._scope.own

    def sessions(self, server: str) -> tuple[SessionFacts, ...]:
        found = [_facts(connection) for connection in self._connections(server)]
        return tuple(sorted((facts for facts in found if facts is not None), key=lambda facts: facts.number))

    def _connections(self, server: str) -> list[Connection]:
        own = None if self._scope is None else self._scope.own.get(server)
        entry = own or self._core.servers.entries.get(server)
        lane = None if entry is None else entry.shared.lanes.get(None if self._scope is None else self._scope.key)
        return [] if lane is None else list(lane.connections)

    async def connect(self, server: str) -> None:
        await self._handle.wait_ready(server)

    async def hears(self, server: str) -> None:
        await trio.lowlevel.checkpoint()
        opening = [
            connection.link.hears_unasked
            for connection in self._connections(server)
            if connection.state in _LENT and connection.link.hears_unasked is not None
        ]
        with trio.move_on_after(HEARS_TIMEOUT):  # noqa: ASYNC912 (above)
            for opened in opening:
                await opened.wait()

    async def list_page(self, server: str, kind: Kind, cursor: str | None) -> ListResult:
        verb = getattr(self._handle, f"list_{kind}")
        page: ListResult = await verb(server, cursor=cursor, cache_mode="refresh")
        return page

    def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any],
        *,
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
        read_timeout_seconds: float | None = None,
    ) -> Awaitable[types.CallToolResult]:
        # No coroutine of its own: a frame more costs every call of a tool set.
        return self._handle.call_tool(
            server, name, arguments, read_timeout_seconds, on_elicit=on_elicit, on_progress=on_progress
        )

    def session(self, server: str) -> AbstractAsyncContextManager[Session]:
        return self._handle.session(server)

    def listen(self, facts: SessionFacts, **filters: Any) -> AbstractAsyncContextManager[Subscription]:
        for connection in self._core.connections():
            if connection.number == facts.number and connection.client is not None:
                return connection.client.listen(**filters)
        raise LookupError("the session is gone")

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        if self.closed_error is not None:
            watcher.pool_closed()
            return lambda: None
        return self._hub.watch(watcher, self.scope)

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> bool:
        if self._scope is not None and self._scope.closed_error is not None:
            return False
        return self._hub.spawn(task, name, self.scope)
