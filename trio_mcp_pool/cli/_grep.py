"""`grep`: a search over the names and descriptions of everything that servers have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import Server
from . import _failures
from ._context import Context
from ._failures import Usage
from ._inventory import Inventory, read_all, worst
from ._output import one_line, plain


@dataclass(frozen=True)
class Plan:
    """What to search."""

    servers: Mapping[str, Server]
    pattern: re.Pattern[str]


def prepare(context: Context) -> Plan:
    """The servers and the pattern."""
    text = context.options.pattern
    try:
        # As ripgrep's smart case: a pattern with a capital in it means it.
        pattern = re.compile(text, 0 if re.search(r"[A-Z]", text) else re.IGNORECASE)
    except re.error as error:
        raise Usage(f"the pattern is no regular expression: {error}") from None
    return Plan(context.targets.many(context.options.words), pattern)


def _items(inventory: Inventory) -> Iterator[tuple[str, str, Any]]:
    for tool in inventory.tools:
        yield "tool", tool.name, tool
    for resource in inventory.resources:
        yield "resource", str(resource.uri), resource
    for template in inventory.templates:
        yield "template", template.uri_template, template
    for prompt in inventory.prompts:
        yield "prompt", prompt.name, prompt


async def run(context: Context, plan: Plan) -> int:
    """Search; gives the exit status: 1 where nothing was found, as grep does."""
    async with context.pool(plan.servers) as pool:
        found = await read_all(pool, list(plan.servers), resources=True, prompts=True)
    hits = [
        (inventory.server, kind, name, item)
        for inventory in found
        for kind, name, item in _items(inventory)
        if any(plan.pattern.search(text) for text in (name, item.title or "", item.description or ""))
    ]
    if context.out.is_table:
        if hits:
            rows = [(server, kind, name, one_line(item.description)) for server, kind, name, item in hits]
            context.out.rows(("SERVER", "KIND", "NAME", "DESCRIPTION"), rows)
    else:
        lines = [{"server": server, "kind": kind, **plain(item)} for server, kind, _, item in hits]
        for line in lines if context.out.format == "ndjson" else [lines]:
            context.out.json(line)
    failures = [inventory.failure for inventory in found if inventory.failure is not None]
    for failure in failures:
        _failures.report(failure, context.out.format)
    return worst(failures) or (0 if hits else 1)
