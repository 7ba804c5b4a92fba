"""What a pool knows about itself, as numbers.

A *gauge* is how things stand at this moment; a *counter* only ever grows. After every step the books balance
(R10): `size == sessions_idle + sessions_in_use + sessions_connecting + sessions_closing` and
`connects == connects_failed + size + closed_idle + closed_lifetime + closed_drained + closed_broken + closed_shutdown`.
A server's numbers are sums over its lanes (one for each scope, and one for the sessions outside of scopes), and the pool's are
sums over its servers; so `max_sessions` of a server with three open scopes is the sum of four limits. Only the two peaks are no
sums: each is the largest number seen at one moment. Lanes that have been forgotten keep their counters in the sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, final

ServerState: TypeAlias = Literal["cold", "connecting", "ready", "backoff", "removed"]
"""How a server stands, see `ServerStatistics.state`."""


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    min_sessions: int = 0
    """Gauge: sessions that the policy keeps open when idle."""
    max_sessions: int = 0
    """Gauge: sessions that the policy allows. While sessions are replaced there may be up to `max_overlap` more in each lane;
    after a change to fewer, those that were allowed before count until they have gone."""
    size: int = 0
    """Gauge: connections that exist in any state; each counts until it has really gone (R9)."""
    sessions_idle: int = 0
    """Gauge: connections that are ready and have no lease."""
    sessions_in_use: int = 0
    """Gauge: connections with at least one lease, draining ones included."""
    sessions_connecting: int = 0
    """Gauge: connections that are being dialled or wait for their turn to be (`max_connecting`)."""
    sessions_closing: int = 0
    """Gauge: connections that are being closed, or whose failed dial is being cleaned up."""
    tasks_waiting_acquire: int = 0
    """Gauge: tasks that wait for a session."""
    leases_in_flight: int = 0
    """Gauge: leases on live sessions."""
    peak_in_use: int = 0
    """The largest `sessions_in_use` seen."""
    peak_tasks_waiting: int = 0
    """The largest `tasks_waiting_acquire` seen."""

    acquires: int = 0
    """Counter: leases given."""
    acquires_waited: int = 0
    """Counter: leases that had to be waited for."""
    acquires_cancelled: int = 0
    """Counter: callers cancelled while they waited."""
    acquires_timed_out: int = 0
    """Counter: callers that ran out of `acquire_timeout`."""
    acquires_rejected: int = 0
    """Counter: callers turned away with an error: too many waiting, server unavailable, dial failed, closed."""
    acquire_wait_seconds: float = 0.0
    """Counter, seconds: the time that callers spent waiting, whatever came of it."""
    connects: int = 0
    """Counter: dials started or queued."""
    connects_failed: int = 0
    """Counter: dials that failed, counted when what they left is gone."""
    connect_seconds: float = 0.0
    """Counter, seconds: the time that successful dials took."""
    usage_seconds: float = 0.0
    """Counter, seconds: the time that ended leases were held."""
    sessions_lost: int = 0
    """Counter: sessions that died."""
    closed_idle: int = 0
    """Counter: sessions closed because they were idle for `idle_timeout`, or to make room for `max_sessions_total`."""
    closed_lifetime: int = 0
    """Counter: sessions closed because they reached `max_lifetime`."""
    closed_drained: int = 0
    """Counter: connections closed by drain, remove, reconfigure, `close_scope` or the end of a scope."""
    closed_broken: int = 0
    """Counter: sessions closed because they had died."""
    closed_shutdown: int = 0
    """Counter: connections closed with the pool."""


@final
@dataclass(frozen=True, kw_only=True)
class ServerStatistics(_Numbers):
    """How one server stands, and its numbers: the sums over its lanes."""

    state: ServerState = "cold"
    """Gauge: `"ready"`, it has a session that can be leased or is on lease; `"connecting"`, it has none, and one is being
    dialled; `"backoff"`, it has none, the last dial failed, and none is made before `retry_at`; `"removed"`, the pool no
    longer has it; `"cold"`, none of these, so the next caller has it dialled. Default `"cold"`."""
    last_error: Exception | None = None
    """The `ConnectError` of the last failed dial; `None` where no dial has failed since the server last answered or was
    drained."""
    retry_at: float = -math.inf
    """When its backoff ends, in seconds on Trio's clock (`trio.current_time()`); `-inf`, or a time in the past, where it is in
    none."""


@final
@dataclass(frozen=True, kw_only=True)
class PoolStatistics(_Numbers):
    """The numbers of the whole pool, and those of each server by name."""

    servers: Mapping[str, ServerStatistics] = field(default_factory=dict)
    """Each server's own numbers. The 64 servers removed last keep their counters here, older ones in the pool's sums only."""
