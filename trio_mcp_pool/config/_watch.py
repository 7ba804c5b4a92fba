"""`watch_config`: what changed in a configuration, as it changes.

The files are looked at once a second. A library that is told by the system would be quicker by half a second, needs a thread
or a compiled module, and misses changes on network file systems and in containers.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, final

import trio

from ._load import Servers, load_servers
from ._problems import ConfigError, Place, Problem

_Stamp: TypeAlias = "tuple[tuple[int, int, int] | None, ...]"


@final
@dataclass(frozen=True)
class ConfigChange:
    """What a configuration says now, and what is different from before."""

    servers: Servers
    """All servers as they are now: what `Pool.reconfigure` takes. Where the file cannot be read, those of before."""
    added: frozenset[str]
    """The names that were not there before."""
    removed: frozenset[str]
    """The names that are there no more."""
    changed: frozenset[str]
    """The names whose server is another than before."""
    error: ConfigError | OSError | None = None
    """Why the file could not be read, or `None`."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong in the file now."""
        if isinstance(self.error, ConfigError):
            return self.error.problems
        if self.error is not None:
            message = f"the file cannot be read: {self.error.strerror}"
            return (Problem(Place(self.servers.source), "", message, "Check the path."),)
        return self.servers.problems


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            found = os.stat(file)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)


def _change(before: Servers, after: Servers, error: ConfigError | OSError | None) -> ConfigChange:
    return ConfigChange(
        after,
        frozenset(after.keys() - before.keys()),
        frozenset(before.keys() - after.keys()),
        frozenset(name for name in after.keys() & before.keys() if after[name] != before[name]),
        error,
    )


@final
class _Watch:
    """The iterator. Not an async generator, which a cancelled step would end, and which must be closed by whoever uses it."""

    def __init__(self, file: Path, since: Servers | None, interval: float, options: dict[str, Any]) -> None:
        self._load = partial(load_servers, file, **options)
        self._interval = interval
        self._servers = Servers(source=str(file)) if since is None else since
        self._files: tuple[Path, ...] = (since.files if since is not None else ()) or (file,)
        self._problems = self._servers.problems
        self._first = since is None
        self._seen: _Stamp | None = None

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> ConfigChange:
        while True:
            stamp = await trio.to_thread.run_sync(_stamp, self._files)
            if stamp == self._seen:
                await trio.sleep(self._interval)
                continue
            while not self._first and (later := await self._later()) != stamp:
                stamp = later  # still being written
            change = await self._look(stamp)
            if change is not None:
                return change

    async def _later(self) -> _Stamp:
        await trio.sleep(self._interval)
        return await trio.to_thread.run_sync(_stamp, self._files)

    async def _look(self, stamp: _Stamp) -> ConfigChange | None:
        """Read the file; gives what is different, or `None`."""
        error: ConfigError | OSError | None = None
        try:
            loaded = await trio.to_thread.run_sync(self._load)
        except (ConfigError, OSError) as failed:
            error, loaded = failed, self._servers
        change = _change(self._servers, loaded, error)
        if loaded.files and loaded.files != self._files:
            stamp = await trio.to_thread.run_sync(_stamp, loaded.files)
            self._files = loaded.files
        news = self._first or change.added or change.removed or change.changed or change.problems != self._problems
        # All that is remembered changes in one step, so that a step that was cancelled is made again.
        self._servers, self._problems, self._seen, self._first = loaded, change.problems, stamp, False
        return change if news else None


def watch_config(
    path: str | os.PathLike[str], *, since: Servers | None = None, interval: float = 1.0, **options: Any
) -> AsyncIterator[ConfigChange]:
    """Give what changed, each time that the file, or an `envFile` that it names, has changed. Never ends by itself.

    The first change comes at once and has every server as added; with `since`, what `load_servers` gave before, it comes
    when something differs from that. A file that is broken, or away, gives a change with its `error` and the servers of
    before, so that `await pool.reconfigure(change.servers)` is right for every change. `interval` is in seconds, 1 by
    default; a change is read once the file has not changed for as long. Other options are those of `load_servers`; `ask` and
    `auth` are called in a thread.

    Synchronous; each step of the iterator checkpoints, and one that was cancelled can be made again. A step raises what `ask`
    and `auth` raise, and `TypeError` for unknown options.
    """
    return _Watch(Path(path).expanduser(), since, interval, options)
