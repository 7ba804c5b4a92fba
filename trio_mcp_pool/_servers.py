"""Descriptions of MCP servers, and how each kind is dialled.

A server is a frozen value: it says how to reach an MCP server and holds no connection. Two equal servers are
interchangeable; when the pool is given a changed one under the same name, its sessions become a new generation and the
old ones are drained. Callbacks, `auth` and in-process servers compare by identity, so reuse the objects to avoid that.

Dialling is one private method, `_connect(link)`: an async context manager, entered and left by the owner task, that gives
a live `mcp.Client`. What it learns on the way it reports through the link (see `_wire/_link.py`).
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx2
import mcp
from mcp.client.caching import CacheConfig

from ._policy import PoolPolicy
from ._wire._link import Link

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.client import ConnectMode
    from mcp.client.extension import ClientExtension
    from mcp.client.session import (
        ElicitationFnT,
        ListRootsFnT,
        LoggingFnT,
        MessageHandlerFnT,
        SamplingFnT,
    )

MAX_LINE = 64 * 1024 * 1024
"""The default limit of one line from a stdio server, in bytes."""

MAX_SSE_EVENT = 1024 * 1024
"""The default limit of one server-sent event, in bytes: the SDK's own."""

StringMap: TypeAlias = Mapping[str, str]
PerDial: TypeAlias = StringMap | Callable[[], StringMap | Awaitable[StringMap]]
"""A mapping, or a function, sync or async, that is called for every dial and returns one."""


async def _resolve(value: PerDial | None, what: str) -> dict[str, str] | None:
    """The mapping for one dial. Runs the user's function in the owner task; what it raises comes out as it is."""
    if value is None:
        return None
    given = value() if callable(value) else value
    if inspect.isawaitable(given):
        given = await given
    if not isinstance(given, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in given.items()):
        raise TypeError(
            f"{what} must give a mapping of str to str, not {type(given).__name__} (or one with other types)"
        )
    return dict(given)


def _check_map(owner: str, name: str, value: Any) -> None:
    if value is None or callable(value):
        return
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{owner}.{name} must be a mapping of str to str, or a function that returns one, not {type(value).__name__}"
        )
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise TypeError(f"{owner}.{name}[{key!r}] must be a str, not {type(item).__name__}")


class Server(ABC):
    """How to reach an MCP server: the common type of everything that a pool can be given."""

    policy: PoolPolicy | None
    trusted: bool

    @abstractmethod
    def _connect(self, link: Link) -> AbstractAsyncContextManager[mcp.Client]:
        """Dial. Entered and left by the owner task; gives a client whose handshake is done."""

    def _check(self) -> None:
        owner = type(self).__name__
        if self.policy is not None and not isinstance(self.policy, PoolPolicy):
            raise TypeError(f"{owner}.policy must be a PoolPolicy or None, not {type(self.policy).__name__}")
        if not isinstance(self.trusted, bool):
            raise TypeError(f"{owner}.trusted must be a bool, not {type(self.trusted).__name__}")


@dataclass(frozen=True, kw_only=True)
class _ClientOptions:
    """What `mcp.Client` takes beside its server, by the same names; handed on as it is. See the SDK's documentation."""

    raise_exceptions: bool = False
    read_timeout_seconds: float | None = None
    sampling_callback: SamplingFnT | None = None
    sampling_capabilities: types.SamplingCapability | None = None
    list_roots_callback: ListRootsFnT | None = None
    logging_callback: LoggingFnT | None = None
    log_level: types.LoggingLevel | None = None
    message_handler: MessageHandlerFnT | None = None
    client_info: types.Implementation | None = None
    mode: ConnectMode = "auto"
    prior_discover: types.DiscoverResult | None = None
    elicitation_callback: ElicitationFnT | None = None
    input_required_max_rounds: int | None = None
    extensions: Sequence[ClientExtension] | None = None
    cache: CacheConfig | None = field(default_factory=CacheConfig)

    def _client_options(self) -> dict[str, Any]:
        options = {f.name: getattr(self, f.name) for f in fields(_ClientOptions)}
        if options["input_required_max_rounds"] is None:
            del options["input_required_max_rounds"]  # the SDK's own default
        return options


