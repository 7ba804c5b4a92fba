"""What commands share: the targets that the command line names, and an open pool over them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from .. import (
    DialFailed,
    Event,
    HttpServer,
    Observer,
    Pool,
    PoolPolicy,
    Server,
    SessionOpened,
    StdioServer,
    open_pool,
)
from ..config import parse_duration
from ._failures import Usage
from ._output import Output
from ._targets import Targets


class DialTimes:
    """An observer that keeps how long each server's dial took, and the processes that were started."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.pids: dict[int, str] = {}

    def event(self, e: Event) -> None:
        """Keep what is wanted."""
        if isinstance(e, SessionOpened | DialFailed):
            self.seconds[e.server] = e.seconds
        if isinstance(e, SessionOpened) and e.pid is not None:
            self.pids[e.pid] = e.server


def duration(text: str | None, default: float, option: str) -> float:
    """An option's seconds. Raises `Usage`."""
    if text is None:
        return default
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Usage(f"{option}: {error}") from None


class Context:
    """One run of the command line."""

    def __init__(self, options: argparse.Namespace, out: Output, shared: tuple[Pool, Targets] | None = None) -> None:
        self.options = options
        self.out = out
        self.times = DialTimes()
        self.interrupt: Callable[[], object] | None = None
        """What control-C does instead of ending the command; for the shell."""
        self.timeout = duration(getattr(options, "timeout", None), math.inf, "--timeout")
        self.connect_timeout = duration(getattr(options, "connect_timeout", None), 0, "--connect-timeout")
        self._pool = shared[0] if shared else None
        self.targets = shared[1] if shared else Targets(options, out)

    @property
    def shows_progress(self) -> bool:
        """Whether a bar may be drawn: only on a terminal."""
        return sys.stderr.isatty() and self.out.is_table

    def policy(self, server: Server) -> PoolPolicy | None:
        """The server's policy, with what the command line says."""
        if self.connect_timeout:
            return replace(server.policy or PoolPolicy(), connect_timeout=self.connect_timeout)
        return server.policy

    def with_policy(self, server: Server) -> Server:
        """The server with what the command line says about it."""
        if self.connect_timeout and isinstance(server, StdioServer | HttpServer):
            return replace(server, policy=self.policy(server))
        return server

    @asynccontextmanager
    async def pool(self, servers: Mapping[str, Server]) -> AsyncIterator[Pool]:
        """A pool over these servers: the shell's, where there is one."""
        if self._pool is not None:
            for name, server in servers.items():
                if name not in self.targets.open_servers:
                    self._pool.add_server(name, self.with_policy(server))
                    self.targets.open_servers[name] = server
            yield self._pool
            return
        async with self.new_pool(servers, self.times, max(8, min(32, len(servers)))) as pool:
            yield pool

    @asynccontextmanager
    async def new_pool(
        self, servers: Mapping[str, Server], observer: Observer, max_connecting: int = 8
    ) -> AsyncIterator[Pool]:
        """A pool of its own over these servers, as the command line and their files want it."""
        options = self.targets.pool_options(servers.values())
        opening = open_pool(
            {name: self.with_policy(server) for name, server in servers.items()},
            max_connecting=options.get("max_connecting", max_connecting),
            max_sessions_total=options.get("max_sessions_total"),
            observers=[observer],
        )
        async with AsyncExitStack() as stack:
            try:
                pool = await stack.enter_async_context(opening)
            except ValueError as error:  # the numbers of the file do not go together
                raise Usage(str(error)) from None
            yield pool
