"""The events of a pool as lines of a log: for whoever wants to see what a pool does before choosing what to measure.

One line for each event, in the order in which they happen, with the numbers that the event carries and nothing else. What an
operator should look at is a warning; what sessions do is information; what single callers do, which is most of it, is for
debugging.
"""

from __future__ import annotations

import logging
from typing import Final, final

from . import _events as events

_WARNINGS: Final = (events.DialFailed, events.SessionDied)
_CALLERS: Final = (events.WaitStarted, events.LeaseStarted, events.LeaseEnded)


@final
class LogObserver:
    """An observer that writes a readable line for each event: `open_pool(servers, observers=[LogObserver()])`.

    `logger` defaults to `trio_mcp_pool.events`. Failed dials, lost sessions, processes that had to be killed and callers that
    got no session are logged as `WARNING`; what else happens to sessions as `INFO`; callers that come, wait and go as `DEBUG`.
    No line holds credentials, arguments or results.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger] | None = None) -> None:
        self._logger = logging.getLogger("trio_mcp_pool.events") if logger is None else logger

    def event(self, e: events.Event, /) -> None:
        """Called by the pool."""
        level = _level(e)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s%s", _whose(e), _what(e))


def _level(e: events.Event) -> int:
    if isinstance(e, _WARNINGS) or (isinstance(e, events.AcquireFailed) and e.reason != "cancelled"):
        return logging.WARNING
    if isinstance(e, events.SessionClosed | events.PoolClosed) and (e.killed or e.left_behind):
        return logging.WARNING
    if isinstance(e, (*_CALLERS, events.AcquireFailed)):
        return logging.DEBUG
    return logging.INFO


def _whose(e: events.Event) -> str:
    if not e.server:
        return "pool: "
    scope = "" if e.scope is None else f", scope {e.scope!r}"
    session = f", session {e.connection}" if isinstance(e, events.ConnectionEvent) else ""
    return f"server {e.server!r}{scope}{session}: "


def _what(e: events.Event) -> str:
    match e:
        case events.DialStarted():
            return "dialling"
        case events.DialFailed():
            return f"the dial failed after {_span(e.seconds)}: {e.error}"
        case events.SessionOpened():
            return f"ready after {_span(e.seconds)}" + (f", process {e.pid}" if e.pid is not None else "")
        case events.SessionDied():
            return f"lost: {e.reason}"
        case events.SessionClosed():
            status = f", exit status {e.exit_status}" if e.exit_status is not None else ""
            return f"closed ({e.reason}) at the age of {_span(e.age)}, in {_span(e.seconds)}{status}{_processes(e)}"
        case events.WaitStarted():
            return "a caller waits"
        case events.LeaseStarted():
            return f"leased, waited {_span(e.waited)}"
        case events.LeaseEnded():
            return f"released, used {_span(e.used)}"
        case events.AcquireFailed():
            return f"a caller got no session ({e.reason}), waited {_span(e.waited)}"
        case events.CallResent():
            return f"{e.method} is sent again"
        case events.PoolClosed():
            return f"closed in {_span(e.seconds)}{_processes(e)}"
        case _:
            return type(e).__name__


def _processes(e: events.SessionClosed | events.PoolClosed) -> str:
    killed = f", killed {', '.join(map(str, e.killed))}" if e.killed else ""
    left = f", still running {', '.join(map(str, e.left_behind))}" if e.left_behind else ""
    return killed + left


def _span(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