@final
@dataclass(frozen=True, repr=False)
class StdioServer(_ClientOptions, Server):
    """A server that runs as a child process and speaks over its stdin and stdout.

    The child gets a process group of its own, which is gone when the session is closed, and a small environment: the
    SDK's list of harmless variables plus `env`. Its stderr is forwarded line by line to the logger
    `trio_mcp_pool.stderr`; the last 64 KiB are kept for errors.
    """

    command: str
    """The executable, looked up on `PATH`."""
    args: Sequence[str] = ()
    """Its arguments."""
    _: KW_ONLY
    env: PerDial | None = None
    """Environment variables beside the inherited ones: a mapping, or a function, sync or async, called for every dial."""
    cwd: str | os.PathLike[str] | None = None
    """The working directory. Default: this program's."""
    wire: Literal["trio", "sdk"] = "trio"
    """`"trio"`: the pool's own wire (POSIX only). `"sdk"`: the MCP SDK's; what Windows always gets."""
    max_line: int = MAX_LINE
    """The longest line accepted from the server, in bytes. Default 64 MiB. Only on the `"trio"` wire."""
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        if not isinstance(self.command, str):
            raise TypeError(f"StdioServer.command must be a str, not {type(self.command).__name__}")
        if not self.command:
            raise ValueError("StdioServer.command must not be empty")
        if isinstance(self.args, str) or not isinstance(self.args, Sequence):
            raise TypeError(
                f"StdioServer.args must be a sequence of str such as ('-m', 'server'), not {type(self.args).__name__}"
            )
        for position, arg in enumerate(self.args):
            if not isinstance(arg, str):
                raise TypeError(f"StdioServer.args[{position}] must be a str, not {type(arg).__name__}")
        object.__setattr__(self, "args", tuple(self.args))
        _check_map("StdioServer", "env", self.env)
        if isinstance(self.env, Mapping):
            object.__setattr__(self, "env", dict(self.env))
        if self.cwd is not None and not isinstance(self.cwd, str | os.PathLike):
            raise TypeError(f"StdioServer.cwd must be a path or None, not {type(self.cwd).__name__}")
        if self.wire not in ("trio", "sdk"):
            raise ValueError(f"StdioServer.wire must be 'trio' or 'sdk', not {self.wire!r}")
        if isinstance(self.max_line, bool) or not isinstance(self.max_line, int):
            raise TypeError(f"StdioServer.max_line must be a number of bytes, not {type(self.max_line).__name__}")
        if self.max_line < 1:
            raise ValueError(f"StdioServer.max_line must be at least 1, not {self.max_line}")
        self._check()

    def __repr__(self) -> str:
        return f"<StdioServer {self.command!r} with {len(self.args)} arguments>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase = "configure"
        env = await _resolve(self.env, "StdioServer.env") or {}
        link.keep_secret(env.values())
        link.phase = "spawn"
        cwd = None if self.cwd is None else os.fspath(self.cwd)
        if self.wire == "trio" and os.name == "posix":
            from ._wire._stdio import connect_stdio

            wire = connect_stdio(link, self.command, self.args, env, cwd, self.max_line, self._client_options())
        else:
            from ._wire._sdk_stdio import connect_sdk_stdio

            wire = connect_sdk_stdio(link, self.command, self.args, env, cwd, self._client_options())
        async with wire as client:
            yield client


