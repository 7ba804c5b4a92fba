"""`load_servers`: a configuration file, or the same as a mapping, made into servers for a pool."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from trio_mcp_pool import PoolPolicy, Server

from ._build import LogIn, Surroundings, build_server
from ._document import MAX_SIZE, read_document
from ._entries import Draft, read_entry
from ._hosts import HOSTS, OURS, Host, host_of_content, host_of_path
from ._inputs import Ask, Inputs
from ._nodes import Node, from_data
from ._policy import read_pool
from ._problems import ConfigError, Place, Problem, Problems, did_you_mean, kind_of

_DEFAULT_POLICY = PoolPolicy()
_TOP = frozenset({"mcpServers", "servers", "mcp_servers", "inputs", "pool", "$schema"})


@final
@dataclass(frozen=True)
class Entry:
    """One server of a file as it stands there, whether or not it can be used."""

    name: str
    """The server's name."""
    host: str
    """Whose way of writing it is: `"vscode"`, `"codex"` and so on; `"trio-mcp-pool"` is ours."""
    place: Place
    """Where it stands."""
    enabled: bool
    """Whether the file switches it on. A server that is off is not among the servers."""
    settings: Mapping[str, Any] = field(repr=False)
    """The entry in our own words, with its variables and not their values. May hold secrets that stand in the file."""
    include_tools: tuple[str, ...] = ()
    """The tools that the file allows; empty: all."""
    exclude_tools: tuple[str, ...] = ()
    """The tools that the file forbids."""
    approved_tools: tuple[str, ...] = ()
    """The tools that the file lets run without asking a person."""


@final
class Servers(dict[str, Server]):
    """The servers of a configuration, by name: what `open_pool` takes. Made by `load_servers`."""

    def __init__(
        self,
        servers: Mapping[str, Server] | None = None,
        *,
        problems: tuple[Problem, ...] = (),
        source: str = "",
        entries: Mapping[str, Entry] | None = None,
        options: Mapping[str, Any] | None = None,
        inputs: tuple[Any, ...] = (),
        files: tuple[Path, ...] = (),
    ) -> None:
        """For `load_servers`; a program that has servers already needs no more than a `dict`."""
        super().__init__(servers or {})
        self.problems = problems
        """What is wrong in the file, in its order."""
        self.source = source
        """The file's path, or `"<mapping>"`."""
        self.entries: Mapping[str, Entry] = dict(entries or {})
        """Every server of the file, those included that are switched off or cannot be used."""
        self.options: Mapping[str, Any] = dict(options or {})
        """What the file says for the pool as a whole: `open_pool(servers, **servers.options)`."""
        self.inputs = inputs
        """The `Input`s that the file describes."""
        self.files = files
        """Every file that was read, the configuration first."""

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self)) or "none"
        return f"<Servers {names} from {self.source}; {len(self.problems)} problems>"


def _workspace_of(path: Path) -> Path:
    """The project that a file belongs to: where it lies, or above the folder that a host has for itself."""
    folder = path.absolute().parent
    if folder == Path.home() or folder.is_relative_to(Path.home() / ".config"):
        return Path.cwd()
    if folder.name.startswith("."):
        return Path.cwd() if folder.parent == Path.home() else folder.parent
    return folder


def _tables(root: Node, host: Host, workspace: Path, problems: Problems) -> list[tuple[str, Node]]:
    """The objects that hold the servers, with their names; later ones win."""
    found: list[tuple[str, Node]] = []
    for key in dict.fromkeys((*host.keys, "mcpServers", "servers", "mcp_servers", "mcp.servers")):
        node: Node | None = root
        for part in key.split("."):
            node = None if node is None else node.fields.get(part)
        if node is not None:
            found.append((key, node))
    projects = root.fields.get("projects")
    if host.name == "claude-code" and projects is not None:
        # What Claude Code keeps for one project in the file of all.
        local = projects.fields.get(str(workspace))
        if local is not None and "mcpServers" in local.fields:
            found.append(("projects.mcpServers", local.fields["mcpServers"]))
    if found:
        return found
    if root.fields and all({"command", "url", "httpUrl"} & part.fields.keys() for part in root.fields.values()):
        return [("", root)]
    if isinstance(root.value, dict):
        hint = next((word for name in root.fields if (word := did_you_mean(name, host.keys))), "")
        problems.error(
            root.place,
            "",
            f"there are no servers in it{f'; {hint}' if hint else ''}",
            f'Put them under "{host.keys[0]}".',
        )
    else:
        problems.error(root.place, "", f"it must be an object, not {kind_of(root.value)}", 'Write {"mcpServers": {}}.')
    return []


