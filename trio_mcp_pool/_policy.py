"""How a server's sessions are kept: how many, how long, and how long their callers wait.

All durations are in seconds and all are finite unless `math.inf` is named as allowed. A policy is checked when it is
made: a wrong number that was found only in an owner task would fail hours later, and far from the line that has the mistake.
"""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, final

from ._arguments import explain_timeout, show_number

_INF = math.inf


def _number(owner: str, name: str, value: Any, *, least: float, open_at_least: bool = False, inf: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "None" if value is None else type(value).__name__
        mend = "; use math.inf for no limit" if value is None and inf else ""
        raise TypeError(f"{owner}.{name} must be a number, not {what}{mend}")
    bound = f"{'greater than' if open_at_least else 'at least'} {least:g}"
    try:
        number = float(value)
    except OverflowError:
        # An int has no largest value; a clock that counts in floats has.
        mend = "; use math.inf for no limit" if inf and value > 0 else ""
        raise ValueError(f"{owner}.{name} must be {bound} and fit a float, not {show_number(value)}{mend}") from None
    if math.isnan(number) or number < least or (open_at_least and number == least):
        raise ValueError(f"{owner}.{name} must be {bound}, not {value!r}")
    if not inf and math.isinf(number):
        raise ValueError(f"{owner}.{name} must be {bound} and finite, not {value!r}")


def _count(owner: str, name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        what = "None" if value is None else type(value).__name__
        raise TypeError(f"{owner}.{name} must be a whole number, not {what}")
    if value < least:
        raise ValueError(f"{owner}.{name} must be at least {least}, not {show_number(value)}")
    if value > sys.maxsize:
        raise ValueError(f"{owner}.{name} must be at most {sys.maxsize}, not {show_number(value)}")


@final
@explain_timeout
@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a server is in backoff, that is not dialled, after failed dials: `first`, then each time `factor` longer, up to
    `cap`.

    The n-th consecutive failure is followed by `min(cap, first * factor ** (n - 1))` seconds, shifted at random by up to
    `jitter` of itself in either direction so that many programs do not dial again at the same moment. An outage counts as one
    failure, however many dials or sessions it hits. The count starts again when a session answers a caller, or has lived for
    `cap` seconds.
    """

    first: float = 0.5
    """Seconds after the first failure; greater than 0. Default 0.5."""
    factor: float = 2
    """How much longer each further wait is; at least 1. Default 2."""
    cap: float = 60
    """The longest wait in seconds, before jitter; at least `first`. Default 60."""
    jitter: float = 0.1
    """The random shift, as a share of the wait; from 0 to 1. Default 0.1."""

    def __post_init__(self) -> None:
        _number("Backoff", "first", self.first, least=0, open_at_least=True)
        _number("Backoff", "factor", self.factor, least=1)
        _number("Backoff", "cap", self.cap, least=0, open_at_least=True)
        _number("Backoff", "jitter", self.jitter, least=0)
        if self.jitter > 1:
            raise ValueError(f"Backoff.jitter must be at most 1, not {self.jitter!r}")
        if self.cap < self.first:
            raise ValueError(f"Backoff.cap must be at least first ({self.first!r}), not {self.cap!r}")

    def delay(self, failures: float, random: float) -> float:
        """Seconds to wait after the given number of consecutive failures, which is `math.inf` where waiting for less would be
        pointless; `random` is drawn from [0, 1).
        """
        wait: float = self.cap
        if failures < math.inf:
            with suppress(OverflowError):  # a server that has failed for a day
                wait = min(self.cap, self.first * float(self.factor) ** (failures - 1))
        return wait * (1 + self.jitter * (2 * random - 1))


@final
@explain_timeout
@dataclass(frozen=True, kw_only=True)
class PoolPolicy:
    """How the sessions of a server are kept. Derive one from another with `dataclasses.replace`.

    A server's own policy replaces the pool's as a whole; the two are never mixed field by field.

    Raises `ValueError` or `TypeError` on construction, naming the field. There is no timeout for a call: the caller's cancel
    scope bounds it, `with trio.move_on_after(5): ...`.
    """

    idle_timeout: float = 300
    """Seconds that a session may be idle before it is closed; `inf` keeps it. Default 300."""
    max_lifetime: float = _INF
    """Seconds after which a session is replaced; shortened at random by up to 5 % so that sessions opened together do not all
    end together. It waits for running leases, however long. Default `inf`: never."""
    min_sessions: int = 0
    """Sessions per server, outside of scopes, that are dialled without a caller and kept open when idle. Default 0."""
    max_sessions: int = 1
    """The most sessions of one server and scope. A closing one counts until it has really gone. Default 1."""
    max_overlap: int = 1
    """The most sessions beyond `max_sessions` while old ones are replaced: for `max_lifetime`, `drain` or `reconfigure` the
    old session goes on until its successor is ready, and then drains. 0 for a server that must never run twice: then the old
    session is closed first. Inside `open_scope`, sessions are always replaced in that way. Default 1."""
    max_in_flight: int = 64
    """The most leases on one session at a time; 1 makes leases exclusive. A held session may carry any number of calls.
    Default 64."""
    max_waiting: int | None = None
    """The most callers that may wait, beyond those that the dials under way will serve; one more gets
    `TooManyWaitersError`. Default `None`: no limit."""
    connect_timeout: float = 30
    """Seconds for a dial, from its start (not while it is queued) to the end of the handshake; the server's `configure`
    function has as many again. Listing the tools is not part of it. Default 30; `inf` is allowed."""
    acquire_timeout: float = _INF
    """Seconds that a caller waits for a session before `AcquireTimeoutError`. Default `inf`: the caller's own scope decides."""
    drain_timeout: float = 30
    """Seconds that running leases are given on drain, remove, reconfigure and close. Default 30; `inf` is allowed."""
    close_timeout: float = 10
    """Seconds that a session has to close before its owner is cancelled. Finite. Default 10."""
    write_timeout: float = 10
    """Seconds without one byte of a waiting request accepted, after which a session counts as dead. Default 10;
    `inf` is allowed."""
    probe_interval: float | None = None
    """Seconds between probes of an idle session. Default `None`: idle sessions are not probed."""
    probe_timeout: float = 10
    """Seconds that a probe has to be answered; also the silence after a cancelled call that makes a session suspect.
    Default 10."""
    backoff: Backoff = field(default_factory=Backoff)
    """How long a server is not dialled after a failed dial."""
    when_unavailable: Literal["fail", "wait"] = "fail"
    """What a caller gets while a server is in backoff and has no session: `ServerUnavailableError` at once (`"fail"`, the
    default), or a place in the queue until the next dial (`"wait"`)."""

    def __post_init__(self) -> None:
        name = "PoolPolicy"
        _number(name, "idle_timeout", self.idle_timeout, least=0, inf=True)
        _number(name, "max_lifetime", self.max_lifetime, least=0, open_at_least=True, inf=True)
        _count(name, "min_sessions", self.min_sessions, least=0)
        _count(name, "max_sessions", self.max_sessions, least=1)
        _count(name, "max_overlap", self.max_overlap, least=0)
        _count(name, "max_in_flight", self.max_in_flight, least=1)
        if self.max_waiting is not None:
            _count(name, "max_waiting", self.max_waiting, least=0)
        if self.min_sessions > self.max_sessions:
            raise ValueError(
                f"{name}.min_sessions must be at most max_sessions ({self.max_sessions}), not {self.min_sessions}"
            )
        _number(name, "connect_timeout", self.connect_timeout, least=0, open_at_least=True, inf=True)
        _number(name, "acquire_timeout", self.acquire_timeout, least=0, inf=True)
        _number(name, "drain_timeout", self.drain_timeout, least=0, inf=True)
        _number(name, "close_timeout", self.close_timeout, least=0)
        _number(name, "write_timeout", self.write_timeout, least=0, open_at_least=True, inf=True)
        if self.probe_interval is not None:
            _number(name, "probe_interval", self.probe_interval, least=0, open_at_least=True)
        _number(name, "probe_timeout", self.probe_timeout, least=0, open_at_least=True)
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"{name}.backoff must be a Backoff, not {type(self.backoff).__name__}")
        if self.when_unavailable not in ("fail", "wait"):
            raise ValueError(f"{name}.when_unavailable must be 'fail' or 'wait', not {self.when_unavailable!r}")
