"""What the core tells of itself beside events: to the catalogue, once there is one.

It differs from an observer. It is told of a handful of things, so that a pool with a catalogue need not make an event of every
lease; it is told before the observers; and it may be there from the middle of the pool's life on. All that it is told comes in
a step, in which it must only take note; `tell` is called after it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from .._connection._record import Connection


class Hub(Protocol):
    """Told by the core. All synchronous; none may raise."""

    @property
    def pending(self) -> bool:
        """Whether `tell` has something to do."""

    def dialling(self, connection: Connection, /) -> None:
        """Its owner starts now: nothing has come from the server yet."""

    def moved(self, connection: Connection, /) -> None:
        """Its dial is over, it begins to close, or it is gone."""

    def server_changed(self, name: str, /) -> None:
        """A server of that name was added, removed, or replaced by one that differs in more than its policy."""

    def closing(self, scope: Hashable = None, /) -> None:
        """The pool begins to close; with the key of an `open_scope` block, that scope does."""

    def tell(self) -> None:
        """The outermost step is over: tell those whom it concerns."""