@final
@dataclass(frozen=True, repr=False)
class HttpServer(_ClientOptions, Server):
    """A server reached over HTTP: streamable HTTP in both protocol eras, or the older SSE transport.

    Each session has an HTTP client of its own, without read timeout: how long a call may take is for the caller's cancel
    scope to say.
    """

    url: str
    """The endpoint, `http://` or `https://`."""
    _: KW_ONLY
    headers: PerDial | None = None
    """Headers of every request: a mapping, or a function, sync or async, called for every dial."""
    auth: httpx2.Auth | None = None
    """Any `httpx2.Auth`, the SDK's OAuth provider included."""
    transport: Literal["streamable-http", "sse"] = "streamable-http"
    """Which of the two HTTP transports the server speaks."""
    max_sse_event_size: int | None = MAX_SSE_EVENT
    """The longest server-sent event accepted, in bytes; `None`: no limit. Default 1 MiB."""
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"HttpServer.url must be a str, not {type(self.url).__name__}")
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018 (read lazily, and so would fail much later)
        except ValueError:
            # What it says quotes the part that it stumbled over, which may be half a password.
            raise ValueError("HttpServer.url is not a URL: its host or its port cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            # The URL itself may hold credentials, so only its scheme is shown.
            raise ValueError(
                f"HttpServer.url must be an http:// or https:// URL with a host; its scheme is {parts.scheme!r}"
            )
        _check_map("HttpServer", "headers", self.headers)
        if isinstance(self.headers, Mapping):
            object.__setattr__(self, "headers", dict(self.headers))
        if self.auth is not None and not isinstance(self.auth, httpx2.Auth):
            raise TypeError(f"HttpServer.auth must be an httpx2.Auth or None, not {type(self.auth).__name__}")
        if self.transport not in ("streamable-http", "sse"):
            raise ValueError(f"HttpServer.transport must be 'streamable-http' or 'sse', not {self.transport!r}")
        if self.max_sse_event_size is not None and self.max_sse_event_size < 1:
            raise ValueError(f"HttpServer.max_sse_event_size must be at least 1 or None, not {self.max_sse_event_size}")
        self._check()

    def __repr__(self) -> str:
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"<HttpServer {parts.scheme}://{parts.hostname}{port}{parts.path} ({self.transport})>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        from ._wire._http import connect_http

        link.phase = "configure"
        headers = await _resolve(self.headers, "HttpServer.headers") or {}
        for value in headers.values():
            # A server that refuses `Bearer TOKEN` quotes the token alone.
            link.keep_secret((value, value.partition(" ")[2]))
        parts = urlsplit(self.url)
        for part in filter(None, (parts.username, parts.password, parts.query)):
            link.keep_secret((part, unquote(part)))
        link.keep_secret(value for _, value in parse_qsl(parts.query))
        link.phase = "connect"
        wire = connect_http(
            link, self.url, headers, self.auth, self.transport, self.max_sse_event_size, self._client_options()
        )
        async with wire as client:
            yield client


@final
@dataclass(frozen=True, repr=False)
class InProcessServer(_ClientOptions, Server):
    """A server object in this very program: an SDK `MCPServer` or low-level `Server`. No process, no bytes.

    In the modern era its handlers run in the caller's own task, so a handler that never awaits cannot be cancelled.
    """

    server: Any
    """The SDK's `MCPServer` or low-level `Server`. Compared by identity."""
    _: KW_ONLY
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        from mcp.server import MCPServer
        from mcp.server import Server as LowLevelServer

        if not isinstance(self.server, MCPServer | LowLevelServer):
            raise TypeError(
                f"InProcessServer.server must be an mcp MCPServer or low-level Server, not {type(self.server).__name__}"
            )
        self._check()

    def __repr__(self) -> str:
        return f"<InProcessServer {getattr(self.server, 'name', '?')!r}>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase = "handshake"
        link.tells_written = False
        async with mcp.Client(self.server, **self._client_options()) as client:
            yield client


@final
@dataclass(frozen=True, repr=False)
class CustomServer(Server):
    """Anything else: a factory of async context managers that give an `mcp.Client`.

    The factory is called for every dial, in the owner task. The pool cannot see behind such a client, so it learns of a
    dead session by its failing calls, and takes every request as written once its verb was called.
    """

    factory: Callable[[], AbstractAsyncContextManager[mcp.Client]]
    """Returns a context manager that gives a connected `mcp.Client`. Compared by identity."""
    _: KW_ONLY
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise TypeError(f"CustomServer.factory must be callable, not {type(self.factory).__name__}")
        self._check()

    def __repr__(self) -> str:
        return f"<CustomServer {getattr(self.factory, '__qualname__', type(self.factory).__name__)}>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase = "connect"
        link.tells_written = False
        async with self.factory() as client:
            if not isinstance(client, mcp.Client):
                raise TypeError(f"CustomServer.factory must give an mcp.Client, not {type(client).__name__}")
            yield client
