"""`env` and `headers`: mappings, or functions that are called for every dial.

A function is how fresh credentials reach fresh connections. What it gives is checked each time, as a mapping is when the
server is made, and no error shows a value (R16).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from .._wire._link import Link

DialReason: TypeAlias = Literal["connect", "unauthorized"]


@final
@dataclass(frozen=True)
class Dial:
    """For what a function for `env` or `headers` is called. A function without a required parameter is called with nothing."""

    server: str
    """The server's name in the pool."""
    scope: Hashable
    """The scope's key, so that each tenant or user can have credentials of its own; `None` for sessions outside of scopes."""
    attempt: int
    """1 for the first dial, and one more for each consecutive failure."""
    reason: DialReason
    """`"connect"`: a connection is being made. `"unauthorized"`: the server has answered 401 to the credentials that this
    function gave before."""


StringMap: TypeAlias = Mapping[str, str]
_Given: TypeAlias = StringMap | Awaitable[StringMap]
PerDial: TypeAlias = StringMap | Callable[[], _Given] | Callable[[Dial], _Given]
"""A mapping, or a function, sync or async, that is called for every dial and returns one."""

CheckItems: TypeAlias = Callable[[str, Mapping[str, str]], None]
"""Raises `ValueError` for a name or value that cannot be passed on, naming the field, which is its first argument."""


def frozen_map(field: str, value: Any, check: CheckItems) -> Any:
    """The value of such a field as a server keeps it: a mapping is checked and copied, a function stays itself."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, str):
                wrong = type(item).__name__ if isinstance(key, str) else f"{type(key).__name__} for a name"
                raise TypeError(f"{field}[{key!r}] must be a str, not {wrong}")
        check(field, value)
        return dict(value)
    if not callable(value):
        raise TypeError(
            f"{field} must be a mapping of str to str, or a function that returns one, not {type(value).__name__}"
        )
    if len(_required(value)) > 1:
        raise TypeError(f"{field} must be a function of nothing or of one argument, a Dial")
    return value


def _required(function: Callable[..., Any]) -> list[str]:
    """The names of the positional parameters without which `function` cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    return [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]


async def resolve(
    field: str, value: PerDial | None, link: Link, reason: DialReason, check: CheckItems
) -> dict[str, str]:
    """The mapping for one dial. Runs the user's function in the calling task; what that raises comes out as it is.

    Raises `TypeError` or `ValueError` where the function gives something else, naming the field.
    """
    given: Any = value
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        function: Callable[..., Any] = value
        arguments = [Dial(link.server, link.scope, link.attempt, reason)] if _required(function) else []
        given = function(*arguments)
        if inspect.isawaitable(given):
            given = await given
        if not isinstance(given, Mapping):
            raise TypeError(f"{field} must give a mapping of str to str, not {type(given).__name__}")
        for key, item in given.items():
            if not isinstance(key, str) or not isinstance(item, str):
                kind = type(item).__name__ if isinstance(key, str) else f"{type(key).__name__} for a name"
                raise TypeError(f"{field} must give a mapping of str to str, but has a value of another type: {kind}")
        check(field, given)
    return dict(given)
