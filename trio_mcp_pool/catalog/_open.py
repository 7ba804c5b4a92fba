"""Making a tool set for a pool or a scope: what `toolset` does, the same for both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._hooks import Approve, Around
from ._names import NameFunction
from ._patience import check_within
from ._source import check_servers
from ._toolset import ToolSet

if TYPE_CHECKING:
    from ._catalog import Catalog
    from ._source import Source


async def open_toolset(
    catalog: Catalog,
    source: Source,
    servers: tuple[str, ...],
    *,
    allow: Iterable[str] | None = None,
    deny: Iterable[str] = (),
    read_only: bool = False,
    names: NameFunction | None = None,
    approve: Approve | None = None,
    around: Around | None = None,
    max_concurrent: int = 8,
    max_per_server: int | None = None,
    max_chars: int | None = None,
    within: float | None = None,
) -> ToolSet:
    """The tools of the servers named, or of all. The parameters are documented at `Pool.toolset`."""
    check_servers(source, servers)
    check_within(within, optional=True)
    made = ToolSet(
        catalog,
        source,
        servers or None,
        allow=allow,
        deny=deny,
        read_only=read_only,
        names=names,
        approve=approve,
        around=around,
        max_concurrent=max_concurrent,
        max_per_server=max_per_server,
        max_chars=max_chars,
    )
    await catalog._ensure(servers, ("tools",), within)
    return made
