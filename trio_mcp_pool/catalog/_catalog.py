"""The catalogue: the tools, resources and prompts of all servers as one list that keeps itself up to date.

The rule: a server that is down is reported beside the rest, never instead of it, and what it listed last stays. Listing is a
job of the pool's, one at a time for each server, however many callers wait for it; cancelling one changes nothing for the
others. The obvious way, to list every server whenever an agent starts, costs a request per server and agent, fails as a whole
when one server does, and is out of date a moment later.

How it stays fresh: a session that opens brings its list along or is listed again in the background; older sessions send
`list_changed`; a modern one is listened to by its owner. A scope shows the pool's list until one of its own sessions reports a
change, or lists something else; from then on that server has a list of its own there.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import mcp_types as types
import trio

from .._errors import PoolClosedError
from .._groups import sole_error
from ._changes import Changes
from ._checks import Checker
from ._entries import Entry, PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry
from ._listeners import Listeners, changed_kinds
from ._listing import Shelf
from ._notifications import BUFFER, Notifications, ServerNotice
from ._pages import list_all
from ._patience import Patience, check_within
from ._source import KINDS, Kind, SessionFacts, Source, check_servers

if TYPE_CHECKING:
    from ._changes import Snapshot
    from ._readers import Readers

logger = logging.getLogger("trio_mcp_pool")

LISTING_TIMEOUT: Final = 60.0
"""Seconds that the listing of one server may take, its dial included."""
_BURST: Final = 10
_BURST_SECONDS: Final = 1.0
"""So many listings of a server may begin within so many seconds, however often it reports changes (R19)."""
_SPARE: Final = 1_000
"""Checkers of tools that are no longer listed, kept beside as many as there are tools."""
_RESOURCES: Final[tuple[Kind, ...]] = ("resources", "resource_templates")


def _offered(capabilities: types.ServerCapabilities, kind: Kind) -> bool:
    if kind in _RESOURCES:
        return capabilities.resources is not None
    return (capabilities.tools if kind == "tools" else capabilities.prompts) is not None


def _check_kinds(kinds: Any) -> tuple[Kind, ...]:
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise TypeError(f"kinds must be several kinds, such as ['tools'], not {type(kinds).__name__}")
    checked = tuple(kinds)
    for kind in checked:
        if kind not in KINDS:
            raise ValueError(f"kinds must be some of {', '.join(map(repr, KINDS))}, not {kind!r}")
    return checked


@final
class Catalog:
    """What all servers of a pool, or of a scope, offer. `Pool.catalog` and `ScopedPool.catalog`.

    The lists hold what was listed so far, and are empty before anything was: `refresh`, or `Pool.toolset`, lists.
    """

    def __init__(self, source: Source, parent: Catalog | None = None) -> None:
        """For the pool itself."""
        self._source = source
        self._parent = parent
        self._shelves: dict[str, Shelf] = {}
        self._checkers: dict[tuple[str, str], tuple[dict[str, Any], Checker]] = (
            {} if parent is None else parent._checkers
        )
        self._listeners = Listeners(source, self._reported, self._told)
        self._begun: dict[str, deque[float]] = {}
        self._everywhere: set[Kind] = set()
        """What was asked of all servers, and so of those that are added later."""
        self._children: weakref.WeakSet[Catalog] = weakref.WeakSet()
        self._notifications: weakref.WeakSet[Notifications] = weakref.WeakSet()
        self._hearers: dict[object, tuple[str, Hashable, Callable[[ServerNotice], None]]] = {}
        self._resource_readers: dict[tuple[int, str], Readers] = {}
        self._version = 0
        self._moved = trio.Event()
        self._cache: dict[Kind, tuple[int, tuple[Entry[Any], ...]]] = {}
        self.closed: bool = False
        """Whether the pool, or the scope, has begun to close."""
        if parent is not None:
            parent._children.add(self)
        source.watch(self)
        for server in source.servers:
            for facts in source.sessions(server):
                self.session_opened(facts)

    def __repr__(self) -> str:
        return (
            f"<Catalog: {len(self.tools)} tools of {len(self._source.servers)} servers, {len(self.problems)} problems>"
        )

    # Looking.

    @property
    def version(self) -> int:
        """Grows with every change. The lists are the same objects until it does."""
        return self._version

    @property
    def tools(self) -> tuple[ToolEntry, ...]:
        """All tools, in the order of configuration, then of listing."""
        return self._all("tools")

    @property
    def resources(self) -> tuple[ResourceEntry, ...]:
        """All resources, in the same order. Listed by `refresh` only."""
        return self._all("resources")

    @property
    def resource_templates(self) -> tuple[ResourceTemplateEntry, ...]:
        """All resource templates, in the same order. Listed by `refresh` only."""
        return self._all("resource_templates")

    @property
    def prompts(self) -> tuple[PromptEntry, ...]:
        """All prompts, in the same order. Listed by `refresh` only."""
        return self._all("prompts")

    @property
    def problems(self) -> dict[str, Exception]:
        """By server: why its entries are missing or stale. A new dict each time; the errors are not raised anywhere."""
        found = {server: self._shelf(server).problem for server in self._source.servers}
        return {server: problem for server, problem in found.items() if problem is not None}

    def changes(self) -> Changes:
        """An async iterator of what changes from now on, coalesced: `async for change in pool.catalog.changes()`.

        Each step gives the difference to what this reader saw last; steps checkpoint. It ends when the pool, or the scope,
        closes. Making it is synchronous.
        """
        return Changes(self)

    def checker(self, server: str, tool: types.Tool) -> Checker:
        """For tool sets: what checks the arguments of a tool; the same one as long as its schema is equal."""
        key, schema = (server, tool.name), tool.input_schema
        known = self._checkers.get(key)
        if known is not None and (known[0] is schema or known[0] == schema):
            return known[1]
        if len(self._checkers) > 2 * len(self.tools) + _SPARE:
            # A server that renames its tools for ever must not make this grow for ever.
            listed = {(entry.server, entry.name) for entry in self.tools}
            for unlisted in self._checkers.keys() - listed:
                del self._checkers[unlisted]
        self._checkers[key] = schema, Checker(schema)
        return self._checkers[key][1]

    def _all(self, kind: Kind) -> tuple[Entry[Any], ...]:
        cached = self._cache.get(kind)
        if cached is None or cached[0] != self._version:
            found = tuple(entry for server in self._source.servers for entry in self._shelf(server).entries(kind))
            cached = self._cache[kind] = self._version, found
        return cached[1]

    def _snapshot(self) -> Snapshot:
        return {
            (server, kind): entries
            for server in self._source.servers
            for kind in KINDS
            if (entries := self._shelf(server).entries(kind))
        }

    def _shelf(self, server: str) -> Shelf:
        """The server's lists here: the pool's, or our own where the scope overrides the server or has gone its own way."""
        own = self._shelves.get(server)
        if own is not None:
            return own
        if self._parent is not None and self._source.shares(server):
            return self._parent._shelf(server)
        self._shelves[server] = Shelf(server)
        return self._shelves[server]

    def _bump(self) -> None:
        self._version += 1
        moved, self._moved = self._moved, trio.Event()
        moved.set()
        for child in list(self._children):
            child._bump()

    def _bump_shelf(self, shelf: Shelf) -> None:
        """Tell whoever shows it."""
        owner: Catalog = self
        while owner._parent is not None and owner._shelves.get(shelf.server) is not shelf:
            owner = owner._parent
        owner._bump()

    # Listing.

    async def refresh(self, *servers: str, kinds: Iterable[Kind] = KINDS, within: float = math.inf) -> None:
        """List the servers named, or all, every page, side by side. Checkpoints.

        `kinds` are some of `"tools"`, `"resources"`, `"resource_templates"` and `"prompts"` (default: all of them). Callers at
        the same time share one listing. `within` is how many seconds to wait (default: until all have answered
        or failed, each at most 60 s); those that take longer are in `problems` until they join. A server that fails is in
        `problems`, too; it raises nothing.

        Raises `UnknownServerError`, `PoolClosedError`, and `TypeError` or `ValueError` for `kinds` or a `within` that are none.
        """
        check_servers(self._source, servers)
        check_within(within)
        await self._ensure(servers, _check_kinds(kinds), within, force=True)

    async def _ensure(
        self, servers: Iterable[str], kinds: Iterable[Kind], within: float | None, *, force: bool = False
    ) -> None:
        kinds, names = tuple(kinds), tuple(servers)
        if not names:
            self._everywhere.update(kinds)
            names = tuple(self._source.servers)
        await trio.lowlevel.checkpoint()
        self._check_open()
        patience = Patience(within, names, self._shelf)
        for server in names:
            shelf = self._shelf(server)
            shelf.wanted.update(kinds)
            if force and not shelf.running:
                shelf.invalidate(kinds)
            self._start(shelf)
        waiting = list(names)
        with trio.CancelScope() as scope:  # noqa: ASYNC912 (what is awaited inside may be there already)
            while waiting := [server for server in waiting if self._is_listing(server)]:
                scope.deadline = patience.until(waiting)
                await self._moved.wait()
        self._check_open()
        if scope.cancelled_caught:
            for server in waiting:
                shelf = self._shelf(server)
                if shelf.running and shelf.overdue is None:
                    shelf.overdue = TimeoutError(
                        f"server {server!r} was not listed within {patience.waited():.3g} s; its entries join when they come"
                    )
            self._bump()

    def _check_open(self) -> None:
        error = self._source.closed_error
        if error is not None:
            raise error

    def _is_listing(self, server: str) -> bool:
        """Whether its listing is under way."""
        shelf = self._shelf(server)
        if not shelf.running and shelf.error is None:
            self._start(shelf)  # it ended early, as the scope that listed for all has closed: begin again
        return shelf.running and not self.closed

    def _start(self, shelf: Shelf) -> None:
        if shelf.running or not shelf.needs() or self.closed:
            return
        shelf.running = self._source.spawn(partial(self._list, shelf), f"listing of {shelf.server!r}")

    async def _list(self, shelf: Shelf) -> None:
        error: Exception | None = None
        try:
            with trio.move_on_after(LISTING_TIMEOUT) as scope:  # noqa: ASYNC912 (as above)
                while shelf.needs():
                    await self._throttle(shelf.server)
                    await self._list_once(shelf)
            if scope.cancelled_caught:
                error = TimeoutError(f"server {shelf.server!r} did not list within {LISTING_TIMEOUT:g} s")
        except PoolClosedError:
            error = shelf.error  # the end of the pool is no fault of the server
        except Exception as exc:
            error = exc
        except BaseException:
            error = shelf.error
            raise
        finally:
            shelf.running, shelf.overdue = False, None
            shelf.fail(error)
            self._bump_shelf(shelf)
            del error

    async def _throttle(self, server: str) -> None:
        begun = self._begun.setdefault(server, deque(maxlen=_BURST))
        if len(begun) == _BURST:
            await trio.sleep_until(begun[0] + _BURST_SECONDS)
        begun.append(trio.current_time())

    async def _list_once(self, shelf: Shelf) -> None:
        server = shelf.server
        sessions = self._source.sessions(server)
        if not sessions:
            await self._source.connect(server)
            sessions = self._source.sessions(server)
        await self._listeners.agreed(server)
        kinds = shelf.needs()
        for kind in list(kinds):
            if sessions and not _offered(sessions[-1].capabilities, kind):
                shelf.store(kind, (), -math.inf, shelf.ticket(kind))
                kinds.discard(kind)
        try:
            async with trio.open_nursery() as nursery:
                for kind in kinds:
                    nursery.start_soon(self._list_kind, shelf, kind)
        except BaseExceptionGroup as group:
            # More than one may have failed, mostly of the same cause; any of them says why.
            raise next(iter(group.exceptions)) if len(group.exceptions) > 1 else sole_error(group) from None

    async def _list_kind(self, shelf: Shelf, kind: Kind) -> None:
        ticket = shelf.ticket(kind)
        values, fresh_until = await list_all(self._source, shelf.server, kind)
        if shelf.store(kind, values, fresh_until, ticket):
            self._bump_shelf(shelf)

    # What the source tells.

    def session_opened(self, facts: SessionFacts) -> None:
        """A `Watcher`'s; for the pool itself."""
        if facts.scope != self._source.scope or facts.server not in self._source.servers:
            return
        shelf = self._shelf(facts.server)
        now = trio.current_time()
        known = shelf.known("tools")
        if facts.tools is not None and known is not None and facts.tools != known:
            shelf = self._diverge(shelf)
        shelf.expire(now)
        if facts.tools is not None:
            shelf.store("tools", facts.tools, now + facts.fresh_for if facts.fresh_for else -math.inf, None)
            if not shelf.needs():
                shelf.fail(None)  # what could not be listed has come with the session
        self._listeners.opened(facts)
        self._start(shelf)
        self._bump_shelf(shelf)

    def session_closed(self, server: str, scope: Hashable, number: int) -> None:
        """A `Watcher`'s; for the pool itself."""

    def message(self, server: str, scope: Hashable, number: int, notification: Any) -> None:
        """A `Watcher`'s; for the pool itself."""
        self._tell(ServerNotice(server, scope, number, notification))
        if scope == self._source.scope and server in self._source.servers:
            self._reported(server, changed_kinds(notification))

    def _tell(self, notice: ServerNotice) -> None:
        for reader in list(self._notifications):
            reader._tell(notice)
        for server, scope, hear in list(self._hearers.values()):
            if server == notice.server and scope == notice.scope:
                hear(notice)

    def _told(self, notice: ServerNotice) -> None:
        """What was listened to is told to the readers of the pool, too."""
        self._tell(notice)
        if self._parent is not None:
            self._parent._tell(notice)

    def _hear(self, server: str, scope: Hashable, hear: Callable[[ServerNotice], None]) -> Callable[[], None]:
        """Tell a function of what one server says. Returns what ends that."""
        key = object()
        self._hearers[key] = server, scope, hear

        def end() -> None:
            del self._hearers[key]

        return end

    def notifications(
        self, server: str | None = None, scope: Hashable = None, *, buffer: int = BUFFER
    ) -> Notifications:
        """For `Pool.notifications`."""
        if server is not None:
            check_servers(self._source, [server])
        made = Notifications(server, scope if self._parent is None else self._source.scope, buffer)
        if self.closed:
            made._end()
        else:
            self._notifications.add(made)
        return made

    def servers_changed(self, server: str) -> None:
        """A `Watcher`'s; for the pool itself."""
        if server not in self._source.servers:
            self._shelves.pop(server, None)
            self._begun.pop(server, None)
        elif self._parent is None or not self._source.shares(server):
            shelf = self._shelf(server)
            shelf.invalidate(KINDS)
            shelf.wanted.update(self._everywhere)
            self._start(shelf)
        self._bump()

    def pool_closed(self) -> None:
        """A `Watcher`'s; for the pool itself."""
        self.closed = True
        for reader in list(self._notifications):
            reader._end()
        self._bump()

    def _reported(self, server: str, kinds: tuple[Kind, ...]) -> None:
        if not kinds or self.closed:
            return
        shelf = self._diverge(self._shelf(server))
        shelf.invalidate(kinds)
        self._start(shelf)
        self._bump_shelf(shelf)

    def _diverge(self, shelf: Shelf) -> Shelf:
        """From now on this scope's own lists, where they were the pool's."""
        if self._parent is not None and shelf.server not in self._shelves:
            shelf = self._shelves[shelf.server] = shelf.copy()
        return shelf
