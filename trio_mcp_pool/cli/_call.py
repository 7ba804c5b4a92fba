"""`call`: one call of a tool, or one for each line of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio
from mcp import MCPError

from .. import Pool, PoolError, Server
from ._context import Context
from ._failures import TOOL, Failed, Usage, explain
from ._inventory import find_tool
from ._output import Output, plain
from ._progress import bar
from ._targets import Named
from ._values import Values, json_object, read_file


@dataclass(frozen=True)
class Plan:
    """What to call."""

    servers: Mapping[str, Server]
    named: Named
    values: Values
    lines: list[dict[str, Any]] | None


def prepare(context: Context) -> Plan:
    """The tool and its arguments."""
    options = context.options
    servers, named = context.targets.one(options.words)
    values = Values(named.rest, getattr(options, "json_arguments", None))
    lines = None
    if getattr(options, "each", None) is not None:
        text = read_file(options.each)
        lines = [
            json_object(line, f"line {number} of {options.each}")
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    return Plan(servers, named, values, lines)


def as_text(result: Any) -> str:
    """What a result says, for people."""
    return "\n".join(content_text(block) for block in result.content) or (
        json.dumps(result.structured_content, indent=2, ensure_ascii=False)
        if result.structured_content is not None
        else ""
    )


def content_text(block: Any) -> str:
    """One block of content, for people: its text, or a word about what cannot be shown."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":
        inner = block.resource
        return str(getattr(inner, "text", None) or f"[{inner.mime_type or 'data'}, {inner.uri}]")
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    return f"[{block.type} {getattr(block, 'mime_type', '')}, {len(getattr(block, 'data', '')) * 3 // 4} bytes]"


def show(out: Output, result: Any, server: str, tool: str) -> None:
    """Print a result. Raises `Failed` if the tool said that it failed."""
    if not out.is_table:
        out.json(plain(result))
    elif not result.is_error:
        out.text(as_text(result))
    if result.is_error:
        message = as_text(result) if out.is_table else ""
        raise Failed(TOOL, f"the tool {tool!r} of server {server!r} failed{': ' if message else ''}{message}", server)


async def run(context: Context, plan: Plan) -> int:
    """Call; gives the exit status."""
    named = plan.named
    async with context.pool(plan.servers) as pool:
        tool = await find_tool(pool, named.server, named.name)
        if plan.lines is not None:
            return await _each(context, pool, plan, tool)
        arguments = plan.values.fitted(tool.name, tool.input_schema)
        with bar(context.shows_progress) as shown:
            progress = None if shown is None else shown.update
            result = await pool.call_tool(named.server, named.name, arguments, progress_callback=progress)
        show(context.out, result, named.server, named.name)
    return 0


async def _each(context: Context, pool: Pool, plan: Plan, tool: Any) -> int:
    """One call for each line, some at a time; the answers come out in the order of the lines."""
    lines, out, named = plan.lines or [], context.out, plan.named
    arguments = []
    for number, line in enumerate(lines, 1):
        try:
            arguments.append(plan.values.fitted(tool.name, tool.input_schema, line))
        except Usage as error:
            raise Usage(f"line {number}: {error}") from None
    answers: dict[int, dict[str, Any]] = {}
    failed = done = printed = 0
    limit = trio.CapacityLimiter(context.options.jobs)

    async def one(number: int) -> None:
        nonlocal failed, done, printed
        async with limit:
            try:
                result = await pool.call_tool(named.server, named.name, arguments[number])
            except (PoolError, MCPError) as error:
                failure = explain(error)
                answers[number] = {"line": number + 1, "error": json.loads(failure.as_json())["error"]}
                failed = min(failed or failure.code, failure.code)
            else:
                answers[number] = {"line": number + 1, "result": plain(result)}
                if result.is_error:
                    failed = failed or TOOL
                if out.is_table:
                    answers[number]["text"] = as_text(result)
        done += 1
        if shown is not None:
            await shown.update(done, len(lines), f"{done} of {len(lines)}")
        while printed in answers:
            _print_answer(out, answers.pop(printed))
            printed += 1

    with bar(context.shows_progress) as shown:
        async with trio.open_nursery() as nursery:
            for number in range(len(lines)):
                nursery.start_soon(one, number)
    return failed


def _print_answer(out: Output, answer: dict[str, Any]) -> None:
    text = answer.pop("text", None)
    if out.is_table:
        error = answer.get("error")
        if error is not None:
            out.note(f"line {answer['line']}: {error['message']}")
        elif answer["result"].get("isError"):
            out.note(f"line {answer['line']}: {text}")
        else:
            out.text(text or "")
    else:
        Output("ndjson").json(answer)
