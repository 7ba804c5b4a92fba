"""Three agents as child tasks of one nursery. Each has a scope: a notebook of its own that nobody else sees.

What they share they take from the pool; what is theirs they take from their scope, which closes when their block ends,
however it ends.
"""

from __future__ import annotations

import trio
from _servers import notebook_command

from trio_mcp_pool import Pool, StdioServer, open_pool


async def agent(name: str, topics: list[str], pool: Pool) -> None:
    """Look things up with the server that all share, note them in a notebook of one's own, and report."""
    async with pool.open_scope() as mine:
        for topic in topics:
            found = await pool.call_tool("library", "look_up", {"text": f"what is known of {topic}", "seconds": 0.1})
            await mine.call_tool("notebook", "write", {"text": found.structured_content["text"]})
        notes = await mine.call_tool("notebook", "read")
        assert notes.structured_content["lines"] == [f"what is known of {topic}" for topic in topics]
        print(f"{name} has {len(topics)} notes in process {notes.structured_content['pid']}")


async def main() -> None:
    """Run the agents side by side, and count what that took."""
    servers = {"library": StdioServer(*notebook_command), "notebook": StdioServer(*notebook_command)}
    async with open_pool(servers) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent, "Ada", ["tides", "moons"], pool)
            nursery.start_soon(agent, "Ben", ["bees"], pool)
            nursery.start_soon(agent, "Cyd", ["rust", "salt", "ice"], pool)
        statistics = pool.statistics()
    assert statistics.servers["library"].connects == 1, "all agents share one library"
    assert statistics.servers["notebook"].connects == 3, "each agent has a notebook"
    print("one library was shared, and three notebooks are gone with their scopes")


if __name__ == "__main__":
    trio.run(main)
