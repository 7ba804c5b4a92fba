"""The names, limits and messages that workflows and workers must agree on.

They stand in one module without any other import of the pool's, because workflow histories record them: a name that changes
breaks the replay of every workflow that was started before. What is sent is JSON-like data in dataclasses, which the default
converter and the pydantic one encode alike; the protocol's own objects are made from it on either side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

PREFIX = "trio_mcp_pool"
"""The default first part of every activity's name."""

HEARTBEAT_TIMEOUT = timedelta(seconds=5)
"""How soon a lost worker is noticed, and, times 0.8, how soon a cancellation reaches the server."""

START_TO_CLOSE = timedelta(minutes=1)
"""The bound of one attempt where neither it nor `schedule_to_close_timeout` is given; as `temporalio-mcp`."""

LARGEST_PAYLOAD = 2 * 1024 * 1024 - 16 * 1024
"""Bytes of one call's arguments or result: the server refuses 2 MiB, and the rest is for what surrounds them."""

LARGEST_TASK = LARGEST_PAYLOAD
"""Bytes of the arguments that one workflow task may schedule together. The server refuses transactions over 4 MiB, which also
hold the results that arrived during the workflow task."""

LARGE = 128 * 1024
"""Bytes of arguments from which on a call counts against `LARGEST_TASK` for as long as it runs: its result may be as large."""

READS = {
    "list-tools": "list_tools",
    "list-resources": "list_resources",
    "list-resource-templates": "list_resource_templates",
    "list-prompts": "list_prompts",
    "read-resource": "read_resource",
    "get-prompt": "get_prompt",
    "complete": "complete",
}
"""Activities that run nothing at the server, so that they may always be tried again, and the verbs behind them."""

CALL_TOOL = "call-tool"


def activity_name(prefix: str, server: str, operation: str) -> str:
    """Such as `trio_mcp_pool.files.call-tool`."""
    return f"{prefix}.{server}.{operation}"


def open_scope_name(prefix: str) -> str:
    """The long activity that holds a scope open. The slash keeps it apart from a server's name."""
    return f"{prefix}/open-scope"


def close_scope_name(prefix: str) -> str:
    """The activity that ends it."""
    return f"{prefix}/close-scope"


def scopes_queue(task_queue: str) -> str:
    """Where scopes are opened, by whichever worker has room."""
    return f"{task_queue}/mcp-scopes"


def own_queue(task_queue: str, worker: str) -> str:
    """Where the calls inside the scopes of one worker go."""
    return f"{task_queue}/mcp-worker/{worker}"


def scope_signal(scope: str) -> str:
    """The signal by which a worker tells the workflow that its scope is open."""
    return f"__trio_mcp_pool_scope_{scope}"


@dataclass
class Request:
    """One call. `arguments` are the verb's, by name."""

    arguments: dict[str, Any] = field(default_factory=dict)
    scope: str | None = None
    """The scope that it belongs to, which the worker holds; `None` for the shared sessions."""


@dataclass
class Answer:
    """A result, as JSON-like data of the protocol's own object."""

    result: dict[str, Any]
    trusted: bool = False
    """Whether the worker trusts the server's word on its tools."""


@dataclass
class ScopeRequest:
    """A scope to open."""

    scope: str
    servers: list[str]
    idle_seconds: float


@dataclass
class ScopeOpened:
    """Its worker's own queue."""

    task_queue: str
