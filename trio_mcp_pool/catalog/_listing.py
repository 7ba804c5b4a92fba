"""What is known of one server's lists, and what must be asked for: a synchronous record, without any waiting.

The rule: a listing that was under way when a newer one was adopted is dropped; one during which the server reported a change
is kept, because it is newer than what there was, but is followed by another. The obvious way, to store whatever answer comes
last, lets a slow answer replace a newer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, final

from ._entries import Entry
from ._source import KINDS, Kind


def name_of(kind: Kind, value: Any) -> str:
    """The name by which a server knows one of its things."""
    if kind == "resources":
        return str(value.uri)
    return str(value.uri_template if kind == "resource_templates" else value.name)


@final
class Shelf:
    """The lists of one server."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.wanted: set[Kind] = set()
        """What anybody has asked for. Nothing else is listed."""
        self.error: Exception | None = None
        """Why the last listing failed; `None` where it did not, or where there was none."""
        self.overdue: Exception | None = None
        """Set where somebody's deadline passed while the first listing was still under way."""
        self.running = False
        self._values: dict[Kind, tuple[Any, ...]] = {}
        self._dirty: set[Kind] = set()
        self._adoptions: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._changes: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._fresh_until: dict[Kind, float] = {}
        self._entries: dict[Kind, tuple[Entry[Any], ...]] = {}

    def __repr__(self) -> str:
        return f"<Shelf of {self.server!r}: {sorted(self._values)}, to be listed: {sorted(self.needs())}>"

    def copy(self) -> Shelf:
        """The same knowledge, for a scope that goes its own way from here."""
        other = Shelf(self.server)
        other.wanted = set(self.wanted)
        other.error = self.error
        other._values, other._dirty = dict(self._values), set(self._dirty)
        other._fresh_until = dict(self._fresh_until)
        return other

    def needs(self) -> set[Kind]:
        """What must be listed."""
        return {kind for kind in self.wanted if kind not in self._values or kind in self._dirty}

    @property
    def problem(self) -> Exception | None:
        """Why its entries are missing or stale."""
        return self.error or (self.overdue if self.running else None)

    def known(self, kind: Kind) -> tuple[Any, ...] | None:
        """What was listed last; `None` where nothing ever was."""
        return self._values.get(kind)

    def entries(self, kind: Kind) -> tuple[Entry[Any], ...]:
        """The entries of one kind. The same object until something changes."""
        made = self._entries.get(kind)
        if made is None:
            stale = self.error is not None or kind in self._dirty
            made = self._entries[kind] = tuple(
                Entry(kind, self.server, name_of(kind, value), value, stale) for value in self._values.get(kind, ())
            )
        return made

    def fail(self, error: Exception | None) -> None:
        """The listing failed, or did not."""
        if (error is None) != (self.error is None):
            self._entries.clear()
        self.error = error

    def invalidate(self, kinds: Iterable[Kind]) -> None:
        """What was listed so far is out of date."""
        for kind in kinds:
            self._changes[kind] += 1
            self._fresh_until.pop(kind, None)
            if kind in self._values and kind not in self._dirty:
                self._dirty.add(kind)
                self._entries.pop(kind, None)

    def expire(self, now: float) -> None:
        """A new session has come: everything is out of date but what the server said would hold longer."""
        self.invalidate([kind for kind in self._values if self._fresh_until.get(kind, -math.inf) <= now])

    def ticket(self, kind: Kind) -> tuple[int, int]:
        """Taken when a listing begins; `store` wants it back."""
        return self._adoptions[kind], self._changes[kind]

    def store(self, kind: Kind, values: tuple[Any, ...], fresh_until: float, ticket: tuple[int, int] | None) -> bool:
        """What a listing gave; without a ticket, what a new session brought along. Returns whether anything differs."""
        if ticket is None:
            self._adoptions[kind] += 1
        elif ticket[0] != self._adoptions[kind]:
            return False
        # Equal objects stay the same ones, so that what was made from them, formats and checks, is kept.
        old = {name_of(kind, value): value for value in self._values.get(kind, ())}
        kept = tuple(before if (before := old.get(name_of(kind, value))) == value else value for value in values)
        before = self._values.get(kind)
        differs = (
            before is None or len(before) != len(kept) or any(a is not b for a, b in zip(before, kept, strict=True))
        )
        was_dirty = kind in self._dirty
        if differs:
            self._values[kind] = kept
        if ticket is None or ticket[1] == self._changes[kind]:
            self._dirty.discard(kind)
            if fresh_until > -math.inf:
                self._fresh_until[kind] = fresh_until
        if differs or was_dirty:
            self._entries.pop(kind, None)
        return differs or was_dirty
