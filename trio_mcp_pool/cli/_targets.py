"""What the command line calls a server: a name, `file.json:name`, a file, a URL, or a command after `--`."""

from __future__ import annotations

import argparse
import difflib
import getpass
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from .. import HttpServer, Server, StdioServer
from ..config import ConfigError, FoundConfig, Input, LogIn, Servers, discover_configs, load_servers
from ._failures import Usage
from ._output import Output
from ._tokens import stored_auth

_LAUNCHERS = frozenset(
    {"npx", "uvx", "uv", "python", "python3", "node", "bunx", "deno", "docker", "sh", "bash", "run", "tool"}
)


@dataclass(frozen=True)
class Named:
    """One thing of one server: a tool, a prompt, or nothing yet, and the words that follow."""

    server: str
    name: str
    rest: list[str]


def ask(wanted: Input) -> str | None:
    """Ask a person for an input."""
    choice = f" [{'|'.join(wanted.options)}]" if wanted.options else ""
    default = f" ({wanted.default})" if wanted.default and not wanted.password else ""
    print(f"{wanted.description or wanted.id}{choice}{default}: ", end="", file=sys.stderr, flush=True)
    answer = getpass.getpass("") if wanted.password else sys.stdin.readline().rstrip("\n")
    return answer or wanted.default


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'echo'?"`, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


