"""What a pool has been given: servers by name, and scopes by key, each checked when it is given.

An entry is one server with all its lanes and what they share. Scopes may bring servers of their own, which are entries like
any other. A server that was removed keeps its entry until the last of its connections has gone: until then it counts (R9,
R10). After that only its counters are kept, for the last few names, and in one sum for all older ones, so that a pool may run
for a year with a new name every minute.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Final, final

from .._callbacks import Callbacks
from .._errors import PoolError
from .._lanes._counts import Counts, Peaks
from .._lanes._health import Health
from .._lanes._host import Host, Shared
from .._lanes._lane import Lane
from .._policy import PoolPolicy
from .._servers import Server

_NAMES_KEPT: Final = 64
"""The counters of so many removed servers are kept by name."""


def check_servers(servers: object) -> dict[str, Server]:
    """The mapping of names to servers, checked."""
    if not isinstance(servers, Mapping):
        raise TypeError(
            f"servers must be a mapping of names to servers such as {{'files': StdioServer(...)}}, not {type(servers).__name__}"
        )
    for name, server in servers.items():
        check_server(name, server)
    return dict(servers)


def check_server(name: object, server: object) -> None:
    """Raise a `TypeError` unless these are a name and a server."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a server's name must be a non-empty str, not {name!r}")
    if not isinstance(server, Server):
        raise TypeError(
            f"servers[{name!r}] must be a StdioServer, HttpServer, InProcessServer or CustomServer, not {type(server).__name__}"
        )


@final
class ScopeKey:
    """A scope's key with its hash kept: a key whose hash changes while it is in use must not lose its sessions."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: Hashable) -> None:
        try:
            self._hash = hash(value)
        except TypeError:
            raise TypeError(f"a scope's key must be hashable, which {type(value).__name__} is not") from None
        self.value: Hashable = value

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScopeKey) and (self is other or self.value == other.value)


@final
class FreshKey:
    """The key of a scope that was opened without one."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __repr__(self) -> str:
        return f"<scope {self._number}>"


@final
class Entry:
    """One server that the pool, or a scope, was given, and its lanes."""

    def __init__(
        self,
        name: str,
        server: Server,
        default_policy: PoolPolicy,
        peaks: Peaks,
        named: Peaks,
        occupied: Callable[[Hashable], int],
    ) -> None:
        self.name = name
        self.server: Server = server
        self.default_policy = default_policy
        self.shared: Shared = Shared(name, Health(name), Counts(peaks, named), occupied)
        self.lane: Lane | None = None
        """The lane outside of scopes, once the pool is open."""

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that have connections or waiters, and the one outside of scopes."""
        return list(self.shared.lanes.values())

    def policy_for(self, server: Server, lane_key: Hashable, stateful: bool) -> PoolPolicy:
        """The policy of one of its lanes, where the server is described by `server`."""
        policy = server.policy or self.default_policy
        if stateful:
            # Such a session may hold state, so it is the only one and stays until its scope ends.
            return replace(policy, min_sessions=0, max_sessions=1, idle_timeout=math.inf, max_lifetime=math.inf)
        # `min_sessions` holds only outside of scopes, where every caller can use the sessions.
        return policy if lane_key is None else replace(policy, min_sessions=0)

    def new_lane(self, host: Host, key: ScopeKey | None, *, stateful: bool = False) -> Lane:
        """A lane for this key. It registers itself when a caller waits in it."""
        scope = None if key is None else key.value
        policy = self.policy_for(self.server, key, stateful)
        return Lane(host, self.shared, key, scope, self.server, policy, stateful)

    def change(self, server: Server) -> None:
        """From now on dial by another description, in all lanes."""
        self.server = server
        for lane in self.lanes:
            lane.change(server, self.policy_for(server, lane.key, lane.stateful))


@final
class Scope:
    """A scope that is owned by an `open_scope` block."""

    def __init__(self, key: ScopeKey, own: dict[str, Entry], callbacks: Callbacks | None) -> None:
        self.key = key
        self.own = own
        self.callbacks = callbacks
        self.closed_error: PoolError | None = None


@final
class Removed:
    """The servers that were removed, and what is still known of them."""

    def __init__(self) -> None:
        self._leaving: dict[str, list[Entry]] = {}
        self.names: OrderedDict[str, Counts] = OrderedDict()
        """The counters of the last removed servers by name, those removed first at the front."""
        self.sum: Counts = Counts()
        """The counters of all servers removed before those."""

    def add(self, entry: Entry) -> None:
        """A server was removed."""
        self._leaving.setdefault(entry.name, []).append(entry)
        self.lane_ended(entry.name)

    def leaving(self, name: str | None = None) -> Iterable[Entry]:
        """The removed servers, of one name or of all, that still have connections."""
        if name is not None:
            return list(self._leaving.get(name, ()))
        return [entry for entries in self._leaving.values() for entry in entries]

    def lane_ended(self, name: str) -> None:
        """A lane of a server of this name may have ended: keep only the counters of entries that have none left."""
        left = []
        for entry in self._leaving.get(name, ()):
            if entry.shared.lanes:
                left.append(entry)
            else:
                self._keep_counters(entry)
        if left:
            self._leaving[name] = left
        else:
            self._leaving.pop(name, None)

    def take_counters(self, name: str) -> Counts | None:
        """The counters of a name that is in use again."""
        return self.names.pop(name, None)

    def occupied(self, name: str, key: Hashable) -> int:
        """How many connections of that key the removed servers of that name still have."""
        leaving = self._leaving.get(name)
        if leaving is None:
            return 0
        lanes = (entry.shared.lanes.get(key) for entry in leaving)
        return sum(len(lane.connections) for lane in lanes if lane is not None)

    def _keep_counters(self, entry: Entry) -> None:
        counts = self.names.setdefault(entry.name, Counts(named=entry.shared.counts.named))
        self.names.move_to_end(entry.name)
        counts.add_counters(entry.shared.counts)
        while len(self.names) > _NAMES_KEPT:
            self.sum.add_counters(self.names.popitem(last=False)[1])