def _read(root: Node, host: Host, workspace: Path, problems: Problems) -> list[tuple[str, Draft]]:
    drafts: dict[str, tuple[str, Draft]] = {}
    for key, table in _tables(root, host, workspace, problems):
        if not isinstance(table.value, dict):
            problems.error(
                table.place,
                key,
                f"it must be an object, not {kind_of(table.value)}",
                "Write name: {...} for each server.",
            )
            continue
        for name, node in table.fields.items():
            path = f"{key}.{name}" if key else name
            if not name:
                problems.error(node.key, path, "a server needs a name", "Give it one.")
            elif not node.intact:
                problems.error(node.key, path, "there is a syntax error in it", "Mend the syntax error first.", name)
            elif not isinstance(node.value, dict):
                problems.error(
                    node.place,
                    path,
                    f"it must be an object, not {kind_of(node.value)}",
                    'Write {"command": ..., "args": [...]} or {"url": ...}.',
                    name,
                )
            else:
                if name in drafts:
                    problems.warning(
                        node.key,
                        path,
                        f"the server stands in {drafts[name][0]} too; this one counts",
                        "Remove one.",
                        name,
                    )
                drafts[name] = (path, read_entry(name, node, host, path, problems))
    return list(drafts.values())


def load_servers(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    strict: bool = False,
    host: str | None = None,
    ask: Ask | None = None,
    auth: LogIn | None = None,
    environ: Mapping[str, str] | None = None,
    workspace: str | os.PathLike[str] | None = None,
    policy: PoolPolicy = _DEFAULT_POLICY,
    max_size: int = MAX_SIZE,
) -> Servers:
    """Read the servers of a configuration file, of any host, or of a mapping of the same shape. Synchronous.

    `source` is a path, `.toml` for TOML and JSON with comments otherwise, or the file's content as a mapping. `strict` makes
    every problem an error; by default a server that is wrong is left out, and `Servers.problems` says why. `host` says
    whose way of writing it is (`"claude-desktop"`, `"claude-code"`, `"vscode"`, `"cursor"`, `"fastmcp"`, `"gemini"`,
    `"codex"`, `"cline"`, `"roo"`, or `"trio-mcp-pool"` for ours); by default the path and the content tell.

    `ask` is called for each `${input:ID}` that a server needs; without it an input's default counts, and one that has none
    is a problem. `auth` is called for each server that wants a login by OAuth. `environ` has the variables (default:
    `os.environ`), `workspace` is what `${workspaceFolder}` and relative paths start from (default: the file's project).
    `policy` is what `"pool"` keys change (default: `PoolPolicy()`); a server that has none keeps the pool's. `max_size` is
    in bytes, 4 MiB by default.

    Raises `OSError` if the file cannot be read, `ConfigError` if nothing in it can be understood or, with `strict`, if there
    is any problem, `ValueError` for an unknown `host`.
    """
    if host is not None and host not in HOSTS:
        raise ValueError(f"host must be one of {', '.join(HOSTS)}, not {host!r}")
    problems = Problems()
    environ = os.environ if environ is None else environ
    if isinstance(source, Mapping):
        name, path = "<mapping>", None
        root = from_data(source, name)
        place = Path.cwd()
    else:
        path = Path(source).expanduser()
        name = str(path)
        root = read_document(path, problems, max_size)
        place = _workspace_of(path)
    around_workspace = place if workspace is None else Path(workspace).expanduser().absolute()
    chosen = HOSTS[host] if host is not None else (host_of_path(path) if path else None) or host_of_content(root)
    drafts = _read(root, chosen, around_workspace, problems)
    if chosen is OURS or not (chosen.shared and (path is None or path.name != "mcp.json")):
        for key in [key for key in root.fields if key not in _TOP] if drafts and drafts[0][0].count(".") else ():
            hint = did_you_mean(key, _TOP)
            problems.warning(
                root.fields[key].key,
                key,
                f"this key is not known{f'; {hint}' if hint else ''}",
                "Remove it, or mend its name.",
            )
    around = Surroundings(
        environ=environ,
        workspace=around_workspace,
        home=Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home()),
        inputs=Inputs(root, ask, problems),
        auth=auth,
        policy=policy,
        file_keys=read_pool(root.fields.get("pool"), "pool", problems),
        files=[] if path is None else [path],
    )
    servers: dict[str, Server] = {}
    entries: dict[str, Entry] = {}
    for field_path, draft in drafts:
        entries[draft.name] = Entry(
            name=draft.name,
            host=chosen.name,
            place=draft.place,
            enabled=draft.enabled,
            settings=draft.settings(),
            include_tools=draft.include_tools,
            exclude_tools=draft.exclude_tools,
            approved_tools=draft.approved_tools,
        )
        if draft.enabled:
            server = build_server(draft, field_path, around, problems)
            if server is not None:
                servers[draft.name] = server
    found = tuple(sorted(problems.found, key=lambda p: (p.place.line or 0, p.place.column or 0)))
    if strict and found:
        raise ConfigError.of(name, found)
    return Servers(
        servers,
        problems=found,
        source=name,
        entries=entries,
        options=around.file_keys.file,
        inputs=tuple(around.inputs.known.values()),
        files=tuple(around.files),
    )
