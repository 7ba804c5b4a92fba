"""What a program may put between a model and a tool: a question before each call, and a block about it.

The rule: what a hook raises belongs to its own call, and a hook that swallows what ended the call cannot make it a success.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

if TYPE_CHECKING:
    import mcp_types as types


@final
@dataclass(frozen=True, slots=True, repr=False)
class ToolCall:
    """One call that is about to be made, as `approve` and `around` see it."""

    name: str
    """The tool's name in the set."""
    server: str
    """The server's name in the pool."""
    tool: types.Tool
    """The tool as its server lists it. Believe its annotations as far as you trust the server."""
    arguments: dict[str, Any]
    """A copy of the arguments, checked. Changing it changes nothing: return other arguments from `approve` for that."""

    def __repr__(self) -> str:
        return f"<ToolCall {self.name!r}>"


Approval: TypeAlias = bool | str | Mapping[str, Any]
"""`True`: yes. `False`, or the reason as a `str`: no. A mapping: yes, with these arguments instead, which are checked again."""

Approve: TypeAlias = Callable[[ToolCall], Awaitable[Approval]]
Around: TypeAlias = Callable[[ToolCall], AbstractAsyncContextManager[Any]]


def make_call(name: str, server: str, tool: types.Tool, arguments: dict[str, Any]) -> ToolCall:
    """The call as a hook sees it, with arguments of its own."""
    return ToolCall(name, server, tool, copy.deepcopy(arguments))
