"""`python -m benchmarks.floods`: what a server that sends too much costs its client. The floods of docs/benchmarks.md.

Each flood meets the pool and `mcp.Client`, each in a process of its own, because memory that was taken once is seldom given
back. Meanwhile a ticker asks to be woken every millisecond, and another call is made on the same session. Told are the worst
lateness of the ticker, the growth of the process's peak memory, how long the other call took, and what became of the
flooding one. Linux only.

Ends with 1 if the pool is late by more than 50 ms or takes more than four times `max_message`.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import mcp
import trio
from mcp.client.stdio import StdioServerParameters

from trio_mcp_pool import Callbacks, HttpServer, Server, StdioServer, open_pool

from . import report

FLOODS = {
    "stdio": ("notifications", "requests", "progress", "stderr", "long line", "many values"),
    "http": ("notifications", "endless body", "one-byte chunks", "gzip bomb", "long body", "long event", "many values"),
}
CONTENDERS = ("pool", "mcp.Client")
COMMAND = [sys.executable, "-m", "benchmarks.flood_server", "stdio"]
LIMIT = 64 * 2**20
"""`max_message` by default, in bytes."""
MOST_LATE = 0.050
MOST_MEMORY = 4 * LIMIT
_PATIENCE = 60
"""Seconds that one contender has for one flood."""
_MEMORY = 8 * 2**30
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

Call = Callable[..., Awaitable[Any]]


async def look(*_: Any) -> None:
    """A callback that does little."""
    await trio.lowlevel.checkpoint()


async def never(*_: Any) -> None:
    """A callback that blocks."""
    await trio.sleep_forever()


@asynccontextmanager
async def connected(wire: str, contender: str, url: str) -> AsyncIterator[Call]:
    """A function that calls a tool."""
    if contender == "pool":
        server: Server = StdioServer(COMMAND[0], COMMAND[1:]) if wire == "stdio" else HttpServer(url, mode="legacy")
        async with open_pool({"s": server}, callbacks=Callbacks(log=look)) as pool:

            async def call(name: str, arguments: dict[str, Any], **options: Any) -> Any:
                return await pool.call_tool("s", name, arguments, **options)

            yield call
    else:
        told: Any = look
        target: Any = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:]) if wire == "stdio" else url
        async with mcp.Client(target, mode="legacy", logging_callback=told) as client:
            yield client.call_tool


def peak() -> int:
    """The most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def measure(wire: str, contender: str, kind: str, url: str) -> dict[str, Any]:
    """One flood against one contender."""
    found: dict[str, Any] = {"late": 0.0, "call": None, "outcome": "no end"}

    async def tick() -> None:
        while True:
            asked = time.perf_counter()
            await trio.sleep(0.001)
            found["late"] = max(found["late"], time.perf_counter() - asked - 0.001)

    async def other_call(call: Call) -> None:
        await trio.sleep(0.2)
        began = time.perf_counter()
        await call("echo", {})
        found["call"] = time.perf_counter() - began

    async def flooding_call(call: Call) -> None:
        options = {"progress_callback": never} if kind == "progress" else {}
        try:
            await call("flood", {"kind": kind}, **options)
            found["outcome"] = "result"
        except Exception as exc:
            found["outcome"] = type(exc).__name__

    with trio.move_on_after(_PATIENCE / 2):
        async with connected(wire, contender, url) as call, trio.open_nursery() as nursery:
            await call("echo", {})
            nursery.start_soon(tick)
            await trio.sleep(0.1)
            found["late"], before = 0.0, peak()
            async with trio.open_nursery() as calls:
                calls.start_soon(flooding_call, call)
                calls.start_soon(other_call, call)
            found["memory"] = peak() - before
            nursery.cancel_scope.cancel()
    return found


def one(wire: str, contender: str, kind: str) -> None:
    """In a process of its own: measure, and print the findings."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    url, server = "", None
    if wire == "http":
        server = subprocess.Popen([*COMMAND[:-1], "http"], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"
    # A full collection of garbage takes as long as all that was imported is large, whatever the client does.
    gc.collect()
    gc.freeze()
    try:
        print(json.dumps(trio.run(measure, wire, contender, kind, url)))
    finally:
        if server is not None:
            server.kill()
            server.wait()


def run(wire: str, contender: str, kind: str) -> dict[str, Any]:
    """The findings of one flood against one contender."""
    command = [sys.executable, "-m", "benchmarks.floods", "--one", wire, contender, kind]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=_PATIENCE, check=False
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"outcome": "no end"}
    except json.JSONDecodeError:
        return {"outcome": f"the process ended with {done.returncode}"}


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure, and what became of the call in the last round."""
    numbers = {name: [r[name] for r in rounds if r.get(name) is not None] for name in ("late", "memory", "call")}
    return {name: median(values) if values else None for name, values in numbers.items()} | {
        "outcome": rounds[-1]["outcome"]
    }


HEADINGS = ("flood", "contender", "latest tick", "memory", "another call", "the flooding call", "verdict")


def cells(wire: str, kind: str, contender: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    late, memory, call = found["late"], found["memory"], found["call"]
    verdict = "for comparison" if contender != "pool" else "holds" if holds(found) else "LOSES"
    return (
        f"{wire}: {kind}",
        contender,
        "-" if late is None else report.span(late),
        "-" if memory is None else f"{memory / 2**20:.0f} MiB",
        "no answer" if call is None else report.span(call),
        found["outcome"],
        verdict,
    )


def holds(found: dict[str, Any]) -> bool:
    """Whether the pool keeps its promise."""
    if found["late"] is None or found["memory"] is None or found["call"] is None:
        return False
    return bool(found["late"] <= MOST_LATE and found["memory"] <= MOST_MEMORY)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floods", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each flood (default: 3)")
    parser.add_argument("--only", action="append", help="only floods whose name holds this word; may be repeated")
    parser.add_argument("--page", action="store_true", help="replace the figures in docs/benchmarks.md")
    parser.add_argument("--one", nargs=3, metavar=("WIRE", "CONTENDER", "FLOOD"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one:
        one(*options.one)
        return 0
    lines, kept = [], True
    for wire, kinds in FLOODS.items():
        for kind in kinds:
            if options.only and not any(word in f"{wire}: {kind}" for word in options.only):
                continue
            rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
            for _ in range(options.rounds):
                for contender in CONTENDERS:
                    rounds[contender].append(run(wire, contender, kind))
            for contender, samples in rounds.items():
                found = middle(samples)
                kept = kept and (contender != "pool" or holds(found))
                lines.append(cells(wire, kind, contender, found))
                print("  ".join(lines[-1]), flush=True)
    if options.page:
        rows = ["| " + " | ".join(line) + " |" for line in (HEADINGS, ("---",) * len(HEADINGS), *lines)]
        report.write_page(PAGE, "floods", "\n".join(rows) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
