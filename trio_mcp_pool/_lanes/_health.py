"""What is remembered of a server that fails (R5).

After a failed dial the server is in backoff: no dial of it starts, longer after each further failure (`Backoff`). The memory
belongs to the server and is shared by all its lanes; otherwise every new scope would dial a dead server anew.

An outage counts once, however many dials or sessions it hits. A failure counts only if its dial started after the last
failure that is known and after the last proof that the server works. Time cannot decide that, because many things happen at
the same time, so dials, failures and proofs are numbered in the order in which they happen.

A handshake proves nothing: a server that shakes hands and dies at once would then be dialled in a storm. A session proves
that the server works by an answer to a caller, or by having lived for as long as the longest backoff. A session that dies
before that counts as a failure of its dial.

Some failures do not pass by themselves: no such command, refused credentials. They are tried again at the backoff's cap, or
at once after a drain or a reconfiguration.
"""

from __future__ import annotations

import math
import random
from typing import final

import trio

from .._errors import AuthenticationError, ConnectError, ServerUnavailableError
from .._policy import Backoff
from .._wire._causes import kind_of


def is_permanent(error: ConnectError, cause: BaseException | None) -> bool:
    """Whether dialling again soon is pointless."""
    if isinstance(error, AuthenticationError):
        return True
    if error.phase in ("configure", "setup"):
        return False  # what the user's own function raised may pass
    kind = kind_of(cause)
    return kind is not None and issubclass(kind, FileNotFoundError | NotADirectoryError | PermissionError)


@final
class Health:
    """The consecutive failures of one server, and until when it is in backoff."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: int = 0
        self.retry_at: float = -math.inf
        self.error: ConnectError | None = None
        """The last failure, until the server is proved to work."""
        self._order = 0
        self._last_known = 0
        """The place in the order of the last failure that counted, or of the last proof."""

    @property
    def in_backoff(self) -> bool:
        """Whether no dial may start now."""
        return self.retry_at > -math.inf and self.retry_at > trio.current_time()

    def next_mark(self) -> int:
        """The next place in the order: what a dial is given when it starts."""
        self._order += 1
        return self._order

    def failed(self, mark: int, error: ConnectError, cause: BaseException | None, backoff: Backoff) -> bool:
        """A dial of that mark failed, or its session died before it proved anything. Returns whether it counts.

        Gives the error its `attempt` and `retry_after`.
        """
        counts = mark > self._last_known
        if counts:
            self._last_known = self.next_mark()
            self.failures += 1
            delay = backoff.delay(math.inf if is_permanent(error, cause) else self.failures, random.random())
            self.retry_at = trio.current_time() + delay
        error.attempt = self.failures
        error.retry_after = max(0.0, self.retry_at - trio.current_time())
        if counts or self.error is None:
            self.error = error._fresh()
        return counts

    def proved(self) -> None:
        """The server has shown that it works: the failures are over."""
        self._last_known = self.next_mark()
        self.failures = 0
        self.retry_at = -math.inf
        self.error = None

    def forget(self) -> None:
        """Dial again at once, whatever was."""
        self.failures = 0
        self.retry_at = -math.inf
        self.error = None

    def unavailable(self) -> ServerUnavailableError:
        """The error for a caller that fails fast, while the server is in backoff."""
        last = self.error or ConnectError()
        wait = self.retry_at - trio.current_time()
        error = ServerUnavailableError(
            f"server {self.name!r} is in backoff for another {wait:.3g} s after {self.failures} consecutive failure(s); "
            f"the last: {last}",
            server=self.name,
            phase=last.phase,
            exit_status=last.exit_status,
            stderr_tail=last.stderr_tail,
            attempt=self.failures,
            retry_after=wait,
        )
        error.__cause__ = last.__cause__ if last.__cause__ is not None else self.error
        return error
