"""`python -m benchmarks.fleet`: a seeded simulation of many Temporal workers with a pool each.

What one worker does comes from measurements (`benchmarks.capacity`, `benchmarks.temporal_calls`); what many do together is
simulated, because nobody here has a thousand machines. Calls arrive at random at a shared queue, and any worker with a free
slot takes the next. Servers differ in popularity, scopes in length, and workers die. It is a model: no network, no slow disk, a
Temporal service that keeps up.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

HEARTBEAT = 5.0
"""Seconds after which a lost worker is noticed."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """One setting."""

    workers: int
    seconds: float = 120.0
    calls_per_worker: float = 8.0
    """Calls per second that arrive, for each worker."""
    slots: int = 100
    """Activities that a worker runs at a time (Temporal's default)."""
    servers: int = 20
    hot: float = 1.0
    """How uneven the servers' popularity is: the exponent of Zipf's law, 0 for even."""
    tool_seconds: float = 0.3
    slow_share: float = 0.02
    """Share of calls that take fifty times as long."""
    scopes_per_worker: float = 0.08
    """Scopes per second that are opened, for each worker."""
    scope_seconds: float = 30.0
    """Median length of a scope; the lengths are log-normal with a sigma of 1.2."""
    max_scopes: int = 10
    lives: float = 3_600.0
    """Mean seconds until a worker dies."""
    down: float = 15.0
    """Seconds until it is back."""
    dial: float = 0.3
    """Seconds to start a stdio server on a worker that has no session of it."""
    in_flight: int = 64
    """Calls that one server carries at a time on one worker: `max_sessions * max_in_flight`."""


@dataclass
class Worker:
    """One worker process."""

    life: int = 0
    up: bool = True
    running: int = 0
    scopes: int = 0
    sessions: set[int] = field(default_factory=set)
    busy: dict[int, int] = field(default_factory=dict)
    """Calls that run, by server."""
    queued: dict[int, deque[tuple[float, float]]] = field(default_factory=dict)
    """Calls that hold a slot and wait for a session, by server: when they arrived, and how long they will take."""


@dataclass
class Seen:
    """What happened."""

    calls: int = 0
    waits: list[float] = field(default_factory=list)
    scope_waits: list[float] = field(default_factory=list)
    unknown: int = 0
    scopes_lost: int = 0
    scopes: int = 0
    deaths: int = 0
    shared_sessions: int = 0
    scope_sessions: int = 0
    most_in_worker: int = 0
    most_queued: int = 0


Kind = Literal["call", "end", "scope", "close", "death", "back", "look"]


def simulate(fleet: Fleet, seed: int) -> Seen:
    """Play one setting."""
    chance = random.Random(seed)
    workers = [Worker() for _ in range(fleet.workers)]
    popularity = [1 / (rank + 1) ** fleet.hot for rank in range(fleet.servers)]
    seen, number = Seen(), 0
    heap: list[tuple[float, int, Kind, int, int, int]] = []
    calls: deque[float] = deque()
    scopes: deque[float] = deque()
    # Which workers may have room; those that have none any more are skipped.
    free, free_scopes = list(range(fleet.workers)), list(range(fleet.workers))

    def at(when: float, kind: Kind, worker: int = -1, life: int = 0, server: int = -1) -> None:
        nonlocal number
        number += 1
        heapq.heappush(heap, (when, number, kind, worker, life, server))

    def find(candidates: list[int], room: int, what: str) -> int | None:
        while candidates:
            index = chance.randrange(len(candidates))
            worker = workers[candidates[index]]
            if worker.up and getattr(worker, what) < room:
                return candidates[index]
            candidates[index] = candidates[-1]
            candidates.pop()
        return None

    def give_calls(now: float) -> None:
        while calls:
            index = find(free, fleet.slots, "running")
            if index is None:
                return
            worker, arrived = workers[index], calls.popleft()
            server = chance.choices(range(fleet.servers), popularity)[0]
            took = chance.expovariate(1 / fleet.tool_seconds) * (50 if chance.random() < fleet.slow_share else 1)
            if server not in worker.sessions:
                worker.sessions.add(server)
                took += fleet.dial
            worker.running += 1
            if worker.busy.get(server, 0) < fleet.in_flight:
                begin(now, index, server, arrived, took)
            else:
                worker.queued.setdefault(server, deque()).append((arrived, took))

    def begin(now: float, index: int, server: int, arrived: float, took: float) -> None:
        worker = workers[index]
        worker.busy[server] = worker.busy.get(server, 0) + 1
        seen.waits.append(now - arrived)
        at(now + took, "end", index, worker.life, server)

    def give_scopes(now: float) -> None:
        while scopes:
            index = find(free_scopes, fleet.max_scopes, "scopes")
            if index is None:
                return
            worker, arrived = workers[index], scopes.popleft()
            worker.scopes += 1
            seen.scopes += 1
            seen.scope_waits.append(now - arrived)
            at(now + fleet.dial + fleet.scope_seconds * chance.lognormvariate(0, 1.2), "close", index, worker.life)

    at(0, "call")
    at(0, "scope")
    at(fleet.seconds * 0.9, "look")
    for index in range(fleet.workers):
        at(chance.expovariate(1 / fleet.lives), "death", index)
    while heap:
        now, _, kind, index, life, server = heapq.heappop(heap)
        if now > fleet.seconds:
            break
        worker = workers[index]
        if kind == "call":
            seen.calls += 1
            calls.append(now)
            at(now + chance.expovariate(fleet.calls_per_worker * fleet.workers), "call")
        elif kind == "scope":
            scopes.append(now)
            at(now + chance.expovariate(fleet.scopes_per_worker * fleet.workers), "scope")
        elif kind == "end" and life == worker.life:
            worker.running -= 1
            worker.busy[server] -= 1
            if worker.queued.get(server):
                begin(now, index, server, *worker.queued[server].popleft())
            if worker.running == fleet.slots - 1:
                free.append(index)
        elif kind == "close" and life == worker.life:
            worker.scopes -= 1
            if worker.scopes == fleet.max_scopes - 1:
                free_scopes.append(index)
        elif kind == "death":
            seen.deaths += 1
            seen.unknown += worker.running
            seen.scopes_lost += worker.scopes
            workers[index] = Worker(life=worker.life + 1, up=False)
            at(now + fleet.down, "back", index)
            at(now + fleet.down + chance.expovariate(1 / fleet.lives), "death", index)
        elif kind == "back":
            worker.up = True
            free.append(index)
            free_scopes.append(index)
        elif kind == "look":
            seen.shared_sessions = sum(len(one.sessions) for one in workers)
            seen.scope_sessions = sum(one.scopes for one in workers)
        give_calls(now)
        give_scopes(now)
        seen.most_queued = max(seen.most_queued, len(calls))
    seen.most_in_worker = max(len(one.sessions) + one.scopes for one in workers)
    # Whoever still waits has waited at least until now.
    seen.waits += [fleet.seconds - arrived for arrived in calls]
    seen.waits += [fleet.seconds - arrived for one in workers for line in one.queued.values() for arrived, _ in line]
    seen.scope_waits += [fleet.seconds - arrived for arrived in scopes]
    return seen


def percentile(values: list[float], share: float) -> float:
    """Such as 0.99 for the wait that one of a hundred exceeds."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000, method="inclusive")[min(998, int(share * 1000) - 1)]


SETTINGS: dict[str, dict[str, float]] = {
    "as it is": {},
    "a death each 5 min": {"lives": 300.0},
    "5 slots": {"slots": 5},
    "one call at a time per server": {"in_flight": 1},
    "the same, even servers": {"in_flight": 1, "hot": 0.0},
    "scopes four times as many": {"scopes_per_worker": 0.32},
}


def table(sizes: list[int], seconds: float, seed: int) -> str:
    """All settings, as Markdown."""
    lines = [
        "| workers | setting | calls per second | a call waits, 99 % | a scope waits, 99 % | shared sessions | scopes "
        "| most in one worker | outcome unknown | scopes lost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        for name, change in SETTINGS.items():
            fleet = Fleet(workers=size, seconds=seconds, **change)  # type: ignore[arg-type]
            seen = simulate(fleet, seed)
            lines.append(
                f"| {size:,} | {name} | {seen.calls / seconds:,.0f} | {percentile(seen.waits, 0.99):.2f} s "
                f"| {percentile(seen.scope_waits, 0.99):.1f} s | {seen.shared_sessions:,} | {seen.scope_sessions:,} "
                f"| {seen.most_in_worker} | {seen.unknown / max(seen.calls, 1):.3%} "
                f"| {seen.scopes_lost / max(seen.scopes, 1):.2%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(table(options.workers, options.seconds, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
