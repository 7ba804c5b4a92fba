"""`check`: dials servers and says how they are, and compares them with a lock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from .. import Server
from . import _failures
from ._context import Context
from ._failures import TOOL, Failed, Usage
from ._hammer import hammer
from ._inventory import Inventory, read_all, worst
from ._list import as_json, state
from ._output import milliseconds, plain
from ._targets import Named
from ._values import read_file


@dataclass(frozen=True)
class Plan:
    """What to check."""

    servers: Mapping[str, Server]
    lock: dict[str, Any] | None = None
    hammer: Named | None = None
    then: str | None = None


def prepare(context: Context) -> Plan:
    """The servers, and the lock."""
    options = context.options
    if options.hammer is not None:
        servers, named = context.targets.one([*options.hammer.split(" "), *options.words])
        return Plan(servers, None, named, options.then)
    lock = None
    if options.lock is not None:
        try:
            lock = json.loads(read_file(options.lock))["servers"]
        except (ValueError, KeyError, TypeError):
            raise Usage(f"{options.lock} is no lock; write one by --write-lock {options.lock}") from None
    return Plan(context.targets.many(options.words), lock)


async def run(context: Context, plan: Plan) -> int:
    """Check; gives the exit status."""
    if plan.hammer is not None:
        return await hammer(context, plan.servers, plan.hammer, plan.then)
    async with context.pool(plan.servers) as pool:
        found = await read_all(pool, list(plan.servers))
    _print(context, found)
    failures = [inventory.failure for inventory in found if inventory.failure is not None]
    for inventory in found:
        if inventory.failure is not None and context.out.is_table:
            context.out.note(f"\n{inventory.server}:")
            _failures.report(inventory.failure, "table")
    status = worst(failures)
    if status and not context.out.is_table:
        _failures.report(failures[0], context.out.format)
    if context.options.write_lock is not None and not status:
        text = json.dumps({"version": 1, "servers": _lock_of(found)}, indent=1, sort_keys=True, ensure_ascii=False)
        await trio.Path(context.options.write_lock).write_text(text + "\n", encoding="utf-8")
    if plan.lock is not None and not status:
        differences = _differences(plan.lock, _lock_of(found))
        for line in differences:
            context.out.note(line)
        if differences:
            raise Failed(TOOL, f"{len(differences)} differences from {context.options.lock}; --write-lock accepts them")
    return status


def _print(context: Context, found: list[Inventory]) -> None:
    out, times = context.out, context.times.seconds
    if not out.is_table:
        rows = [as_json(inventory, times.get(inventory.server)) for inventory in found]
        for row, inventory in zip(rows, found, strict=True):
            for name in ("resources", "resourceTemplates", "prompts"):
                row.pop(name, None)  # they were not asked for
            if inventory.capabilities is not None:
                row["capabilities"] = plain(inventory.capabilities)
            if inventory.failure is None:
                row["tools"] = [tool["name"] for tool in row["tools"]]
        for item in rows if out.format == "ndjson" else [rows]:
            out.json(item)
        return
    out.rows(
        ("SERVER", "STATE", "DIALLED IN", "PROTOCOL", "IMPLEMENTATION", "HAS"),
        [
            (
                inventory.server,
                state(inventory),
                milliseconds(times[inventory.server]) if inventory.server in times else "-",
                inventory.protocol or "-",
                f"{inventory.info.name} {inventory.info.version}" if inventory.info is not None else "-",
                ", ".join(name for name, value in inventory.capabilities if value is not None)
                if inventory.capabilities is not None
                else "-",
            )
            for inventory in found
        ],
    )


def _lock_of(found: list[Inventory]) -> dict[str, Any]:
    """What a lock keeps of each server: its tools as they are, without what a client is not meant to rely on."""
    return {
        inventory.server: {
            tool.name: {name: value for name, value in plain(tool).items() if name not in ("_meta", "icons", "name")}
            for tool in inventory.tools
        }
        for inventory in found
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = [f"{server}: not in the lock" for server in now.keys() - before.keys()]
    for server in sorted(now.keys() & before.keys()):
        old, new = before[server], now[server]
        lines += [f"{server}.{tool}: new" for tool in sorted(new.keys() - old.keys())]
        lines += [f"{server}.{tool}: gone" for tool in sorted(old.keys() - new.keys())]
        for tool in sorted(new.keys() & old.keys()):
            parts = {part for part in {*old[tool], *new[tool]} if old[tool].get(part) != new[tool].get(part)}
            if parts:
                lines.append(f"{server}.{tool}: changed: {', '.join(sorted(parts))}")
    return lines
