"""Where each host keeps its file, and which of them are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from ._hosts import HOSTS

_PROJECT = (
    ("trio-mcp-pool", "mcp.json"),
    ("claude-code", ".mcp.json"),
    ("vscode", ".vscode/mcp.json"),
    ("cursor", ".cursor/mcp.json"),
    ("gemini", ".gemini/settings.json"),
    ("codex", ".codex/config.toml"),
    ("roo", ".roo/mcp.json"),
    ("fastmcp", "fastmcp.json"),
)


@final
@dataclass(frozen=True)
class FoundConfig:
    """A configuration file that exists."""

    path: Path
    """Where it is."""
    host: str
    """Whose it is, as `host=` of `load_servers` calls it."""
    scope: Literal["project", "user"]
    """Whether it belongs to this project or to this person."""


def _folders(start: Path, home: Path) -> Iterator[Path]:
    """The project's folder and those above it, up to the root of a repository or the home directory."""
    for folder in (start, *start.parents):
        if folder == home and folder != start:
            return
        yield folder
        if (folder / ".git").exists():
            return


def _of_person(home: Path, environ: Mapping[str, str], platform: str) -> Iterator[tuple[str, Path]]:
    if platform == "darwin":
        settings = home / "Library" / "Application Support"
    elif platform == "win32":
        settings = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    yield "trio-mcp-pool", settings / "trio-mcp-pool" / "mcp.json"
    yield "claude-code", Path(environ.get("CLAUDE_CONFIG_DIR") or home) / ".claude.json"
    yield "claude-desktop", settings / "Claude" / "claude_desktop_config.json"
    for code in ("Code", "Code - Insiders", "VSCodium"):
        user = settings / code / "User"
        yield "vscode", user / "mcp.json"
        yield "cline", user / "globalStorage" / "saoudrizwan.claude-dev" / "settings" / "cline_mcp_settings.json"
        yield "roo", user / "globalStorage" / "rooveterinaryinc.roo-cline" / "settings" / "mcp_settings.json"
    yield "cursor", home / ".cursor" / "mcp.json"
    yield "gemini", home / ".gemini" / "settings.json"
    yield "codex", Path(environ.get("CODEX_HOME") or home / ".codex") / "config.toml"


def discover_configs(
    project: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    platform: str = sys.platform,
) -> list[FoundConfig]:
    """The configuration files that are there: this project's first, ours before the hosts', then this person's. Synchronous.

    `project` is where to begin (default: the working directory); the folders above it count too, up to the root of its
    repository. `environ` (default `os.environ`) and `platform` (default this one) say where a person's files are. A file
    that is there need not be readable, and need not have servers in it.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    start = Path.cwd() if project is None else Path(project).expanduser().absolute()
    places: list[FoundConfig] = []
    for folder in _folders(start, home):
        places += [FoundConfig(folder / relative, host, "project") for host, relative in _PROJECT]
    places += [FoundConfig(path, host, "user") for host, path in _of_person(home, environ, platform)]
    found: dict[Path, FoundConfig] = {}
    for place in places:
        assert place.host in HOSTS
        try:
            if place.path not in found and place.path.is_file():
                found[place.path] = place
        except OSError:
            continue  # a folder that this person may not look into
    return list(found.values())
