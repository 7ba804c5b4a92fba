"""A server that runs as a child process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, final

import mcp
from mcp.client.stdio import get_default_environment

from .._arguments import explain_timeout
from .._policy import PoolPolicy
from .._wire._link import Link
from ._base import MAX_MESSAGE, MAX_VALUES, ClientOptions, Configure, Server, check_limit
from ._per_dial import PerDial, frozen_map, resolve
from ._spawn_trouble import spawn_trouble


@final
@explain_timeout
@dataclass(frozen=True, repr=False)
class StdioServer(ClientOptions, Server):
    """A server that runs as a child process and speaks over its stdin and stdout.

    The child gets a process group of its own, which has ended when the session is closed, and a small environment: the
    SDK's list of harmless variables plus `env`. The last 64 KiB of its stderr are kept for errors.

    Raises `TypeError` or `ValueError` on construction, naming the field.
    """

    command: str | os.PathLike[str]
    """The executable: a name, looked up on `PATH`, or a path."""
    args: Sequence[str | os.PathLike[str]] = ()
    """Its arguments. Nothing goes through a shell."""
    _: KW_ONLY
    env: PerDial | None = None
    """Environment variables beside the inherited ones: a mapping, or a function, sync or async, called for every dial. One that
    has a required positional parameter is given a `Dial`."""
    cwd: str | os.PathLike[str] | None = None
    """The working directory. Default: this program's."""
    stderr: Literal["log", "inherit", "discard"] = "log"
    """What happens to the child's stderr, beside the end that is kept for errors. `"log"`, the default: it goes line by line to
    the logger `trio_mcp_pool.stderr`, with known secrets masked. `"inherit"`: it goes to this program's stderr, as it comes.
    `"discard"`: nothing."""
    wire: Literal["trio", "sdk"] = "trio"
    """`"trio"`: the pool's own wire (POSIX only). `"sdk"`: the MCP SDK's; what Windows always gets."""
    max_message: int = MAX_MESSAGE
    """The longest message accepted from the server, in bytes. Default 64 MiB. Only on the `"trio"` wire."""
    max_values: int = MAX_VALUES
    """The most JSON values in one message from the server, counted roughly before it is parsed. Default 1,000,000. Only on the
    `"trio"` wire."""
    trusted: bool = False
    """Whether the annotations of its tools are believed, so that read-only and idempotent ones may be resent."""
    configure: Configure | None = None
    """An async function of the new `Session`, run before the session is first lent. Default `None`."""
    policy: PoolPolicy | None = None
    """Replaces the pool's policy as a whole."""

    def __post_init__(self) -> None:
        command = self.command
        if isinstance(command, os.PathLike):
            command = os.fspath(command)
        if not isinstance(command, str):
            raise TypeError(f"StdioServer.command must be a str or a path, not {type(self.command).__name__}")
        if not command:
            raise ValueError("StdioServer.command must not be empty")
        if isinstance(self.args, str) or not isinstance(self.args, Sequence):
            raise TypeError(
                f"StdioServer.args must be a sequence of str such as ('-m', 'server'), not {type(self.args).__name__}"
            )
        args = tuple(os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in self.args)
        for position, arg in enumerate(args):
            if not isinstance(arg, str):
                raise TypeError(
                    f"StdioServer.args[{position}] must be a str or a path, not {type(self.args[position]).__name__}"
                )
        object.__setattr__(self, "command", command)
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "env", frozen_map("StdioServer.env", self.env, _check_env))
        if self.cwd is not None and not isinstance(self.cwd, str | os.PathLike):
            raise TypeError(f"StdioServer.cwd must be a path or None, not {type(self.cwd).__name__}")
        if self.stderr not in ("log", "inherit", "discard"):
            raise ValueError(f"StdioServer.stderr must be 'log', 'inherit' or 'discard', not {self.stderr!r}")
        if self.wire not in ("trio", "sdk"):
            raise ValueError(f"StdioServer.wire must be 'trio' or 'sdk', not {self.wire!r}")
        check_limit("StdioServer", "max_message", self.max_message, "bytes")
        check_limit("StdioServer", "max_values", self.max_values, "JSON values")
        self._check()

    def __repr__(self) -> str:
        return f"<StdioServer {self.command!r} with {len(self.args)} arguments>"

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        link.phase, link.transport = "configure", "pipe"
        env = await resolve("StdioServer.env", self.env, link, "connect", _check_env)
        link.keep_secret(env.values())
        link.phase = "spawn"
        command = os.fspath(self.command)
        args = [os.fspath(arg) for arg in self.args]
        cwd = None if self.cwd is None else os.fspath(self.cwd)
        options: dict[str, Any] = {"stderr": self.stderr, "client_options": self._client_options(link)}
        if self.wire == "trio" and os.name == "posix":
            from .._wire.stdio._connect import connect_stdio

            options |= {"max_message": self.max_message, "max_values": self.max_values}
            wire = connect_stdio(link, command, args, env, cwd, **options)
        else:
            from .._wire.stdio._sdk import connect_sdk_stdio

            wire = connect_sdk_stdio(link, command, args, env, cwd, **options)
        try:
            async with wire as client:
                yield client
        except OSError as exc:
            if link.phase == "spawn":
                link.advice = spawn_trouble(exc, command, {**get_default_environment(), **env}, cwd)
            raise


def _check_env(field: str, env: Mapping[str, str]) -> None:
    """Raise `ValueError` for a variable that no process can be given. Its value is not shown."""
    for position, (name, value) in enumerate(env.items(), 1):
        if not name or "=" in name or "\0" in name:
            # `TOKEN=secret` in one string is a likely way to get here.
            raise ValueError(f"{field}: name number {position} must not be empty or contain '=' or a null character")
        if "\0" in value:
            raise ValueError(f"{field}[{name!r}] must not contain a null character")
