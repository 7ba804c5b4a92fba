"""One host's entry for a server, read into our own vocabulary: one spelling, one unit, one way to write a variable.

Traps that this module is for: `timeout` counts in milliseconds or in seconds, `url` alone means streamable HTTP, SSE or
nothing, a type has five spellings, a server is switched off by `disabled` or by `enabled`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final
from urllib.parse import urlsplit

from ._fields import Fields
from ._hosts import Host
from ._nodes import Node, to_data
from ._problems import Place, Problems
from ._variables import canonical

Kind = Literal["stdio", "http", "sse"]

_KINDS: dict[str, Kind] = {
    "stdio": "stdio",
    "local": "stdio",
    "http": "http",
    "streamablehttp": "http",
    "sse": "sse",
}


# fmt: off
# Fields that are understood and that the pool has no use for: they are about what the host does with the tools.
_UNUSED = frozenset((
    "$schema", "authProviderType", "authentication", "description", "dev", "exclude_tags", "gallery", "icon", "id",
    "include_tags", "keep_alive", "name", "networkTimeout", "required", "sandboxEnabled", "sse_read_timeout",
    "targetAudience", "targetServiceAccount", "tools", "trust", "version", "watchPaths",
))
_KNOWN = _UNUSED | frozenset((
    "alwaysAllow", "args", "auth", "autoApprove", "bearer_token_env_var", "command", "cwd", "disabled",
    "disabledTools", "disabled_tools", "enabled", "enabled_tools", "env", "envFile", "env_http_headers", "env_vars",
    "excludeTools", "headers", "headersHelper", "httpUrl", "http_headers", "includeTools", "oauth", "pool", "scopes",
    "startup_timeout_ms", "startup_timeout_sec", "timeout", "tool_timeout_sec", "transport", "transportType", "type",
    "url",
))
# fmt: on


@final
@dataclass(frozen=True)
class OAuth:
    """What a file says about how to log in to a server."""

    server: str
    """The server's name."""
    url: str = field(repr=False)
    """The server's endpoint."""
    client_id: str | None = None
    """The client that is registered there, if one is."""
    client_secret: str | None = field(default=None, repr=False)
    """Its secret, if it has one."""
    scopes: tuple[str, ...] = ()
    """The scopes to ask for; empty: what the server says."""
    callback_port: int | None = None
    """The port that the redirect must come to, if it must."""


