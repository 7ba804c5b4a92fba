"""The servers of a pool by name, with their lanes, and how they change while the pool runs.

A change looks first and changes then, in one step (R17): what is wrong with it is found before anything has moved. A server
that was removed stays known until nothing of it is left, and servers that a scope brings are entries beside the pool's own, so
that everything which counts, closes or looks for lanes sees all of them in one place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol, final
from weakref import WeakValueDictionary

import trio

from .._connection._record import Connection
from .._errors import PoolClosedError, UnknownServerError
from .._lanes._counts import Peaks
from .._lanes._host import Host, step
from .._lanes._lane import Lane
from .._policy import PoolPolicy
from .._servers import Server
from ._hub import Hub
from ._registry import Entry, Removed, check_server, check_servers


class ServersHost(Host, Protocol):
    """What the servers and scopes of a pool need of it, beside what their lanes need."""

    closing: PoolClosedError | None
    """Raised for whoever comes, once the pool closes."""
    hub: Hub | None
    """Told for the catalogue, once somebody has asked for one."""


@final
class ServerTable:
    """The servers of one pool. Its steps return the connections that are on their way out because of them."""

    def __init__(self, host: ServersHost, servers: object, policy: PoolPolicy, max_sessions_total: int | None) -> None:
        self.host: ServersHost = host
        self.policy = policy
        self.peaks: Peaks = Peaks()
        self.removed: Removed = Removed()
        self.of_scopes: dict[Entry, None] = {}
        """The entries that `open_scope` blocks have brought."""
        self._total = max_sessions_total
        self._peaks_of: WeakValueDictionary[str, Peaks] = WeakValueDictionary()
        """By name, for as long as anything is counted under it."""
        checked = check_servers(servers)
        self._check_total(checked)
        self.entries: dict[str, Entry] = {name: self.entry(name, server) for name, server in checked.items()}

    @property
    def configured(self) -> Mapping[str, Server]:
        """What is configured now."""
        return MappingProxyType({name: entry.server for name, entry in self.entries.items()})

    def open(self) -> None:
        """Begin to serve. In a step."""
        for entry in self.entries.values():
            self._open(entry)

    def _open(self, entry: Entry) -> None:
        # Made at once and not at the first call, so that the statistics show it and `min_sessions` are dialled.
        entry.lane = entry.new_lane(self.host, None)
        entry.lane.register()
        entry.lane.tick()

    # Finding.

    def find(self, server: object) -> Entry:
        """The entry of this name. Raises what a caller should see."""
        entry = self.entries.get(server) if isinstance(server, str) else None
        if entry is None or self.host.closing is not None:
            raise self.why_not(server)
        return entry

    def why_not(self, server: object, besides: Iterable[str] = ()) -> Exception:
        """Why nothing can be had of a server; `besides` are names known where it was asked for."""
        if self.host.closing is not None:
            return self.host.closing._fresh()
        if not isinstance(server, str):
            return TypeError(f"server must be the name of a server in the pool, not {type(server).__name__}")
        names = [*self.entries, *besides]
        near = difflib.get_close_matches(server, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(names)}" if names else "; it has none"
        return UnknownServerError(
            f"the pool has no server {server!r}{hint}", server=server, suggestion=near[0] if near else None
        )

    def check_open(self) -> None:
        """Raise if the pool closes."""
        if self.host.closing is not None:
            raise self.host.closing._fresh()

    def entry(self, name: str, server: Server) -> Entry:
        """A new entry, which counts on where a removed server of this name has ended."""
        named = self._peaks_of.setdefault(name, Peaks())
        entry = Entry(name, server, self.policy, self.peaks, named, lambda key: self.removed.occupied(name, key))
        if (counts := self.removed.take_counters(name)) is not None:
            entry.shared.counts.add_counters(counts)
        return entry

    def used(self) -> list[Entry]:
        """Every entry in use, those of scopes included."""
        return [*self.entries.values(), *self.of_scopes]

    def all_entries(self) -> list[Entry]:
        """The same with the removed servers of which something is left."""
        return [*self.used(), *self.removed.leaving()]

    def all_lanes(self) -> Iterator[Lane]:
        """Every lane of every server, those of removed servers included."""
        for entry in self.all_entries():
            yield from entry.lanes

    # Changing.

    @step
    def add(self, name: str, server: Server) -> None:
        """One more server."""
        self.check_open()
        check_server(name, server)
        if name in self.entries:
            raise ValueError(f"the pool has a server {name!r} already; use reconfigure to change it")
        self._check_total({**self.configured, name: server})
        self._add(name, server)

    def _add(self, name: str, server: Server) -> None:
        entry = self.entries[name] = self.entry(name, server)
        self._open(entry)
        self._tell_hub(name)

    @step
    def drain(self, name: str) -> list[Connection]:
        """Replace all connections of a server."""
        entry = self.find(name)
        check_not_pinned(entry.lanes, "drain")
        return self._drain(entry, {lane: lane.policy.drain_timeout for lane in entry.lanes}, changed=False)

    def _drain(self, entry: Entry, timeouts: dict[Lane, float], *, changed: bool) -> list[Connection]:
        entry.shared.health.forget()
        return [c for lane, timeout in timeouts.items() for c in lane.replace_all(timeout, changed=changed)]

    @step
    def remove(self, name: str) -> list[Connection]:
        """Take a server out."""
        entry = self.find(name)
        check_not_pinned(entry.lanes, "remove_server")
        return self._remove(entry)

    def _remove(self, entry: Entry) -> list[Connection]:
        del self.entries[entry.name]
        error = UnknownServerError(f"server {entry.name!r} was removed from the pool", server=entry.name)
        old: list[Connection] = []
        for lane in entry.lanes:
            lane.refuse(error)
            old += lane.retire_all(lane.policy.drain_timeout, "drained")
        self.removed.add(entry)
        self._tell_hub(entry.name)
        return old

    @step
    def reconfigure(self, servers: object) -> list[Connection]:
        """Bring the servers in line with a new mapping."""
        wanted = check_servers(servers)
        self.check_open()
        self._check_total(wanted)
        missing = [entry for name, entry in self.entries.items() if name not in wanted]
        changed = [
            (entry, server)
            for name, server in wanted.items()
            if (entry := self.entries.get(name)) is not None and entry.server != server
        ]
        ending = [*missing, *(entry for entry, server in changed if not entry.server._same_but_policy(server))]
        check_not_pinned([lane for entry in ending for lane in entry.lanes], "reconfigure")
        old: list[Connection] = []
        for entry in missing:
            old += self._remove(entry)
        for entry, server in changed:
            timeouts = {lane: lane.policy.drain_timeout for lane in entry.lanes}
            entry.change(server)
            if entry in ending:
                old += self._drain(entry, timeouts, changed=True)
                self._tell_hub(entry.name)
        for name in wanted:
            if name not in self.entries:
                self._add(name, wanted[name])
        self.entries = {name: self.entries[name] for name in wanted}
        return old

    def _tell_hub(self, name: str) -> None:
        if self.host.hub is not None:
            self.host.hub.server_changed(name)

    def _check_total(self, servers: Mapping[str, Server]) -> None:
        kept = sum((server.policy or self.policy).min_sessions for server in servers.values())
        if self._total is not None and kept >= self._total:
            raise ValueError(
                f"the sum of min_sessions ({kept}) must be smaller than max_sessions_total ({self._total}), "
                "or no other session could ever be opened"
            )

    # When something has gone.

    def lane_is_empty(self, lane: Lane) -> None:
        """Forget a lane that has neither connections nor waiters, unless it is one that stays."""
        forgettable = lane.refusal is not None or (lane.key is not None and not lane.stateful)
        if self.host.closing is None and forgettable and lane.shared.lanes.get(lane.key) is lane:
            lane.unregister()
            self.removed.lane_ended(lane.name)

    def connection_gone(self, connection: Connection, lane: Lane) -> None:
        """Wake a new server of the same name that had to wait for a removed one (R9)."""
        entry = self.entries.get(connection.name)
        if entry is not None and entry.shared is not lane.shared:
            successor = entry.shared.lanes.get(lane.key)
            if successor is not None:
                self.host.rematch(successor)


def check_not_pinned(lanes: Iterable[Lane], what: str) -> None:
    """Raise a `RuntimeError` if a wait for the sessions of these lanes could never end, because of this very task."""
    task = trio.lowlevel.current_task()
    for lane in lanes:
        if lane.pins(task):
            raise RuntimeError(
                f"{what} would wait for ever: drain_timeout is inf, and this task itself holds a session of server "
                f"{lane.name!r} that cannot end while it waits; leave its block first, or give the wait a deadline"
            )
