"""Servers for the tests of the bridge: in this process, and on stdio."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import mcp_types as types
import trio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from trio_mcp_pool import Caller, InProcessServer, PoolPolicy, StdioServer

ECHO = Path(__file__).parents[1] / "servers" / "echo_stdio.py"
who: ContextVar[str] = ContextVar("who", default="nobody")


def stdio(*arguments: str, policy: PoolPolicy | None = None) -> StdioServer:
    """The echo server as a real process."""
    return StdioServer(sys.executable, (str(ECHO), *arguments), policy=policy)


def asking() -> StdioServer:
    """A server whose tool `elicit` asks for a name, and gives back the answer."""
    return StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], mode="2026-07-28")


async def declined(caller: Caller, params: types.ElicitRequestParams) -> types.ElicitResult:
    """A person who is asked on the Trio side."""
    return types.ElicitResult(action="decline")


class Scene:
    """A server in this process, and what its tools have seen."""

    def __init__(self, policy: PoolPolicy | None = None) -> None:
        self.events: list[str] = []
        self.started = threading.Event()
        self.open = threading.Event()
        mcp = MCPServer("scene")

        @mcp.tool()
        def echo(text: str) -> str:
            return text

        @mcp.tool()
        def caller() -> str:
            return who.get()

        @mcp.tool()
        def thread() -> str:
            return threading.current_thread().name

        @mcp.tool()
        async def wait() -> str:
            """Until it is cancelled, or the gate opens."""
            self.started.set()
            try:
                while not self.open.is_set():
                    await trio.sleep(0.005)
            except trio.Cancelled:
                self.events.append("cancelled")
                raise
            return "waited"

        @mcp.tool()
        async def steps(context: Context, number: int) -> str:
            for step in range(number):
                await context.report_progress(step + 1, number, f"step {step + 1}")
            return "done"

        @mcp.tool()
        async def end_of_trio() -> str:
            """Crash the Trio run, as a defect in it would."""
            self.started.set()

            def crash() -> None:
                raise ArithmeticError("a defect")

            trio.lowlevel.current_trio_token().run_sync_soon(crash)
            await trio.sleep_forever()
            return ""

        @mcp.tool()
        async def grow(context: Context) -> str:
            await context.notify_tools_changed()
            return "grown"

        @mcp.resource("memo://hello")
        def hello() -> str:
            return "hello"

        @mcp.prompt()
        def greet() -> str:
            return "hello"

        @mcp.completion()
        async def complete(
            ref: object, argument: types.CompletionArgument, context: types.CompletionContext | None
        ) -> types.Completion:
            known = (context.arguments or {}) if context is not None else {}
            return types.Completion(values=[f"{type(ref).__name__} {argument.value}...", *known.values()])

        self.mcp = mcp
        self.server = InProcessServer(mcp, policy=policy)


def text(result: object) -> str:
    """The text of a tool's result."""
    return result.content[0].text  # type: ignore[attr-defined, no-any-return]
