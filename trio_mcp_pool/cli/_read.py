"""`read`, `prompt` and `complete`: the other verbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mcp_types as types

from .. import Pool, Server
from ._call import content_text
from ._context import Context
from ._failures import Usage
from ._inventory import find_prompt
from ._output import plain
from ._targets import Named


@dataclass(frozen=True)
class Plan:
    """What to ask for."""

    servers: Mapping[str, Server]
    named: Named
    values: dict[str, str]


def prepare(context: Context) -> Plan:
    """The server, the name or URI, and the arguments."""
    what = {"read": "uri", "prompt": "prompt", "complete": "prompt"}[context.options.command]
    servers, named = context.targets.one(context.options.words, what)
    values: dict[str, str] = {}
    for word in named.rest:
        name, equals, value = word.partition("=")
        if not equals or context.options.command == "read":
            raise Usage(
                f"{word!r} is one word too many" if context.options.command == "read" else f"{word!r} is no name=value"
            )
        values[name] = value
    if context.options.command == "complete" and len(values) < 1:
        raise Usage("write NAME=START: the argument to complete and what was typed so far")
    return Plan(servers, named, values)


async def run(context: Context, plan: Plan) -> int:
    """Ask; gives the exit status."""
    async with context.pool(plan.servers) as pool:
        await {"read": _read, "prompt": _prompt, "complete": _complete}[context.options.command](context, pool, plan)
    return 0


async def _read(context: Context, pool: Pool, plan: Plan) -> None:
    result = await pool.read_resource(plan.named.server, plan.named.name)
    if not context.out.is_table:
        context.out.json(plain(result))
        return
    for part in result.contents:
        text = getattr(part, "text", None)
        blob = getattr(part, "blob", "")
        context.out.text(text if text is not None else f"[{part.mime_type or 'data'}, {len(blob) * 3 // 4} bytes]")


async def _prompt(context: Context, pool: Pool, plan: Plan) -> None:
    server, name = plan.named.server, plan.named.name
    found = await find_prompt(pool, server, name)
    missing = [a.name for a in found.arguments or () if a.required and a.name not in plan.values]
    if missing:
        raise Usage(f"the prompt {name!r} needs {', '.join(map(repr, missing))}")
    result = await pool.get_prompt(server, name, plan.values)
    if not context.out.is_table:
        context.out.json(plain(result))
        return
    for message in result.messages:
        context.out.text(f"{message.role}: {content_text(message.content)}")


async def _complete(context: Context, pool: Pool, plan: Plan) -> None:
    (*before, (argument, start)) = plan.values.items()
    name = plan.named.name
    ref: types.PromptReference | types.ResourceTemplateReference
    if ":" in name:
        ref = types.ResourceTemplateReference(type="ref/resource", uri=name)
    else:
        ref = types.PromptReference(type="ref/prompt", name=name)
    result = await pool.complete(
        plan.named.server, ref, {"name": argument, "value": start}, context_arguments=dict(before) or None
    )
    if not context.out.is_table:
        context.out.json(plain(result))
        return
    for value in result.completion.values:
        context.out.text(value)
