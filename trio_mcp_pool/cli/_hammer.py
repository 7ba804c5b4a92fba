"""`check --hammer`: finds tools that go wrong when they are called at once.

The calls are made three times, each time on a session of its own: twice in sequence and once all together. What differs between
the two sequences, such as a time or a process id, is left out of the comparison; what differs then comes from being called at
once. Comparing one sequence with the rest would blame every tool that tells the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import trio
from mcp import MCPError

from .. import HttpServer, Pool, PoolError, PoolPolicy, Server, StdioServer
from ._context import Context
from ._failures import TOOL, Failed
from ._inventory import find_tool
from ._output import plain
from ._targets import Named
from ._values import Values


def _filled(value: Any, run: int, call: int | None = None) -> Any:
    """The value with `{run}` and `{i}` filled in."""
    if isinstance(value, str):
        return (
            value.replace("{run}", str(run))
            if call is None
            else value.replace("{run}", str(run)).replace("{i}", str(call))
        )
    if isinstance(value, Mapping):
        return {name: _filled(part, run, call) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(part, run, call) for part in value]
    return value


def _server_of_run(server: Server, run: int) -> Server:
    """The server with `{run}` filled in, so that each run can have, say, a file of its own."""
    if isinstance(server, StdioServer):
        return replace(server, args=_filled(server.args, run), env=_filled(server.env, run))
    if isinstance(server, HttpServer):
        return replace(server, url=_filled(server.url, run))
    return server


def _parsed(value: Any) -> Any:
    """The value, with JSON inside of texts read."""
    if isinstance(value, dict):
        return {name: _parsed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_parsed(part) for part in value]
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return value.splitlines() if "\n" in value else value
        return inner if isinstance(inner, dict | list) else value
    return value


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _leaves(part, (*path, str(number)))
    else:
        yield path, value


def _noise(one: list[Any], other: list[Any]) -> set[tuple[str, ...]]:
    """Where the answers differ although nothing was at once."""
    found: set[tuple[str, ...]] = set()
    for a, b in zip(one, other, strict=True):
        left, right = dict(_leaves(a)), dict(_leaves(b))
        found.update(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))
    return found


def _text(answer: Any, noise: set[tuple[str, ...]]) -> str:
    return json.dumps(
        [[path, leaf] for path, leaf in _leaves(answer) if path not in noise], sort_keys=True, default=str
    )


def _unordered(value: Any) -> Any:
    """The value with every list in one order."""
    if isinstance(value, dict):
        return {name: _unordered(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted((_unordered(part) for part in value), key=lambda part: json.dumps(part, sort_keys=True))
    return value


async def _answer(scope: Any, server: str, tool: str, arguments: dict[str, Any]) -> Any:
    try:
        result = await scope.call_tool(server, tool, arguments)
    except (PoolError, MCPError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    shown = plain(result)
    shown.pop("_meta", None)
    return _parsed(shown)


class _Run:
    """The answers of one run."""

    def __init__(self, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.after: Any = None

    async def call(self, scope: Any, named: Named, arguments: dict[str, Any], run: int, number: int) -> None:
        filled = _filled(arguments, run, number)
        self.answers[number] = await _answer(scope, named.server, named.name, filled)


async def hammer(context: Context, servers: Mapping[str, Server], named: Named, then: str | None) -> int:
    """Make the calls and compare; gives the exit status."""
    (name, server), count = next(iter(servers.items())), context.options.calls
    server = context.with_policy(server)
    values = Values([*named.rest, *context.options.arg])
    runs: list[_Run] = []
    async with context.pool({name: _server_of_run(server, 0)}) as pool:
        tool = await find_tool(pool, name, named.name)
        arguments = values.fitted(tool.name, tool.input_schema)
        for number, at_once in ((1, False), (2, False), (3, True)):
            runs.append(await _one_run(pool, server, named, arguments, number, count, at_once, then))
    return _compare(context, server, named, runs, bool(then))


async def _one_run(
    pool: Pool,
    server: Server,
    named: Named,
    arguments: dict[str, Any],
    number: int,
    count: int,
    at_once: bool,
    then: str | None,
) -> _Run:
    run = _Run(count)
    async with pool.open_scope(servers={named.server: _server_of_run(server, number)}) as scope:
        if at_once:
            async with trio.open_nursery() as nursery:
                for call in range(count):
                    nursery.start_soon(run.call, scope, named, arguments, number, call)
        else:
            for call in range(count):
                await run.call(scope, named, arguments, number, call)
        if then is not None:
            run.after = await _answer(scope, named.server, then.removeprefix(f"{named.server}."), {})
    return run


def _compare(context: Context, server: Server, named: Named, runs: list[_Run], looked: bool) -> int:
    first, second, at_once = (run.answers for run in runs)
    noise = _noise(first, second)
    expected, got = [_text(answer, noise) for answer in first], [_text(answer, noise) for answer in at_once]
    differing = [call for call, (one, other) in enumerate(zip(expected, got, strict=True)) if one != other]
    only_order = sorted(expected) == sorted(got)
    after = None
    if looked:
        around = _noise([_unordered(runs[0].after)], [_unordered(runs[1].after)])
        after = _text(_unordered(runs[0].after), around) == _text(_unordered(runs[2].after), around)
    wrong = bool(differing and not only_order) or after is False
    row = {
        "tool": f"{named.server}.{named.name}",
        "calls": len(first),
        "differ": len(differing),
        "onlyTheOrder": bool(differing) and only_order,
        "afterwardsTheSame": after,
        "examples": [{"call": call, "inSequence": first[call], "atOnce": at_once[call]} for call in differing[:3]],
    }
    if context.out.is_table:
        _tell(context, row, runs)
    else:
        context.out.json(row)
    if wrong and (server.policy or PoolPolicy()).max_in_flight > 1:
        advice = 'give the server "pool": {"max_in_flight": 1}, or max_in_flight=1 in its PoolPolicy'
        raise Failed(TOOL, f"{row['tool']} goes wrong when it is called at once; {advice}", named.server)
    return TOOL if wrong else 0


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _tell(context: Context, row: dict[str, Any], runs: list[_Run]) -> None:
    out = context.out
    if not row["differ"]:
        out.text(f"{row['tool']}: {row['calls']} calls at once gave the same answers as in sequence")
    elif row["onlyTheOrder"]:
        out.text(f"{row['tool']}: the same answers, but {row['differ']} of {row['calls']} came to other calls")
    else:
        out.text(f"{row['tool']}: {row['differ']} of {row['calls']} answers differ")
    for example in row["examples"]:
        out.text(f"  call {example['call']} in sequence: {_short(example['inSequence'])}")
        out.text(f"  call {example['call']} at once:     {_short(example['atOnce'])}")
    if row["afterwardsTheSame"] is not None:
        out.text(f"afterwards: {'the same' if row['afterwardsTheSame'] else 'different'}")
        if not row["afterwardsTheSame"]:
            out.text(f"  after the sequence: {_short(runs[0].after)}\n  after all at once:  {_short(runs[2].after)}")
