"""An entry in our own words, made into a server: variables expanded, secrets fetched, the policy applied."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import httpx2

from trio_mcp_pool import HttpServer, PoolPolicy, Server, StdioServer

from ._entries import Draft, OAuth
from ._inputs import Inputs
from ._nodes import Node
from ._policy import PoolKeys, read_pool, taken_by
from ._problems import ConfigError, Problems
from ._secrets import CommandMapping, read_env_file
from ._variables import Scope, VariableError

LogIn: TypeAlias = Callable[[OAuth], "httpx2.Auth | None"]
"""Gives what logs in to a server, or `None` where nothing does."""


@dataclasses.dataclass
class Surroundings:
    """What an entry means depends on this."""

    environ: Mapping[str, str]
    workspace: Path
    home: Path
    inputs: Inputs
    auth: LogIn | None
    policy: PoolPolicy
    file_keys: PoolKeys
    files: list[Path]
    """Files that were read beside the configuration."""


class _Builder:
    def __init__(self, draft: Draft, path: str, around: Surroundings, problems: Problems) -> None:
        self.draft = draft
        self.path = path
        self.around = around
        self.problems = problems
        self.scope = Scope(around.environ, around.workspace, around.home, around.inputs.answer)

    def error(self, node: Node, field: str, message: str, mend: str) -> None:
        self.problems.error(node.place, f"{self.path}.{field}", message, mend, self.draft.name)

    def text(self, node: Node, field: str) -> str:
        """The text with its variables expanded; empty if it cannot be, which is a problem."""
        try:
            return self.scope.expand(str(node.value))
        except VariableError as error:
            self.error(node, field, str(error), error.mend)
            return ""

    def path_of(self, node: Node | None, field: str) -> str | None:
        """A path: `~` is the home directory, and a relative one starts at the workspace."""
        if node is None:
            return None
        text = self._at_home(self.text(node, field))
        return text if os.path.isabs(text) else str(self.around.workspace / text)

    def _at_home(self, text: str) -> str:
        if text == "~" or text.startswith(("~/", "~\\")):
            return str(self.around.home) + text[1:]
        return text

    def table(self, nodes: Mapping[str, Node], field: str) -> dict[str, str]:
        return {name: self.text(node, f"{field}.{name}") for name, node in nodes.items()}

    def stdio(self, keys: PoolKeys) -> Server | None:
        draft = self.draft
        assert draft.command is not None
        env_file = self.path_of(draft.env_file, "envFile")
        if env_file is not None and draft.env_file is not None:
            self.scope.file_env = self._env_file(Path(env_file), draft.env_file)
        self.scope.own_env = {name: str(node.value) for name, node in draft.env.items()}
        passed = {name: self.around.environ[name] for name in draft.env_vars if name in self.around.environ}
        env = {**self.scope.file_env, **passed, **self.table(draft.env, "env")}
        command = self._at_home(self.text(draft.command, "command"))
        args = [self._at_home(self.text(node, f"args[{n}]")) for n, node in enumerate(draft.args)]
        cwd = self.path_of(draft.cwd, "cwd")
        helper = keys.own.get("env_helper")
        given: Any = env
        if isinstance(helper, str):
            helper = self.text(draft.command.instead(helper), "pool.env_helper")
            given = CommandMapping(draft.name, helper, str(self.around.workspace), tuple(env.items()))
        return self.make(StdioServer, keys, command=command, args=args, env=given, cwd=cwd)

    def _env_file(self, path: Path, node: Node) -> dict[str, str]:
        self.around.files.append(path)
        try:
            return read_env_file(path)
        except OSError as error:
            self.error(node, "envFile", f"the file cannot be read: {error.strerror}", "Check the path.")
        except ConfigError as error:
            self.error(node, "envFile", str(error), "Write one NAME=value per line.")
        return {}

    def http(self, keys: PoolKeys) -> Server | None:
        draft = self.draft
        assert draft.url is not None
        url = self.text(draft.url, "url")
        headers: Any = self.table(draft.headers, "headers")
        if draft.headers_helper is not None:
            environ = (("CLAUDE_CODE_MCP_SERVER_NAME", draft.name), ("CLAUDE_CODE_MCP_SERVER_URL", url))
            helper = self.text(draft.headers_helper, "headersHelper")
            workspace = str(self.around.workspace)
            headers = CommandMapping(draft.name, helper, workspace, tuple(headers.items()), environ)
        transport = "sse" if draft.kind == "sse" else "streamable-http"
        return self.make(
            HttpServer, keys, url=url, headers=headers or None, transport=transport, auth=self._auth(draft, url)
        )

    def _auth(self, draft: Draft, url: str) -> httpx2.Auth | None:
        if draft.oauth is None:
            return None
        values = dict(draft.oauth)
        for name in ("client_id", "client_secret"):
            if name in values:
                values[name] = self.text(draft.url.instead(values[name]), f"oauth.{name}") if draft.url else None
        wanted = OAuth(
            draft.name,
            url,
            values.get("client_id"),
            values.get("client_secret"),
            tuple(values.get("scopes", ())),
            values.get("callbackPort"),
        )
        auth = self.around.auth(wanted) if self.around.auth is not None else None
        if auth is None:
            self.problems.warning(
                draft.place,
                self.path,
                "the server asks for a login by OAuth, and nothing here logs in",
                "Pass auth= to load_servers, or use `trio-mcp-pool login`.",
                draft.name,
            )
        return auth

    def make(self, cls: type[StdioServer] | type[HttpServer], keys: PoolKeys, **given: Any) -> Server | None:
        """The server, or `None` after a problem."""
        draft, file_keys = self.draft, self.around.file_keys
        taken = taken_by(cls)
        for name in keys.server.keys() - taken:
            self.problems.warning(
                (draft.pool.fields[name] if draft.pool is not None else Node(place=draft.place)).key,
                f"{self.path}.pool.{name}",
                f"a server of type {draft.kind!r} does not take it",
                "Remove it.",
                draft.name,
            )
        policy = {**file_keys.policy, **keys.policy}
        if draft.connect_timeout is not None:
            policy.setdefault("connect_timeout", draft.connect_timeout)
        options = {name: value for name, value in {**file_keys.server, **keys.server}.items() if name in taken}
        if isinstance(options.get("proxy"), str):
            options["proxy"] = self.text(Node(options["proxy"], draft.place), "pool.proxy")
        read_timeout = keys.own.get("read_timeout", draft.read_timeout or file_keys.own.get("read_timeout"))
        if read_timeout is not None and read_timeout != float("inf"):
            options["read_timeout_seconds"] = read_timeout
        if any(p.server == draft.name and p.severity == "error" for p in self.problems.found):
            return None
        try:
            own = dataclasses.replace(self.around.policy, **policy) if policy else None
            return cls(**given, **options, policy=own)
        except (TypeError, ValueError) as error:
            # 'HttpServer.url must be ..., not ...': what stands there is not repeated.
            message = str(error).partition(", not ")[0].partition("; its scheme")[0]
            field, _, what = message.partition(" ")
            place = draft.pool.key if draft.pool is not None and field.startswith("PoolPolicy") else draft.place
            name = field.rpartition(".")[2]
            self.problems.error(place, f"{self.path}.{name}", f"it {what}", "Mend it.", draft.name)
            return None


def build_server(draft: Draft, path: str, around: Surroundings, problems: Problems) -> Server | None:
    """The server that an entry describes, or `None` where something is wrong with it."""
    keys = read_pool(draft.pool, f"{path}.pool", problems, draft.name)
    if draft.kind is None:
        return None
    builder = _Builder(draft, path, around, problems)
    return builder.stdio(keys) if draft.kind == "stdio" else builder.http(keys)
