"""A program written on anyio uses the pool when it runs on the Trio backend.

Everything is anyio's own: the task group, the cancel scope, the error that a closed pool raises.
"""

from __future__ import annotations

import anyio
from _servers import notebook_command

from trio_mcp_pool import StdioServer, open_pool


async def main() -> None:
    """Share one session between the tasks of a task group."""
    answers: list[str] = []

    async with open_pool({"notebook": StdioServer(*notebook_command)}) as pool:

        async def ask(text: str) -> None:
            result = await pool.call_tool("notebook", "echo", {"text": text})
            answers.append(result.structured_content["text"])

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, f"question {number}")

        with anyio.move_on_after(0.2) as scope:
            await pool.call_tool("notebook", "look_up", {"text": "too late", "seconds": 60})
        assert scope.cancelled_caught

    try:
        await pool.call_tool("notebook", "echo", {"text": "is anybody there?"})
    except anyio.ClosedResourceError as error:
        print("after the block:", error)
    print(sorted(answers))
    assert sorted(answers) == [f"question {number}" for number in range(10)]


if __name__ == "__main__":
    anyio.run(main, backend="trio")
