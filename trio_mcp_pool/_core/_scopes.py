"""The scopes of a pool: keys under which callers have sessions of their own.

A key belongs either to an `open_scope` block, whose sessions may hold state and end with the block, or to whoever names it in
`scope=`, in a lane that is made when it is needed and forgotten when it is empty. It is never both: who calls under the key of
a block must do it through the handle that the block gives.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import final

import trio
from trio.lowlevel import enable_ki_protection

from .._callbacks import Callbacks, check_declared
from .._connection._record import Connection
from .._errors import PoolClosedError
from .._lanes._host import step
from .._lanes._lane import Lane
from ._closing import Closing
from ._registry import FreshKey, Scope, ScopeKey, check_servers
from ._server_table import ServersHost, ServerTable, check_not_pinned


@final
class Scopes:
    """The scopes of one pool."""

    def __init__(self, host: ServersHost, servers: ServerTable, closing: Closing) -> None:
        self.host: ServersHost = host
        self._servers = servers
        self._closing = closing
        self._blocks: dict[ScopeKey, Scope] = {}
        """Those of `open_scope` blocks."""
        self._fresh_keys = 0

    # Finding.

    def lane(self, server: str, key: Hashable) -> Lane:
        """The lane of a server outside of any `open_scope` block, made if need be. Without a key, the one that all share."""
        entry = self._servers.find(server)
        if key is None:
            assert entry.lane is not None
            return entry.lane
        owned = ScopeKey(key)
        lane: Lane | None = entry.shared.lanes.get(owned)
        if lane is None or lane.stateful:
            # Such a lane outlives its block where a session overstays its time to close.
            if lane is not None or owned in self._blocks:
                raise ValueError(
                    f"scope {key!r} is owned by an open_scope block; call through the handle that it gives"
                )
            lane = entry.new_lane(self.host, owned)
        return lane

    def block_lane(self, server: str, scope: Scope) -> Lane:
        """The lane of a server inside an `open_scope` block, made if need be."""
        if scope.closed_error is not None:
            raise scope.closed_error._fresh()
        entry = scope.own.get(server) or self._servers.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.host.closing is not None:
            raise self._servers.why_not(server, scope.own)
        lane: Lane | None = entry.shared.lanes.get(scope.key)
        return lane if lane is not None else entry.new_lane(self.host, scope.key, stateful=True)

    def callbacks(self, key: Hashable) -> Callbacks | None:
        """What the block that owns a lane's key declares."""
        scope = self._blocks.get(key) if isinstance(key, ScopeKey) else None
        return None if scope is None else scope.callbacks

    # Blocks.

    @step
    def enter(self, key: Hashable, servers: object, callbacks: object) -> Scope:
        """Own a key."""
        declared = check_declared("callbacks", callbacks)
        own = {} if servers is None else check_servers(servers)
        self._servers.check_open()
        if key is None:
            self._fresh_keys += 1
            key = FreshKey(self._fresh_keys)
        owned = ScopeKey(key)
        if owned in self._blocks or any(owned in entry.shared.lanes for entry in self._servers.entries.values()):
            raise ValueError(f"scope {key!r} is open or in use already")
        scope = Scope(owned, {name: self._servers.entry(name, server) for name, server in own.items()}, declared)
        self._blocks[owned] = scope
        self._servers.of_scopes.update(dict.fromkeys(scope.own.values()))
        return scope

    @enable_ki_protection
    async def leave(self, scope: Scope, task: trio.lowlevel.Task, clean: bool) -> None:
        """Close all that belongs to a block; running leases of other tasks have `drain_timeout` after a clean end."""
        lanes = self._close(scope)
        assert scope.closed_error is not None
        try:
            await self._closing.end(lanes, scope.closed_error, "drained", task, clean=clean)
        finally:
            self._forget(scope)

    @step
    def _close(self, scope: Scope) -> list[Lane]:
        scope.closed_error = PoolClosedError(f"scope {scope.key.value!r} is closed")
        if self.host.hub is not None:
            self.host.hub.closing(scope.key.value)
        lanes = (entry.shared.lanes.get(scope.key) for entry in self._servers.all_entries())
        return [lane for lane in lanes if lane is not None and lane.stateful]

    @step
    def _forget(self, scope: Scope) -> None:
        del self._blocks[scope.key]
        for entry in scope.own.values():
            del self._servers.of_scopes[entry]
            self._servers.removed.add(entry)

    # Keys that no block owns.

    @step
    def close_key(self, key: Hashable) -> list[Connection]:
        """End the sessions of such a key. Returns its connections."""
        self._servers.check_open()
        owned = ScopeKey(key)
        if key is None or owned in self._blocks:
            raise ValueError(
                f"scope {key!r} is owned by an open_scope block, which closes it when it ends"
                if key is not None
                else "None names no scope"
            )
        entries = self._servers.entries.values()
        lanes = [lane for entry in entries if (lane := entry.shared.lanes.get(owned)) is not None]
        check_not_pinned(lanes, "close_scope")
        return [c for lane in lanes for c in lane.retire_all(lane.policy.drain_timeout, "drained")]
