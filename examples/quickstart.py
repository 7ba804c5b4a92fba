"""The quick start: what a server has, and a call.

python examples/quickstart.py                          a notebook that comes with the package
python examples/quickstart.py COMMAND ARGUMENT ...     a server of your own
"""

from __future__ import annotations

import json
import sys

import trio
from _servers import notebook_command

from trio_mcp_pool import StdioServer, open_pool


async def show(command: str, arguments: list[str]) -> None:
    """List the tools, with what a call to each looks like."""
    async with open_pool({"mine": StdioServer(command, arguments)}) as pool:
        listed = await pool.list_tools("mine")
        for tool in listed.tools:
            print(f"{tool.name}: {tool.description or ''}")
            wanted = {name: kind.get("type", "...") for name, kind in tool.input_schema.get("properties", {}).items()}
            print(f'    await pool.call_tool("mine", "{tool.name}", {json.dumps(wanted)})')


async def use_the_notebook() -> None:
    """Call a server whose tools are known."""
    async with open_pool({"notebook": StdioServer(*notebook_command)}) as pool:
        await pool.call_tool("notebook", "write", {"text": "hello"})
        result = await pool.call_tool("notebook", "read")
        print("\nthe notebook says:", result.structured_content)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(show, sys.argv[1], sys.argv[2:])
    else:
        trio.run(show, *notebook_command)
        trio.run(use_the_notebook)
