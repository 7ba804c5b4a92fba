"""`list`: what servers have, with signatures, and how they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .. import Server
from . import _failures
from ._context import Context
from ._inventory import Inventory, read_all, worst
from ._output import milliseconds, one_line, plain
from ._values import signature


def prepare(context: Context) -> Mapping[str, Server]:
    """The servers to list."""
    return context.targets.many(context.options.words)


def state(inventory: Inventory) -> str:
    """How a server is, in a word or two."""
    return "ready" if inventory.failure is None else _failures._KINDS.get(inventory.failure.code, "failed")


def as_json(inventory: Inventory, seconds: float | None) -> dict[str, Any]:
    """One server for programs; what it has is the protocol's own."""
    row: dict[str, Any] = {"server": inventory.server, "state": state(inventory), "connectSeconds": seconds}
    if inventory.failure is not None:
        return {**row, "error": inventory.failure.message}
    row["protocolVersion"] = inventory.protocol
    row["serverInfo"] = plain(inventory.info) if inventory.info is not None else None
    for name, items in (
        ("tools", inventory.tools),
        ("resources", inventory.resources),
        ("resourceTemplates", inventory.templates),
        ("prompts", inventory.prompts),
    ):
        row[name] = [plain(item) for item in items]
    return row


def _rows(inventory: Inventory) -> list[tuple[str, str, str]]:
    server = inventory.server
    rows = [(server, signature(tool.name, tool.input_schema), one_line(tool.description)) for tool in inventory.tools]
    rows += [(server, str(item.uri), one_line(item.description or item.name)) for item in inventory.resources]
    rows += [(server, item.uri_template, one_line(item.description or item.name)) for item in inventory.templates]
    for prompt in inventory.prompts:
        arguments = ", ".join(a.name + ("" if a.required else "?") for a in prompt.arguments or ())
        rows.append((server, f"{prompt.name}({arguments}) [prompt]", one_line(prompt.description)))
    return rows


async def run(context: Context, servers: Mapping[str, Server]) -> int:
    """List; gives the exit status."""
    options, out = context.options, context.out
    async with context.pool(servers) as pool:
        found = await read_all(pool, list(servers), resources=options.resources, prompts=options.prompts)
        if out.format == "json":
            out.json([as_json(inventory, context.times.seconds.get(inventory.server)) for inventory in found])
        elif out.format == "ndjson":
            for inventory in found:
                out.json(as_json(inventory, context.times.seconds.get(inventory.server)))
        else:
            _print_table(context, found)
    for inventory in found:
        if inventory.failure is not None and out.is_table:
            _failures.report(inventory.failure, out.format)
    status = worst([inventory.failure for inventory in found if inventory.failure is not None])
    if status and not out.is_table:
        first = next(inventory.failure for inventory in found if inventory.failure is not None)
        _failures.report(first, out.format)
    return status


def _print_table(context: Context, found: list[Inventory]) -> None:
    out = context.out
    heads = ("SERVER", "STATE", "CONNECTED IN", "PROTOCOL", "TOOLS")
    out.rows(
        heads,
        [
            (
                inventory.server,
                state(inventory),
                milliseconds(seconds) if (seconds := context.times.seconds.get(inventory.server)) is not None else "-",
                inventory.protocol or "-",
                "-" if inventory.failure else str(len(inventory.tools)),
            )
            for inventory in found
        ],
    )
    rows = [row for inventory in found for row in _rows(inventory)]
    if rows:
        out.text("")
        out.rows(("SERVER", "TOOL" if not context.options.resources else "NAME", "DESCRIPTION"), rows)
    if context.options.schema:
        for inventory in found:
            for tool in inventory.tools:
                out.text(f"\n{inventory.server}.{tool.name}")
                out.text(json.dumps(tool.input_schema, indent=2, ensure_ascii=False))
