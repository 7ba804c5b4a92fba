"""`python -m benchmarks.peer_trials`: what client layers do when a server dies or does not start, beside the pool.

Each contender is used as its documentation says, with its defaults, in the environment that `benchmarks.peers` makes for it, on
a server that is a child process. Nothing is timed. `--page FILE` replaces the table in a page.

Run with a contender's name, this file is the contender: it makes the trials and prints what happened as JSON. As such it
imports nothing of this package.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]
TRIALS = {
    "idle": "killed while idle: the next three calls",
    "busy": "killed under ten calls: these",
    "after": "and the next call",
    "start": "it ends at once: the error",
    "reason": "which says what it wrote to stderr",
}
FAILING = [sys.executable, "-c", "import sys; sys.exit('KEY is not set')"]


# The contenders: each gives a function that calls a tool.


@asynccontextmanager
async def pool(command: list[str]) -> AsyncIterator[Call]:
    """This project, on Trio."""
    from trio_mcp_pool import StdioServer, open_pool

    async with open_pool({"server": StdioServer(command[0], command[1:])}) as pool:
        yield lambda tool, arguments: pool.call_tool("server", tool, arguments)


@asynccontextmanager
async def client(command: list[str]) -> AsyncIterator[Call]:
    """The SDK's client, on Trio."""
    import mcp
    from mcp.client.stdio import StdioServerParameters

    async with mcp.Client(StdioServerParameters(command=command[0], args=command[1:])) as client:
        yield client.call_tool


@asynccontextmanager
async def fastmcp(command: list[str]) -> AsyncIterator[Call]:
    """FastMCP's client."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    async with Client(StdioTransport(command[0], command[1:])) as client:
        yield client.call_tool


@asynccontextmanager
async def openai_agents(command: list[str]) -> AsyncIterator[Call]:
    """The OpenAI Agents SDK's server object."""
    from agents.mcp import MCPServerStdio

    params: Any = {"command": command[0], "args": command[1:]}
    async with MCPServerStdio(params) as server:
        yield server.call_tool


@asynccontextmanager
async def mcp_pool(command: list[str]) -> AsyncIterator[Call]:
    """The other pool."""
    from mcpool import MCPPool, PoolConfig

    config = PoolConfig(endpoint=command[0], transport="stdio", stdio_args=command[1:])
    async with MCPPool(config=config) as pool:
        yield lambda tool, arguments: pool.call_tool(tool, arguments=arguments)


@asynccontextmanager
async def langchain(command: list[str]) -> AsyncIterator[Call]:
    """LangChain's adapters."""
    from langchain_mcp_adapters.client import MultiServerMCPClient

    connection: Any = {"transport": "stdio", "command": command[0], "args": command[1:]}
    tools = {tool.name: tool for tool in await MultiServerMCPClient({"server": connection}).get_tools()}
    yield lambda tool, arguments: tools[tool].ainvoke(arguments)


CONTENDERS: dict[str, Any] = {
    "trio_mcp_pool": pool,
    "mcp.Client": client,
    "fastmcp": fastmcp,
    "openai-agents": openai_agents,
    "mcp-pool": mcp_pool,
    "langchain-mcp-adapters": langchain,
}
ON_TRIO = ("trio_mcp_pool", "mcp.Client")


def kill_children() -> None:
    """Kill what this process has started, as a crash does."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = entry.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            os.kill(int(entry.parent.name), signal.SIGKILL)


async def outcome(awaitable: Awaitable[Any], patience: float = 15) -> str:
    """What came of a call, in a word."""
    import anyio

    with anyio.move_on_after(patience):
        try:
            await awaitable
        except Exception as exc:
            return name_of(exc)
        return "works"
    return f"nothing for {patience:g} s"


def name_of(exc: BaseException) -> str:
    """The type of an error, or of what a group of errors holds."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return type(exc).__name__


def summary(found: list[str]) -> str:
    """The outcomes of several calls; each kind once, the most frequent first."""
    return ", ".join(sorted(set(found), key=found.count, reverse=True))


async def trials(name: str, notebook: list[str]) -> dict[str, str]:
    """All trials of one contender."""
    import anyio

    found: dict[str, str] = {}
    opened = CONTENDERS[name]
    async with opened(notebook) as call:
        await call("echo", {"text": "x"})
        kill_children()
        await anyio.sleep(0.5)
        found["idle"] = summary([await outcome(call("echo", {"text": "x"})) for _ in range(3)])
    async with opened(notebook) as call:
        await call("echo", {"text": "x"})
        busy: list[str] = []

        async def ask() -> None:
            busy.append(await outcome(call("look_up", {"text": "x", "seconds": 10})))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask)
            await anyio.sleep(2)
            kill_children()
        found["busy"] = summary(busy)
        found["after"] = await outcome(call("echo", {"text": "x"}))
    try:
        with anyio.fail_after(30):
            async with opened(FAILING) as call:
                await call("echo", {"text": "x"})
    except BaseException as exc:
        found["start"] = name_of(exc)
        found["reason"] = "yes" if "KEY is not set" in repr(exc) + str(exc) else "no"
    return found


def contend(name: str, notebook: list[str]) -> None:
    """Be one contender."""
    runner = importlib.import_module("trio" if name in ON_TRIO else "asyncio")
    made: dict[str, str] = {}

    async def main() -> None:
        made.update(await trials(name, notebook))

    if runner is asyncio:
        asyncio.run(main())
    else:
        runner.run(main)
    print(json.dumps(made), flush=True)


def main() -> int:
    """Run all contenders, and print a table."""
    from .peers import PEERS, environment
    from .report import write_page

    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_trials")
    parser.add_argument("--page", type=Path, help="replace the table in this Markdown page")
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("trio-mcp-pool"))
    columns: dict[str, dict[str, str]] = {}
    for name in CONTENDERS:
        python = environment(name, [PEERS[name]]) if name in PEERS else sys.executable
        command = [python, "-P", __file__, name, program, "demo-server", "notebook"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300, check=True)
        columns[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, columns[name], file=sys.stderr)
    rows = [f"| | {' | '.join(TRIALS.values())} |", f"|{' --- |' * (len(TRIALS) + 1)}"]
    rows += [
        f"| {name} | {' | '.join(found.get(trial, 'none') for trial in TRIALS)} |" for name, found in columns.items()
    ]
    print("\n".join(rows))
    if options.page:
        write_page(options.page, "trials", "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in CONTENDERS:
        contend(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(main())
