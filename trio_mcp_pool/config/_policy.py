"""Our own keys, `"pool": {...}`: how the sessions of a server are kept, per server and per file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from trio_mcp_pool import Backoff, HttpServer, PoolPolicy, StdioServer

from ._durations import parse_duration
from ._fields import Fields
from ._nodes import Node
from ._problems import Problems

POLICY_KEYS = tuple(field.name for field in dataclasses.fields(PoolPolicy))
SERVER_KEYS = (
    "trusted",
    "wire",
    "stderr",
    "max_message",
    "max_values",
    "max_connections",
    "proxy",
    "mode",
    "log_level",
)
"""What a server's description takes beside its policy."""
OWN_KEYS = ("read_timeout", "env_helper")
FILE_KEYS = ("max_connecting", "max_sessions_total")
"""What `open_pool` takes; only at the top of a file."""

_MEND = "See `trio-mcp-pool config schema` for what belongs here."


def is_duration(name: str) -> bool:
    """Whether a key is a number of seconds, which may be written with a unit."""
    return name.endswith(("_timeout", "_lifetime", "_interval")) or name in ("first", "cap")


@dataclasses.dataclass
class PoolKeys:
    """What one `"pool"` object says."""

    policy: dict[str, Any] = dataclasses.field(default_factory=dict)
    server: dict[str, Any] = dataclasses.field(default_factory=dict)
    own: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: dict[str, Any] = dataclasses.field(default_factory=dict)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _value(fields: Fields, name: str) -> Any:
    """The value of a key as Python wants it; a `ValueError` says what is wrong."""
    node = fields.node.fields[name]
    value = node.value
    if name == "backoff":
        return _backoff(node, f"{fields.path}.backoff", fields)
    if isinstance(value, dict | list):
        raise ValueError("it must be a single value")
    if name in FILE_KEYS and not _is_count(value) and (value is not None or name != "max_sessions_total"):
        raise ValueError("it must be a whole number, at least 1")
    if is_duration(name):
        if isinstance(value, str):
            return parse_duration(value)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError("it must be a number of seconds, or a text with a unit such as 10s")
        if value is None and name != "probe_interval":
            return math.inf
    return value


def _backoff(node: Node, path: str, outer: Fields) -> Backoff:
    fields = Fields(node, path, outer.problems, outer.server)
    if not isinstance(node.value, dict):
        raise ValueError("it must be an object")
    known = [field.name for field in dataclasses.fields(Backoff)]
    fields.unknown(known, _MEND)
    given = {}
    for name in known:
        if name in fields:
            try:
                given[name] = _value(fields, name)
            except ValueError as error:
                fields.error(name, str(error), _MEND)
    built: Backoff = _build(Backoff, given, fields)
    return built


def _build(make: Callable[..., Any], given: dict[str, Any], fields: Fields) -> Any:
    """Make a value of what was given; a field that it refuses is reported and left out."""
    while True:
        try:
            return make(**given)
        except (TypeError, ValueError) as error:
            # 'PoolPolicy.idle_timeout must be at least 0, not -1': the value itself is not repeated.
            message = str(error).partition(", not ")[0]
            owner, _, name = message.partition(" ")[0].rpartition(".")
            if name not in given:
                raise
            fields.error(name, "it " + message.removeprefix(f"{owner}.{name} "), _MEND)
            del given[name]


def read_pool(node: Node | None, path: str, problems: Problems, server: str | None = None) -> PoolKeys:
    """Read a `"pool"` object. `server` is `None` for the one at the top of a file."""
    keys = PoolKeys()
    if node is None or node.value is None:
        return keys
    fields = Fields(node, path, problems, server)
    if not isinstance(node.value, dict):
        problems.error(node.place, path, "it must be an object", _MEND, server)
        return keys
    known = (*POLICY_KEYS, *SERVER_KEYS, *OWN_KEYS)
    fields.unknown((*known, *FILE_KEYS), _MEND)
    for name in node.fields:
        if name in FILE_KEYS and server is not None:
            fields.warning(name, "it counts for the whole file only", 'Move it into the "pool" at the top of the file.')
            continue
        part = next(
            (part for part, names in _parts(keys) if name in names),
            None,
        )
        if part is None:
            continue
        try:
            part[name] = _value(fields, name)
        except ValueError as error:
            fields.error(name, str(error), _MEND)
    _build(PoolPolicy, keys.policy, fields)
    return keys


def _parts(keys: PoolKeys) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    return [
        (keys.policy, POLICY_KEYS),
        (keys.server, SERVER_KEYS),
        (keys.own, OWN_KEYS),
        (keys.file, FILE_KEYS),
    ]


def taken_by(cls: type[StdioServer] | type[HttpServer]) -> frozenset[str]:
    """Which of `SERVER_KEYS` a kind of server takes."""
    return frozenset(field.name for field in dataclasses.fields(cls)) & frozenset(SERVER_KEYS)
