"""The statistics of a pool, from the numbers that its servers keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from .._lanes._counts import Counts, Peaks
from .._statistics import PoolStatistics, ServerStatistics
from ._registry import Entry, Removed

_PEAKS = ("peak_in_use", "peak_tasks_waiting")
ServerState = Literal["cold", "connecting", "ready", "backoff", "removed"]


def pool_statistics(entries: Iterable[Entry], removed: Removed, peaks: Peaks) -> PoolStatistics:
    """All numbers, by server and in total. `entries` are those in use, the own servers of scopes included."""
    servers: dict[str, dict[str, Any]] = {}
    for entry in entries:
        _add(servers, entry.name, entry.shared.counts, _state_of(entry))
    for entry in removed.leaving():
        _add(servers, entry.name, entry.shared.counts, {"state": "removed"})
    for name, counts in removed.names.items():
        _add(servers, name, counts, {"state": "removed"})
    total = removed.sum.as_statistics()
    for numbers in servers.values():
        for name, value in numbers.items():
            if name in total:
                total[name] += value
    total.update(peak_in_use=peaks.peak_in_use, peak_tasks_waiting=peaks.peak_waiting)
    return PoolStatistics(**total, servers={name: ServerStatistics(**numbers) for name, numbers in servers.items()})


def _add(servers: dict[str, dict[str, Any]], name: str, counts: Counts, state: dict[str, Any]) -> None:
    numbers = counts.as_statistics()
    known = servers.get(name)
    if known is None:
        servers[name] = {**numbers, **state}
        return
    # A scope may bring a server of a name that the pool has, too.
    for field, value in numbers.items():
        known[field] = max(known[field], value) if field in _PEAKS else known[field] + value


def _state_of(entry: Entry) -> dict[str, Any]:
    health, counts = entry.shared.health, entry.shared.counts
    state: ServerState = "cold"
    if counts.idle or counts.in_use:
        state = "ready"
    elif health.in_backoff:
        state = "backoff"
    elif counts.connecting:
        state = "connecting"
    return {"state": state, "last_error": health.error, "retry_at": health.retry_at}
