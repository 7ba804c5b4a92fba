"""What has changed in a catalogue since a reader last looked.

The rule: a reader gets the difference between two states, however many changes lie between. So a slow reader misses nothing
that is still true, and never makes the catalogue keep a backlog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, final

import trio

if TYPE_CHECKING:
    from ._entries import Entry
    from ._source import Kind

    Snapshot: TypeAlias = Mapping[tuple[str, Kind], tuple[Entry[Any], ...]]


@final
@dataclass(frozen=True, slots=True)
class CatalogChange:
    """A difference between two states of a catalogue."""

    added: tuple[Entry[Any], ...]
    """What is new."""
    removed: tuple[Entry[Any], ...]
    """What is gone, as it was."""
    changed: tuple[Entry[Any], ...]
    """What is described otherwise than before, or has become stale or fresh, as it is now."""
    problems: Mapping[str, Exception | None]
    """By server: the problems that are new or others, `None` where one has gone."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.problems)


class Changing(Protocol):
    """What a reader needs of a catalogue, which is above."""

    closed: bool
    _moved: trio.Event

    @property
    def problems(self) -> dict[str, Exception]:
        """As `Catalog.problems`."""

    def _snapshot(self) -> Snapshot:
        """The lists as they are now."""


def _named(entries: tuple[Entry[Any], ...]) -> dict[str, Entry[Any]]:
    return {entry.name: entry for entry in entries}


def difference(old: Snapshot, new: Snapshot) -> CatalogChange:
    """What lies between two snapshots; those lists that are the same object are not looked into."""
    added: list[Entry[Any]] = []
    removed: list[Entry[Any]] = []
    changed: list[Entry[Any]] = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key, ()), new.get(key, ())
        if before is after:
            continue
        was, now = _named(before), _named(after)
        added += [entry for name, entry in now.items() if name not in was]
        removed += [entry for name, entry in was.items() if name not in now]
        changed += [entry for name, entry in now.items() if name in was and was[name] != entry]
    return CatalogChange(tuple(added), tuple(removed), tuple(changed), {})


@final
class Changes:
    """An async iterator of differences, coalesced. Ends when the pool, or the scope, closes. Made by `Catalog.changes`."""

    def __init__(self, catalog: Changing) -> None:
        """For the catalogue itself."""
        self._catalog = catalog
        self._snapshot = catalog._snapshot()
        self._problems = dict(catalog.problems)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CatalogChange:
        """The next difference, as soon as there is one. Checkpoints."""
        await trio.lowlevel.checkpoint()
        while True:
            moved = self._catalog._moved
            change = self._next()
            if change:
                return change
            if self._catalog.closed:
                raise StopAsyncIteration
            await moved.wait()

    def _next(self) -> CatalogChange:
        snapshot, problems = self._catalog._snapshot(), dict(self._catalog.problems)
        change = difference(self._snapshot, snapshot)
        told = {
            server: problems.get(server)
            for server in dict.fromkeys((*self._problems, *problems))
            if self._problems.get(server) is not problems.get(server)
        }
        self._snapshot, self._problems = snapshot, problems
        return CatalogChange(change.added, change.removed, change.changed, told)