class Targets:
    """Finds servers. Files are read when a name is looked for, and each at most once."""

    def __init__(self, options: argparse.Namespace, out: Output) -> None:
        self.options = options
        self.out = out
        self.open_servers: dict[str, Server] = {}
        self.auth: LogIn = stored_auth
        self._loaded: dict[Path, Servers | ConfigError | OSError] = {}
        self._found: list[FoundConfig] | None = None

    @property
    def found(self) -> list[FoundConfig]:
        """The files in which names are looked for, the first first."""
        if self._found is None:
            given = getattr(self.options, "config", [])
            files = [FoundConfig(Path(file).expanduser(), "trio-mcp-pool", "project") for file in given]
            self._found = files or discover_configs()
        return self._found

    def load(self, path: Path) -> Servers:
        """One file. Raises `ConfigError`, `OSError`."""
        key = path.absolute()
        if key not in self._loaded:
            try:
                self._loaded[key] = load_servers(path, ask=ask if _somebody_is_there() else None, auth=self.auth)
            except (ConfigError, OSError) as error:
                self._loaded[key] = error
        loaded = self._loaded[key]
        if isinstance(loaded, Servers):
            return loaded
        raise loaded

    def _load_or_note(self, path: Path) -> Servers:
        try:
            return self.load(path)
        except (ConfigError, OSError) as error:
            self.out.note(f"warning: {error}")
            return Servers(source=str(path))

    def pool_options(self, servers: Iterable[Server]) -> dict[str, int]:
        """What the files of these servers say of the pool. Where two files differ, the smaller number holds for both."""
        wanted = {id(server) for server in servers}
        options: dict[str, int] = {}
        for loaded in self._loaded.values():
            if isinstance(loaded, Servers) and any(id(server) in wanted for server in loaded.values()):
                for name, value in loaded.options.items():
                    if value is not None:
                        options[name] = min(value, options.get(name, value))
        return options

    def all_found(self) -> dict[str, Server]:
        """Every server of this project's files, or of this person's where the project has none."""
        for scope in ("project", "user"):
            servers: dict[str, Server] = {}
            for found in self.found:
                if found.scope == scope:
                    loaded = self._load_or_note(found.path)
                    self._note_problems(loaded)
                    servers = {**loaded, **servers}
            if servers:
                return servers
        raise Usage(
            "no server is configured here; name one by URL, by `-- command`, or in mcp.json (see `config discover`)"
        )

    def _note_problems(self, servers: Servers, name: str | None = None) -> None:
        for problem in servers.problems:
            if name is None or problem.server in (name, None):
                self.out.note(str(problem))

    def many(self, words: list[str]) -> dict[str, Server]:
        """The servers that these words name; all that are found where there are none. Raises `Usage`."""
        self._refuse_unused(words)
        servers: dict[str, Server] = {}
        if self.options.server_command:
            servers.update([self._of_command(self.options.server_command)])
        for word in words:
            servers.update(self._of_word(word))
        return servers or dict(self.open_servers) or self.all_found()

    def _of_word(self, word: str) -> dict[str, Server]:
        if word.startswith(("http://", "https://")):
            return dict([self._of_url(word)])
        file, name = _split_file(word)
        if file is not None:
            loaded = self.load(file)
            self._note_problems(loaded, name)
            if name is None:
                if not loaded:
                    raise Usage(f"{file} has no server that can be used")
                return dict(loaded)
            return {name: self._in_file(loaded, name)}
        return {word: self.by_name(word)}

    def by_name(self, name: str) -> Server:
        """The server of a name in the files that are found. Raises `Usage` with the nearest name."""
        if name in self.open_servers:
            return self.open_servers[name]
        known: list[str] = list(self.open_servers)
        for found in self.found:
            loaded = self._load_or_note(found.path)
            if name in loaded.entries:
                self._note_problems(loaded, name)
                return self._in_file(loaded, name)
            known += loaded
        raise Usage(f"there is no server {name!r} in the files found here{did_you_mean(name, known)}")

    def _in_file(self, loaded: Servers, name: str) -> Server:
        if name in loaded:
            return loaded[name]
        entry = loaded.entries.get(name)
        if entry is None:
            raise Usage(f"{loaded.source} has no server {name!r}{did_you_mean(name, loaded)}")
        if not entry.enabled:
            raise Usage(f"{entry.place}: the server {name!r} is switched off")
        problems = [
            str(problem) for problem in loaded.problems if problem.server == name and problem.severity == "error"
        ]
        raise Usage("\n".join(problems) or f"{entry.place}: the server {name!r} cannot be used")

    def _refuse_unused(self, words: list[str]) -> None:
        """Options that would change nothing are a mistake: a header that is not sent looks like one that does not help."""
        options = self.options
        if (options.header or options.transport) and not any(
            word.startswith(("http://", "https://")) for word in words
        ):
            raise Usage("--header and --transport are for a target that is a URL")
        if (options.env or options.cwd) and not options.server_command:
            raise Usage("--env and --cwd are for a command after --")

    def _of_url(self, url: str) -> tuple[str, Server]:
        headers = {}
        for header in self.options.header:
            name, colon, value = header.partition(":")
            if not colon:
                raise Usage("--header must be NAME:VALUE")
            headers[name.strip()] = value.strip()
        try:
            parts = urlsplit(url)
            like_sse = parts.path.rstrip("/").endswith("/sse")
            transport: Literal["sse", "http"] = self.options.transport or ("sse" if like_sse else "http")
            server = HttpServer(url, headers=headers or None, transport=transport)
            # Only now, because what is no URL must not be looked up among the logins.
            auth = None if headers else stored_auth(url)
        except (TypeError, ValueError) as error:
            raise Usage(str(error)) from None
        return parts.hostname or "server", server if auth is None else replace(server, auth=auth)

    def _of_command(self, command: list[str]) -> tuple[str, Server]:
        env = {}
        for variable in self.options.env:
            name, equals, value = variable.partition("=")
            if not equals:
                raise Usage("--env must be NAME=VALUE")
            env[name] = value
        words = [Path(word).stem for word in command if not word.startswith("-")]
        name = next((word for word in words if word not in _LAUNCHERS), words[0] if words else "server")
        try:
            return name, StdioServer(command[0], command[1:], env=env or None, cwd=self.options.cwd)
        except (TypeError, ValueError) as error:
            raise Usage(str(error)) from None

    def one(self, words: list[str], what: str = "tool") -> tuple[dict[str, Server], Named]:
        """A server, the name of something that it has, and the words after it. Raises `Usage`.

        The name may be joined to the server's by a dot or be a word of its own.
        """
        self._refuse_unused(words)
        if self.options.server_command:
            name, server = self._of_command(self.options.server_command)
            if not words:
                raise Usage(f"the name of a {what} is missing")
            return {name: server}, Named(name, words[0].removeprefix(f"{name}."), words[1:])
        if not words:
            raise Usage(f"the name of a {what} is missing: write TARGET.{what.upper()}")
        first, rest = words[0], words[1:]
        if first.startswith(("http://", "https://")):
            name, server = self._of_url(first)
            return {name: server}, _own_word(name, rest, what)
        file, inside = _split_file(first)
        if file is not None:
            loaded = self.load(file)
            if inside is None:
                if len(loaded) != 1:
                    raise Usage(f"{file} has {len(loaded)} servers; write {file}:NAME.{what.upper()}")
                self._note_problems(loaded)
                return dict(loaded), _own_word(next(iter(loaded)), rest, what)
            name, tool = _longest(inside, loaded.entries)
            self._note_problems(loaded, name)
            found = {name: self._in_file(loaded, name)}
            return found, Named(name, tool, rest) if tool else _own_word(name, rest, what)
        name, tool = _longest(first, self.names())
        found = {name: self.by_name(name)}
        return found, Named(name, tool, rest) if tool else _own_word(name, rest, what)

    def names(self) -> list[str]:
        """The names of every server in the files that are found, those that cannot be used included."""
        found = [name for file in self.found for name in self._load_or_note(file.path).entries]
        return list(dict.fromkeys([*self.open_servers, *found]))


def _own_word(name: str, rest: list[str], what: str) -> Named:
    if not rest:
        raise Usage(f"the name of a {what} is missing after the server {name!r}")
    return Named(name, rest[0], rest[1:])


def _longest(word: str, names: Iterable[str]) -> tuple[str, str]:
    """A server's name and the rest after its dot. Names may have dots in them, so the longest that fits counts."""
    fitting = [name for name in names if word == name or word.startswith(f"{name}.")]
    if not fitting:
        name, _, tool = word.partition(".")
        return name, tool
    name = max(fitting, key=len)
    return name, word[len(name) + 1 :]


def _split_file(word: str) -> tuple[Path | None, str | None]:
    """The file and the name of `file.json:name`; no file for any other word."""
    for ending in (".json", ".jsonc", ".toml"):
        head, colon, name = word.partition(f"{ending}:")
        if colon:
            return Path(head + ending).expanduser(), name
        if word.endswith(ending):
            return Path(word).expanduser(), None
    return None, None
