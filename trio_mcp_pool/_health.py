"""What is remembered of a server that fails.

A server whose dial failed is left alone for a while, longer each time in a row (`Backoff`). The memory belongs to the
server and is shared by all its lanes, or else every new scope would knock at a dead server's door anew. While the row of
failures lasts, one dial at a time is on trial for all lanes; the others wait for its result.

A handshake does not end the row, because a server that shakes hands and dies at once would then be redialled in a storm.
A session ends it that has answered a request, or has lived for as long as the longest backoff. A session that dies
without having done either counts as a failure like any other, except that the first such death is free: a server killed
right after it started is dialled again at once.

Some failures will not mend themselves: no such command, refused credentials, a wrong configuration. They are tried again
at the backoff's cap, or at once after a drain or a reconfiguration.
"""

from __future__ import annotations

import math
import random
from typing import final

import trio

from ._errors import AuthenticationError, ConnectError, ServerUnavailableError
from ._policy import Backoff


def is_permanent(error: ConnectError, cause: BaseException | None) -> bool:
    """Whether dialling again soon is pointless."""
    if isinstance(error, AuthenticationError):
        return True
    if error.phase == "configure":
        # What the user's own function raised may pass; what the configuration lacks will not.
        return isinstance(cause, TypeError | ValueError)
    return isinstance(cause, FileNotFoundError | NotADirectoryError | PermissionError)


@final
class Health:
    """The failures in a row of one server, and until when it is left alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: int = 0
        self.deaths: int = 0
        self.retry_at: float = -math.inf
        self.error: ConnectError | None = None
        self.trial: object | None = None
        """The connection whose dial is on trial, while the row of failures lasts."""

    @property
    def left_alone(self) -> bool:
        """Whether the backoff still runs."""
        return self.retry_at > trio.current_time()

    def failed(self, error: ConnectError, cause: BaseException | None, backoff: Backoff) -> None:
        """A dial failed. Gives the error its `attempt` and `retry_after`."""
        self.failures += 1
        row = math.inf if is_permanent(error, cause) else self.failures
        delay = backoff.delay(int(row) if row < math.inf else 1_000_000, random.random())
        error.attempt = self.failures
        error.retry_after = delay
        error.__cause__ = cause
        self.error = error
        self.retry_at = trio.current_time() + delay

    def died_young(self, error: ConnectError, backoff: Backoff) -> None:
        """A session died that had proved nothing."""
        self.deaths += 1
        self.failures += 1
        delay = 0.0 if self.deaths == 1 and self.failures == 1 else backoff.delay(self.failures, random.random())
        error.attempt = self.failures
        error.retry_after = delay
        self.error = error
        self.retry_at = trio.current_time() + delay

    def proved(self) -> None:
        """The server has shown that it works: the row is over."""
        self.failures = self.deaths = 0
        self.retry_at = -math.inf
        self.error = None

    def forget(self) -> None:
        """Dial again at once, whatever was."""
        self.proved()
        self.trial = None

    def unavailable(self) -> ServerUnavailableError:
        """The error for a caller that is turned away."""
        last = self.error or ConnectError()
        wait = max(0.0, self.retry_at - trio.current_time())
        error = ServerUnavailableError(
            f"server {self.name!r} is left alone for another {wait:.3g} s after {self.failures} failure(s) in a row; "
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
