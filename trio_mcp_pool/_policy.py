"""How a server's sessions are kept: how many, how long, and how patiently.

All durations are in seconds and all are finite unless `math.inf` is named as allowed. A policy is checked when it is
made, so that a wrong number fails where it was written and not at three in the morning in an owner task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, final

_INF = math.inf


def _number(owner: str, name: str, value: Any, *, least: float, open_at_least: bool = False, inf: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{owner}.{name} must be a number, not {type(value).__name__}")
    bound = f"{'greater than' if open_at_least else 'at least'} {least:g}"
    if math.isnan(value) or value < least or (open_at_least and value == least):
        raise ValueError(f"{owner}.{name} must be {bound}, not {value!r}")
    if not inf and math.isinf(value):
        raise ValueError(f"{owner}.{name} must be {bound} and finite, not {value!r}")


def _count(owner: str, name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}.{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{owner}.{name} must be at least {least}, not {value!r}")


@final
@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a server is left alone after its dials failed: `first`, then each time `factor` longer, up to `cap`.

    The n-th failure in a row is followed by `min(cap, first * factor ** (n - 1))` seconds, shifted at random by up to
    `jitter` of itself in either direction so that many programs do not come back in step. A session that answered a
    request ends the row.
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

    def delay(self, failures: int, random: float) -> float:
        """Seconds to wait after the given number of failures in a row; `random` is drawn from [0, 1)."""
        # The exponent is bounded so that a server that has failed for a year does not overflow a float.
        wait = min(self.cap, self.first * self.factor ** min(failures - 1, 1000)) if failures < 1000 else self.cap
        return wait * (1 + self.jitter * (2 * random - 1))


@final
@dataclass(frozen=True, kw_only=True)
class PoolPolicy:
    """How the sessions of a server are kept. Derive one from another with `dataclasses.replace`.

    A server's own policy replaces the pool's as a whole; the two are never mixed field by field.

    Raises `ValueError` or `TypeError` on construction, naming the field.
    """

    idle_timeout: float = 300
    """Seconds a session may lie idle before it is closed; `inf` keeps it. Default 300."""
    max_lifetime: float = _INF
    """Seconds after which a session is replaced once its running leases have ended; shortened at random by up to 5 % so
    that sessions opened together do not all end together. Default `inf`: never."""
    min_sessions: int = 0
    """Sessions kept open per server outside of scopes, dialled without being asked. Default 0."""
    max_sessions: int = 1
    """The most sessions of one server and scope, closing ones included. Default 1."""
    max_in_flight: int = 64
    """The most leases on one session at a time; 1 makes leases exclusive. A held session may carry any number of calls.
    Default 64."""
    max_waiting: int | None = None
    """The most callers that may wait, beyond what the dials under way will serve; one more gets `TooManyWaitersError`.
    Default `None`: no limit."""
    connect_timeout: float = 30
    """Seconds for a dial, from its start to the end of the handshake. Default 30; `inf` is allowed."""
    acquire_timeout: float = _INF
    """Seconds a caller waits for a session before `AcquireTimeoutError`. Default `inf`: the caller's own scope decides."""
    drain_timeout: float = 30
    """Seconds that running leases are given on drain, remove, reconfigure and close. Default 30; `inf` is allowed."""
    close_timeout: float = 10
    """Seconds that a session has to close before its owner is cancelled. Finite. Default 10."""
    write_timeout: float = 10
    """Seconds without one byte of a waiting request accepted after which a session counts as dead. Default 10;
    `inf` is allowed."""
    probe_interval: float | None = None
    """Seconds between probes of an idle session. Default `None`: idle sessions are not probed."""
    probe_timeout: float = 10
    """Seconds that a probe has to be answered, and of silence after a cancelled call that make a session suspect.
    Default 10."""
    backoff: Backoff = field(default_factory=Backoff)
    """How long a server is left alone after a failed dial."""
    when_unavailable: Literal["fail", "wait"] = "fail"
    """What a caller gets while a server is left alone after a failed dial: `ServerUnavailableError` at once (`"fail"`, the
    default), or a place in the queue until the next dial (`"wait"`)."""

    def __post_init__(self) -> None:
        name = "PoolPolicy"
        _number(name, "idle_timeout", self.idle_timeout, least=0, inf=True)
        _number(name, "max_lifetime", self.max_lifetime, least=0, open_at_least=True, inf=True)
        _count(name, "min_sessions", self.min_sessions, least=0)
        _count(name, "max_sessions", self.max_sessions, least=1)
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