@dataclass
class Draft:
    """One entry in our own words. Texts hold variables, not yet their values."""

    name: str
    host: Host
    place: Place
    enabled: bool = True
    kind: Kind | None = None
    command: Node | None = None
    args: list[Node] = field(default_factory=list)
    env: dict[str, Node] = field(default_factory=dict)
    env_vars: list[str] = field(default_factory=list)
    env_file: Node | None = None
    cwd: Node | None = None
    url: Node | None = None
    headers: dict[str, Node] = field(default_factory=dict)
    headers_helper: Node | None = None
    oauth: dict[str, Any] | None = None
    read_timeout: float | None = None
    connect_timeout: float | None = None
    pool: Node | None = None
    include_tools: tuple[str, ...] = ()
    exclude_tools: tuple[str, ...] = ()
    approved_tools: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The entry as our own file writes it."""

        def texts(table: Mapping[str, Node]) -> dict[str, Any]:
            return {name: node.value for name, node in table.items()}

        pool = to_data(self.pool) if self.pool is not None else {}
        if self.connect_timeout is not None:
            pool.setdefault("connect_timeout", self.connect_timeout)
        if self.read_timeout is not None:
            pool.setdefault("read_timeout", self.read_timeout)
        everything = {
            "type": self.kind,
            "command": self.command and self.command.value,
            "args": [node.value for node in self.args],
            "env": texts(self.env),
            "env_vars": self.env_vars,
            "envFile": self.env_file and self.env_file.value,
            "cwd": self.cwd and self.cwd.value,
            "url": self.url and self.url.value,
            "headers": texts(self.headers),
            "headersHelper": self.headers_helper and self.headers_helper.value,
            "oauth": True if self.oauth == {} else self.oauth,
            "disabled": None if self.enabled else True,
            "includeTools": list(self.include_tools),
            "excludeTools": list(self.exclude_tools),
            "autoApprove": list(self.approved_tools),
            "pool": pool,
        }
        return {name: value for name, value in everything.items() if value not in (None, [], {})}


class _Reader(Fields):
    def __init__(self, draft: Draft, node: Node, path: str, problems: Problems) -> None:
        super().__init__(node, path, problems, draft.name)
        self.draft = draft

    def ours(self, node: Node | None) -> Node | None:
        """The node with its variables written in our way."""
        return None if node is None else node.instead(canonical(str(node.value), self.draft.host))

    def read(self) -> Draft:
        draft = self.draft
        self.unknown(_KNOWN)
        draft.enabled = self._enabled()
        draft.command = self.ours(self.text("command"))
        draft.args = [node.instead(canonical(str(node.value), draft.host)) for node in self.texts("args")]
        draft.env = self._texts("env")
        draft.env_vars = [str(node.value) for node in self.texts("env_vars")]
        draft.env_file = self.ours(self.text("envFile"))
        draft.cwd = self.ours(self.text("cwd"))
        draft.headers = {**self._texts("headers"), **self._texts("http_headers"), **self._headers_of_codex()}
        draft.headers_helper = self.ours(self.text("headersHelper"))
        draft.pool = self.get("pool")
        draft.include_tools = self._names("includeTools", "enabled_tools")
        draft.exclude_tools = self._names("excludeTools", "disabled_tools", "disabledTools")
        draft.approved_tools = self._names("autoApprove", "alwaysAllow")
        self._url()
        self._kind()
        self._auth()
        self._timeouts()
        self._contradictions()
        return draft

    def _texts(self, name: str) -> dict[str, Node]:
        return {
            key: node.instead(canonical(str(node.value), self.draft.host)) for key, node in self.table(name).items()
        }

    def _names(self, *names: str) -> tuple[str, ...]:
        return tuple(str(node.value) for name in names for node in self.texts(name))

    def _enabled(self) -> bool:
        disabled, enabled = self.flag("disabled"), self.flag("enabled")
        if disabled is not None and enabled is not None and disabled == enabled:
            self.error("enabled", "it contradicts disabled", "Remove one of the two.")
        return not disabled if disabled is not None else enabled is not False

    def _headers_of_codex(self) -> dict[str, Node]:
        found = {key: node.instead(f"${{{node.value}}}") for key, node in self.table("env_http_headers").items()}
        token = self.text("bearer_token_env_var")
        if token is not None:
            found["Authorization"] = token.instead(f"Bearer ${{{token.value}}}")
        return found

    def _url(self) -> None:
        url, http_url = self.text("url"), self.text("httpUrl")
        if url is not None and http_url is not None:
            self.warning("url", "url and httpUrl are both given; httpUrl counts", "Remove one of the two.")
        self.draft.url = self.ours(http_url or url)

    def _kind(self) -> None:
        given = next((name for name in ("type", "transport", "transportType") if self.get(name) is not None), None)
        node = None if given is None else self.text(given)
        draft = self.draft
        if given is not None and node is not None:
            kind = self.one_of(node, given, _KINDS, 'Write "stdio", "http" or "sse".')
            draft.kind = kind  # type: ignore[assignment]  # the table has no other words
            wanted = "command" if kind == "stdio" else "url"
            if kind is not None and getattr(draft, wanted) is None:
                self.error(given, f"a server of type {kind!r} needs {wanted}", f'Add "{wanted}", or change the type.')
                draft.kind = None
        elif given is not None:
            return
        elif draft.command is not None and draft.url is not None:
            self.error("url", "command and url are both given, and no type", "Remove one of the two, or add the type.")
        elif draft.command is not None:
            draft.kind = "stdio"
        elif draft.url is not None:
            draft.kind = self._kind_of_url()
        elif not ({"command", "url", "httpUrl"} & self.node.fields.keys()):
            self.error("", "neither command nor url is given", 'Add "command" and "args", or "url".')

    def _kind_of_url(self) -> Kind:
        host, url = self.draft.host, self.draft.url
        assert url is not None
        if "httpUrl" in self:
            return "http"
        if host.url_means == "refused":
            self.warning("url", f"{host.title} refuses url without type; it is read as http", 'Add "type": "http".')
            return "http"
        if host.url_means == "":
            return "sse" if urlsplit(str(url.value)).path.rstrip("/").endswith("/sse") else "http"
        return host.url_means

    def _auth(self) -> None:
        draft, auth = self.draft, self.get("auth")
        given = auth if auth is not None and auth.value != "oauth" else self.get("oauth")
        if auth is not None and isinstance(auth.value, str):
            if auth.value == "oauth":
                draft.oauth = {}
            elif draft.url is not None:
                # FastMCP: any other word is a bearer token.
                draft.headers.setdefault("Authorization", auth.instead(canonical(f"Bearer {auth.value}", draft.host)))
            given = self.get("oauth")
        if given is None:
            return
        name = "auth" if given is auth else "oauth"
        if isinstance(given.value, bool):
            draft.oauth = {} if given.value else None
            return
        if not isinstance(given.value, dict):
            self.wrong_type(name, given, "an object")
            return
        inner = Fields(given, f"{self.path}.{name}", self.problems, draft.name)
        spellings = {
            "client_id": ("CLIENT_ID", "clientId", "client_id"),
            "client_secret": ("CLIENT_SECRET", "clientSecret", "client_secret"),
        }
        inner.unknown(
            [*(word for words in spellings.values() for word in words), "scopes", "callbackPort", "enabled",
             "authServerMetadataUrl", "authorizationUrl", "tokenUrl", "redirectUri", "tokenParamName", "audiences"]
        )  # fmt: skip
        draft.oauth = {}
        for ours, words in spellings.items():
            node = next((node for word in words if (node := inner.text(word)) is not None), None)
            if node is not None:
                draft.oauth[ours] = canonical(str(node.value), draft.host)
        scopes = inner.get("scopes")
        if scopes is not None:
            one = isinstance(scopes.value, str)
            draft.oauth["scopes"] = (
                str(scopes.value).split() if one else [str(node.value) for node in inner.texts("scopes")]
            )
        port = inner.number("callbackPort")
        if port is not None:
            draft.oauth["callbackPort"] = int(port)

    def _timeouts(self) -> None:
        draft, unit = self.draft, self.draft.host.timeout
        timeout, tool = self.number("timeout"), self.number("tool_timeout_sec")
        if timeout is not None:
            if unit == "":
                unit = "ms" if timeout >= 1000 else "s"
                what = "milliseconds" if unit == "ms" else "seconds"
                self.warning(
                    "timeout",
                    f"hosts count timeout in seconds or in milliseconds; it is read as {what}",
                    'Write "pool": {"read_timeout": "30s"} instead.',
                )
            elif (unit == "s" and timeout > 3600) or (unit == "ms" and timeout < 100):
                what = "milliseconds" if unit == "ms" else "seconds"
                self.warning("timeout", f"{draft.host.title} counts it in {what}", "Check the number.")
            draft.read_timeout = timeout / 1000 if unit == "ms" else timeout
        if timeout is not None and tool is not None:
            self.warning("timeout", "tool_timeout_sec is given too, and counts", "Remove one of the two.")
        draft.read_timeout = tool or draft.read_timeout
        start, start_ms = self.number("startup_timeout_sec"), self.number("startup_timeout_ms")
        draft.connect_timeout = start or (start_ms / 1000 if start_ms else None)

    def _contradictions(self) -> None:
        kind = self.draft.kind
        if kind is None:
            return
        foreign = (
            ("url", "httpUrl", "headers", "http_headers", "env_http_headers", "headersHelper", "bearer_token_env_var")
            if kind == "stdio"
            else ("command", "args", "env", "envFile", "cwd", "env_vars")
        )
        for name in foreign:
            node = self.get(name)
            if node is not None and node.value != [] and node.value != {}:
                self.warning(name, f"a server of type {kind!r} does not use it", "Remove it, or change the type.")
        command = "" if self.draft.command is None else str(self.draft.command.value)
        first, space, _ = command.strip().partition(" ")
        if kind == "stdio" and space and not os.path.exists(command) and "/" not in first and shutil.which(first):
            self.warning(
                "command",
                "the whole command line stands in it",
                f'Write "command": "{first}" and the rest into "args".',
            )


def read_entry(name: str, node: Node, host: Host, path: str, problems: Problems) -> Draft:
    """One entry in our own words; what is wrong with it is added to `problems`."""
    return _Reader(Draft(name, host, node.key), node, path, problems).read()
