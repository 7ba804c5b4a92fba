"""What a pool has been given: servers by name, and scopes by key, each checked when it is given.

An entry is one server with all its lanes and with what they share: the memory of its failures, and its tally. Scopes may
bring servers of their own, which are entries like any other.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, final

from ._books import Tally
from ._health import Health
from ._policy import PoolPolicy
from ._servers import Server

if TYPE_CHECKING:
    from ._lane import Lane


def check_servers(servers: object) -> dict[str, Server]:
    """The mapping of names to servers, checked."""
    if not isinstance(servers, Mapping):
        raise TypeError(
            f"servers must be a mapping of names to servers such as {{'files': StdioServer(...)}}, not {type(servers).__name__}"
        )
    for name, server in servers.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"a server's name must be a non-empty str, not {name!r}")
        check_server(name, server)
    return dict(servers)


def check_server(name: str, server: object) -> None:
    """Raise a `TypeError` unless it is a server."""
    if not isinstance(server, Server):
        raise TypeError(
            f"servers[{name!r}] must be a StdioServer, HttpServer, InProcessServer or CustomServer, not {type(server).__name__}"
        )


@final
class Entry:
    """One server that the pool, or a scope, was given, and its lanes."""

    def __init__(self, name: str, server: Server, policy: PoolPolicy, tally: Tally) -> None:
        self.name = name
        self.server = server
        self.default_policy = policy
        self.health = Health(name)
        self.tally = tally
        self.lanes: dict[Hashable, Lane] = {}

    @property
    def policy(self) -> PoolPolicy:
        """The server's own policy, or else the pool's."""
        return self.server.policy or self.default_policy

    def policy_for(self, scope: Hashable, stateful: bool) -> PoolPolicy:
        """The policy of one of its lanes."""
        if stateful:
            # Such a session may hold state, so it is the only one and stays until its scope ends.
            return replace(self.policy, min_sessions=0, max_sessions=1, idle_timeout=math.inf, max_lifetime=math.inf)
        # Sessions that nobody asked for are kept only where everybody can use them.
        return self.policy if scope is None else replace(self.policy, min_sessions=0)


@final
class Scope:
    """A scope that is owned by an `open_scope` block."""

    def __init__(self, key: Hashable, own: dict[str, Entry]) -> None:
        self.key = key
        self.own = own
        self.closed = False


@final
class FreshKey:
    """The key of a scope that was opened without one."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __repr__(self) -> str:
        return f"<scope {self._number}>"
