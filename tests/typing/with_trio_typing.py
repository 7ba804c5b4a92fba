"""A program of somebody who has trio-typing installed. `nox -s typing` runs it; it is no test module.

trio-typing carries names that Trio has had itself since 0.23. A program that still annotates with them must be able to use
the pool all the same, with the objects of both sides passing for each other.
"""

from __future__ import annotations

import trio
import trio_typing
from mcp.server.mcpserver import MCPServer

from trio_mcp_pool import InProcessServer, Pool, open_pool, serve_pool

server = MCPServer("adder")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def host(*, task_status: trio_typing.TaskStatus[Pool]) -> None:
    """A service of the program's own, typed with trio-typing's names, that starts the pool."""
    await serve_pool({"adder": InProcessServer(server)}, task_status=task_status)


@trio_typing.takes_callable_and_args
def run(function: object, *args: object) -> None:
    """Run a program of this kind. The decorator is trio-typing's, for its mypy plugin."""
    trio.run(function, *args)  # type: ignore[arg-type]


async def main() -> None:
    """Lease through `open_pool`, and through `serve_pool` in a service typed the old way."""
    async with open_pool({"adder": InProcessServer(server)}) as pool:
        result = await pool.call_tool("adder", "add", {"a": 1, "b": 2})
        assert result.structured_content == {"result": 3}, result

    async with trio.open_nursery() as nursery:
        pool = await nursery.start(host)
        result = await pool.call_tool("adder", "add", {"a": 3, "b": 4})
        assert result.structured_content == {"result": 7}, result
        await pool.aclose()
        nursery.cancel_scope.cancel()


run(main)
print("a program with trio-typing installed uses the pool")
