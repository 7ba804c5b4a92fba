"""What a scripted server remembers: every connection that was dialled and every tool that ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

ConnectionState: TypeAlias = Literal["dialling", "open", "closing", "closed"]


@final
@dataclass(frozen=True)
class CallRecord:
    """One execution of a tool. That it is in the list means that the tool ran, whatever the caller got."""

    connection: int
    """The number of the connection it came by, from 1."""
    tool: str
    """The tool's name."""
    arguments: dict[str, Any]
    """Its arguments."""
    started_at: float
    """When the request was read, on Trio's clock."""
    finished_at: float | None = None
    """When it was answered; `None` while it runs, and for ever if it was cancelled or its connection ended first."""
    cancelled: bool = False
    """Whether the client sent a cancellation while it ran."""

    @property
    def finished(self) -> bool:
        """Whether it was answered."""
        return self.finished_at is not None


@final
@dataclass(frozen=True)
class ConnectionRecord:
    """One dial and what became of it. All times are on Trio's clock."""

    number: int
    """From 1, in the order of the dials."""
    state: ConnectionState
    """`dialling` until the handshake is done, then `open`, `closing` while the client leaves, `closed` when it has left."""
    dialled_at: float
    """When the dial began."""
    opened_at: float | None = None
    """When the handshake was done; `None` if it never was."""
    died_at: float | None = None
    """When the server's side died of itself: by `kill()`, or at a gate; `None` if it did not."""
    closed_at: float | None = None
    """When the client had left it altogether; `None` before that."""
