"""Everything that a server has: its tools, resources, templates and prompts, page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from mcp import MCPError

from .. import Pool, PoolError
from ._failures import Failure, Usage, explain
from ._targets import did_you_mean

_MOST_PAGES = 1000


async def pages(verb: Callable[..., Awaitable[Any]], server: str, attribute: str) -> list[Any]:
    """All items of a list verb. A server that never stops giving pages is stopped."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        result = await verb(server, cursor=cursor)
        found += getattr(result, attribute)
        cursor = result.next_cursor
        if not cursor:
            break
    return found


@dataclass
class Inventory:
    """What one server has, or why that could not be learnt."""

    server: str
    tools: list[Any] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)
    templates: list[Any] = field(default_factory=list)
    prompts: list[Any] = field(default_factory=list)
    protocol: str = ""
    info: Any = None
    capabilities: Any = None
    failure: Failure | None = None

    async def read(self, pool: Pool, *, resources: bool, prompts: bool) -> None:
        """Ask the server. A failure is kept, so that others' results are not lost."""
        try:
            async with pool.session(self.server) as session:
                self.protocol = session.protocol_version
                self.info = session.server_info
                self.capabilities = session.server_capabilities
            if self.capabilities.tools is not None:
                self.tools = await pages(pool.list_tools, self.server, "tools")
            if resources and self.capabilities.resources is not None:
                self.resources = await pages(pool.list_resources, self.server, "resources")
                self.templates = await pages(pool.list_resource_templates, self.server, "resource_templates")
            if prompts and self.capabilities.prompts is not None:
                self.prompts = await pages(pool.list_prompts, self.server, "prompts")
        except (PoolError, MCPError) as error:
            self.failure = explain(error)


async def read_all(pool: Pool, names: list[str], *, resources: bool = False, prompts: bool = False) -> list[Inventory]:
    """The inventories of several servers, all at once, in the order of their names here."""
    found = [Inventory(name) for name in names]
    async with trio.open_nursery() as nursery:
        for inventory in found:
            nursery.start_soon(partial(inventory.read, pool, resources=resources, prompts=prompts))
    return found


async def find_tool(pool: Pool, server: str, name: str) -> Any:
    """A tool by its name. Raises `Usage` with the nearest one."""
    tools = await pages(pool.list_tools, server, "tools")
    for tool in tools:
        if tool.name == name:
            return tool
    raise Usage(f"server {server!r} has no tool {name!r}{did_you_mean(name, [tool.name for tool in tools])}")


def worst(failures: list[Failure]) -> int:
    """The exit status for several failures: authentication before unreachable, 0 for none."""
    return min((failure.code for failure in failures), default=0)
