"""What differs between the hosts whose files are read: where the servers stand, units, the meaning of `url`, variables.

The fields themselves are one vocabulary: a field of one host is understood in the file of another, because people copy
entries from one to the next. Only what would *mean* something else is decided by the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from ._nodes import Node

SECRETS = frozenset({"env", "headers", "http_headers"})


@dataclass(frozen=True)
class Host:
    """How one host writes its file."""

    name: str
    """What `host=` calls it."""
    title: str
    """What people call it."""
    keys: tuple[str, ...] = ("mcpServers",)
    """Where the servers may stand; a dot separates levels."""
    timeout: Literal["ms", "s", ""] = ""
    """The unit of `timeout`; empty where the host is not known."""
    url_means: Literal["http", "sse", "refused", ""] = "http"
    """What `url` without a type means; empty: as the path looks."""
    variables: Literal["none", "braces", "dollar"] = "none"
    """`${...}`, or `$NAME` beside it, or no variables at all: then `${` is itself."""
    shared: bool = False
    """Whether other settings live in the same file, so that unknown keys at the top are nobody's mistake."""


HOSTS = {
    host.name: host
    for host in (
        Host("trio-mcp-pool", "trio-mcp-pool", ("mcpServers", "servers"), url_means="", variables="braces"),
        Host("claude-desktop", "Claude Desktop", timeout="ms", shared=True),
        Host("claude-code", "Claude Code", timeout="ms", url_means="refused", variables="braces", shared=True),
        Host("vscode", "VS Code", ("servers", "mcp.servers"), timeout="ms", variables="braces", shared=True),
        Host("cursor", "Cursor", timeout="ms", variables="braces"),
        Host("fastmcp", "FastMCP", timeout="ms", url_means=""),
        Host("gemini", "Gemini CLI", timeout="ms", url_means="sse", variables="dollar", shared=True),
        Host("codex", "Codex", ("mcp_servers",), timeout="s", shared=True),
        Host("cline", "Cline", timeout="s", url_means="sse"),
        Host("roo", "Roo Code", timeout="s"),
    )
}
OURS = HOSTS["trio-mcp-pool"]

# The end of the path, longest first, and whose file that is.
_PATHS = (
    ("claude_desktop_config.json", "claude-desktop"),
    (".claude.json", "claude-code"),
    (".mcp.json", "claude-code"),
    (".vscode/mcp.json", "vscode"),
    (".vscode/settings.json", "vscode"),
    ("User/mcp.json", "vscode"),
    ("User/settings.json", "vscode"),
    (".cursor/mcp.json", "cursor"),
    (".gemini/settings.json", "gemini"),
    (".codex/config.toml", "codex"),
    ("cline_mcp_settings.json", "cline"),
    (".roo/mcp.json", "roo"),
    ("mcp_settings.json", "roo"),
    ("fastmcp.json", "fastmcp"),
)

# Fields that only one host writes: they tell whose entry it is where the path does not.
_TELLTALES = (
    ("gemini", {"httpUrl", "includeTools", "excludeTools", "trust"}),
    ("codex", {"startup_timeout_sec", "tool_timeout_sec", "bearer_token_env_var", "http_headers", "env_http_headers"}),
    ("roo", {"alwaysAllow", "watchPaths"}),
    ("cline", {"autoApprove"}),
    ("fastmcp", {"keep_alive", "sse_read_timeout", "include_tags", "exclude_tags"}),
    ("claude-code", {"headersHelper", "oauth"}),
)


def host_of_path(path: PurePath) -> Host | None:
    """Whose file this is, by its path."""
    text = "/" + path.as_posix().lstrip("/")
    return next((HOSTS[name] for end, name in _PATHS if text.endswith("/" + end)), None)


def host_of_content(root: Node) -> Host:
    """Whose file this is, by what stands in it; ours if nothing tells."""
    if "mcp_servers" in root.fields:
        return HOSTS["codex"]
    if "servers" in root.fields and "mcpServers" not in root.fields:
        return HOSTS["vscode"] if "pool" not in root.fields else OURS
    servers = root.fields.get("mcpServers", root)
    for entry in servers.fields.values():
        for name, telltales in _TELLTALES:
            if not telltales.isdisjoint(entry.fields):
                return HOSTS[name]
    return OURS
