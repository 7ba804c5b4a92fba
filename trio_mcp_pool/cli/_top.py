"""`top`: the pool under a load, as it goes."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from .. import Event, Pool, Server, SessionClosed, SessionOpened
from . import _failures
from ._context import Context, duration
from ._failures import Usage
from ._inventory import find_tool
from ._load import Load
from ._output import Output, milliseconds
from ._targets import Named
from ._values import Values, read_file

HEADS = ("SERVER", "STATE", "SESSIONS", "IN USE", "LEASES", "WAITING", "DIALS", "LOST", "MEMORY")


@dataclass(frozen=True)
class Plan:
    """What to call, and how often to look."""

    servers: Mapping[str, Server]
    calls: list[tuple[Named, Values]]
    seconds: float
    every: float


def prepare(context: Context) -> Plan:
    """The calls: one tool's, or those of a script."""
    options = context.options
    lines = [options.words]
    if options.script is not None:
        words = (shlex.split(line, comments=True) for line in read_file(options.script).splitlines())
        lines = [line[1:] if line[0] == "call" else line for line in words if line]
        if options.words or not lines:
            raise Usage("a script takes the place of the tool, and needs a line at least")
    servers: dict[str, Server] = {}
    calls = []
    for line in lines:
        found, named = context.targets.one(line)
        servers.update(found)
        calls.append((named, Values(named.rest, options.json_arguments)))
    every = duration(options.every, 0.5, "--every")
    if every < 0.02:
        raise Usage("--every must be at least 20ms")
    return Plan(servers, calls, duration(options.duration, 10, "--duration"), every)


class Processes:
    """An observer that knows which processes belong to which server."""

    def __init__(self) -> None:
        self.pids: dict[tuple[str, int], int] = {}

    def event(self, e: Event) -> None:
        """Keep the processes that live."""
        if isinstance(e, SessionOpened) and e.pid is not None:
            self.pids[e.server, e.connection] = e.pid
        elif isinstance(e, SessionClosed):
            self.pids.pop((e.server, e.connection), None)

    def memory(self, server: str) -> int | None:
        """The resident memory of a server's processes, in bytes; `None` where it cannot be known."""
        found = [_resident(pid) for (name, _), pid in self.pids.items() if name == server]
        known = [size for size in found if size is not None]
        return sum(known) if known else None


def _resident(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None  # ended meanwhile, or no Linux


async def run(context: Context, plan: Plan) -> int:
    """Load and look; gives the exit status."""
    processes = Processes()
    load = Load(context.options.concurrency)
    async with context.new_pool(plan.servers, processes) as pool:
        turn = itertools.cycle(await _ready_calls(pool, plan))

        async def call() -> bool:
            named, arguments = next(turn)
            return not (await pool.call_tool(named.server, named.name, arguments)).is_error

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look, context, pool, processes, load, plan.every, began)
            await load.run(call, plan.seconds)
            nursery.cancel_scope.cancel(reason="the load has ended")
        _show(context, pool, processes, load, began)
    return 0 if load.failure is None else _failures.report(load.failure, context.out.format)


async def _ready_calls(pool: Pool, plan: Plan) -> list[tuple[Named, dict[str, Any]]]:
    ready = []
    for named, values in plan.calls:
        tool = await find_tool(pool, named.server, named.name)
        ready.append((named, values.fitted(tool.name, tool.input_schema)))
    return ready


async def _look(context: Context, pool: Pool, processes: Processes, load: Load, every: float, began: float) -> None:
    while True:
        _show(context, pool, processes, load, began)
        await trio.sleep(every)


def _show(context: Context, pool: Pool, processes: Processes, load: Load, began: float) -> None:
    seconds = time.perf_counter() - began
    statistics = pool.statistics()
    snapshot = [
        {
            "server": name,
            "state": s.state,
            "sessions": s.size,
            "inUse": s.sessions_in_use,
            "leases": s.leases_in_flight,
            "waiting": s.tasks_waiting_acquire,
            "dials": s.connects + s.connects_failed,
            "lost": s.sessions_lost,
            "memory": processes.memory(name),
        }
        for name, s in statistics.servers.items()
    ]
    if not context.out.is_table:
        Output("ndjson").json(
            {"seconds": round(seconds, 3), "calls": len(load.times), "errors": load.errors, "servers": snapshot}
        )
        return
    rows = [
        [*(str(value) for key, value in row.items() if key != "memory"), _megabytes(row["memory"])] for row in snapshot
    ]
    recent = load.times[-1000:]
    mean = milliseconds(sum(recent) / len(recent)) if recent else "-"
    head = f"{seconds:6.1f} s  {len(load.times)} calls  {load.errors} errors  mean of the last {len(recent)}: {mean}"
    if sys.stdout.isatty():
        # Home, and clear what is below: the screen is drawn over itself.
        sys.stdout.write("\x1b[H\x1b[J")
    context.out.text(head)
    context.out.rows(HEADS, rows)


def _megabytes(size: Any) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"
