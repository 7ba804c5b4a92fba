"""What the catalogue lists: frozen entries, one for each tool, resource, template and prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, final

from ._names import qualified
from ._source import Kind

if TYPE_CHECKING:
    import mcp_types as types

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One thing that one server offers."""

    kind: Kind
    """`"tools"`, `"resources"`, `"resource_templates"` or `"prompts"`."""
    server: str
    """The server's name in the pool."""
    name: str
    """Its own name on that server; of a resource its URI, of a template its URI template."""
    value: T
    """The protocol's own object, such as an `mcp_types.Tool`."""
    stale: bool = False
    """Whether it may have changed: the server could not be listed since, or has reported a change and not listed it yet."""

    @property
    def qualified_name(self) -> str:
        """`server__name`: for people and for patterns, unique for all but ill-chosen server names."""
        return qualified(self.server, self.name)


ToolEntry: TypeAlias = "Entry[types.Tool]"
ResourceEntry: TypeAlias = "Entry[types.Resource]"
ResourceTemplateEntry: TypeAlias = "Entry[types.ResourceTemplate]"
PromptEntry: TypeAlias = "Entry[types.Prompt]"
