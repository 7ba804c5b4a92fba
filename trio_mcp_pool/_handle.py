"""What a pool and a scope of it offer beyond the verbs of a session: tool sets, and resources that are followed.

Both stand on a catalogue, and do not care whose it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from ._verbs import Verbs
from .catalog._catalog import Catalog
from .catalog._hooks import Approve, Around
from .catalog._names import NameFunction
from .catalog._patience import check_within
from .catalog._source import check_servers
from .catalog._subscriptions import Updates, subscribe
from .catalog._toolset import ToolSet


class Handle(Verbs):
    """The base of `Pool` and `ScopedPool`."""

    @property
    @abstractmethod
    def catalog(self) -> Catalog:
        """What the servers offer, as one list."""

    async def toolset(
        self,
        *servers: str,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        read_only: bool = False,
        names: NameFunction | None = None,
        approve: Approve | None = None,
        around: Around | None = None,
        max_concurrent: int = 8,
        max_per_server: int | None = None,
        max_chars: int | None = None,
        within: float | None = None,
    ) -> ToolSet:
        """The tools of the servers named, or of all, for an agent. Waits for those that were never listed. Checkpoints.

        `allow` and `deny` are shell-style patterns, matched against `server__tool` and the name that models see; `deny` wins.
        `read_only` keeps only what a `trusted` server marks as read-only. `names(server, tool)` gives the names that models
        see (default `server__tool`; what is illegal, too long or clashes gets a short hash). `approve` is awaited before
        each call and returns `True`, `False`, a reason why not, or other arguments; `around` is entered about each call.
        `max_concurrent` (default 8) and `max_per_server` (default: no limit) bound the calls of one `run`; `max_chars` the
        text of one result (default: no limit). `within` is how many seconds to wait for the lists: servers that take
        longer, or are down, are in `catalog.problems`, and their tools join when they come. By default it waits for at most
        10 s, and not that long for a few that hang: once three times as many servers have listed as are still awaited,
        those have until 1.3 times what the slowest of the others took, and at least 1 s; a server that is in
        `catalog.problems` already has 1 s, or nothing if its listing is still under way.

        Of a scope: its calls run on the scope's own sessions. Raises `UnknownServerError`, `PoolClosedError`, `TypeError`,
        `ValueError`, and what `names` raises.
        """
        catalog, source = self.catalog, self.catalog._source
        check_servers(source, servers)
        check_within(within, optional=True)
        made = ToolSet(
            catalog,
            source,
            servers or None,
            allow=allow,
            deny=deny,
            read_only=read_only,
            names=names,
            approve=approve,
            around=around,
            max_concurrent=max_concurrent,
            max_per_server=max_per_server,
            max_chars=max_chars,
        )
        await catalog._ensure(servers, ("tools",), within)
        return made

    def subscribe(self, server: str, uri: str) -> AbstractAsyncContextManager[Updates]:
        """Follow a resource: `async with pool.subscribe("files", uri) as updates: async for update in updates: ...`.

        Works in both eras. The block holds a lease, so its session stays open. When the session is lost, it subscribes again,
        and the next update says that something may have been missed. Several updates that were not read yet are one.

        Raises `TypeError` for a URI that is no `str`. Entering raises what acquiring a session raises, `ValueError` if the
        server offers no subscriptions, and `mcp.MCPError` if it refuses this one. Entering and leaving checkpoint; leaving,
        and a cancellation of entering, take up to 2 s.
        """
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        return subscribe(self.catalog, self.catalog._source, server, uri)
