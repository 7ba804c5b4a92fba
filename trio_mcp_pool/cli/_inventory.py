"""What servers have, as the pool's catalogue lists it: tools, resources, templates and prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import trio
from mcp import MCPError

from .. import Pool, PoolError
from ._failures import TOOL, UNREACHABLE, Failed, Failure, Usage, explain
from ._targets import did_you_mean

Kind = Literal["tools", "resources", "resource_templates", "prompts"]


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
        except (PoolError, MCPError) as error:
            self.failure = explain(error)
            return
        kinds: list[Kind] = ["tools"]
        if resources:
            kinds.extend(("resources", "resource_templates"))
        if prompts:
            kinds.append("prompts")
        catalog = pool.catalog
        await catalog.refresh(self.server, kinds=kinds)
        self.failure = _why(pool, self.server)
        self.tools = [entry.value for entry in catalog.tools if entry.server == self.server]
        self.resources = [entry.value for entry in catalog.resources if entry.server == self.server]
        self.templates = [entry.value for entry in catalog.resource_templates if entry.server == self.server]
        self.prompts = [entry.value for entry in catalog.prompts if entry.server == self.server]


def _why(pool: Pool, server: str) -> Failure | None:
    """Why a server could not be listed, if it could not."""
    problem = pool.catalog.problems.get(server)
    if problem is None or isinstance(problem, PoolError | MCPError):
        return None if problem is None else explain(problem)
    return Failure(*_other(problem), server)


def _other(problem: Exception) -> tuple[int, str]:
    """What the catalogue itself found: a listing that takes too long, or has no end."""
    return (UNREACHABLE if isinstance(problem, TimeoutError) else TOOL), str(problem)


async def read_all(pool: Pool, names: list[str], *, resources: bool = False, prompts: bool = False) -> list[Inventory]:
    """The inventories of several servers, all at once, in the order of their names here."""
    found = [Inventory(name) for name in names]
    async with trio.open_nursery() as nursery:
        for inventory in found:
            nursery.start_soon(partial(inventory.read, pool, resources=resources, prompts=prompts))
    return found


async def find_tool(pool: Pool, server: str, name: str) -> Any:
    """A tool by its name. Raises `Usage` with the nearest one, `Failed` where the server cannot be listed."""
    return await _find(pool, server, name, "tools", "tool")


async def find_prompt(pool: Pool, server: str, name: str) -> Any:
    """A prompt, in the same way."""
    return await _find(pool, server, name, "prompts", "prompt")


async def _find(pool: Pool, server: str, name: str, kind: Literal["tools", "prompts"], what: str) -> Any:
    catalog = pool.catalog

    def known() -> dict[str, Any]:
        entries = catalog.tools if kind == "tools" else catalog.prompts
        return {entry.name: entry.value for entry in entries if entry.server == server and not entry.stale}

    # In a shell the catalogue has listed it before, and keeps itself up to date.
    if name not in known():
        await catalog.refresh(server, kinds=[kind])
        problem = catalog.problems.get(server)
        if isinstance(problem, PoolError | MCPError):
            raise problem
        if problem is not None:
            raise Failed(*_other(problem), server)
    try:
        return known()[name]
    except KeyError:
        raise Usage(f"server {server!r} has no {what} {name!r}{did_you_mean(name, known())}") from None


def worst(failures: list[Failure]) -> int:
    """The exit status for several failures: authentication before unreachable, 0 for none."""
    return min((failure.code for failure in failures), default=0)
