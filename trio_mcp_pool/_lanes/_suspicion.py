"""When a session is suspect, and what a probe decides (R11).

A call that was cancelled or timed out makes its session *suspect*, unless something is heard of the server afterwards. A
suspect session is lent only where nothing else can be had. It is probed after `probe_timeout` seconds of silence, or at once
when it is lent, so that a single-threaded server can answer the probe before it begins to work. Callers
that get the session from then on share the result: a failed probe is death.

Calls that already ran when the session became suspect are protected: a server with one thread cannot answer a probe while
it works, and its long call must not die for that. While one of them runs, a failed probe only makes the session *unfit*: it
is not lent, and is probed again.

Taking every cancelled call for a sign of death would be wrong, because callers cancel for reasons of their own; and waiting
for the next call to find out would leave that call waiting for ever.
"""

from __future__ import annotations

import math

import trio

from .._connection._record import Connection
from .._wire._link import Call


def is_suspect(connection: Connection) -> bool:
    """Whether it is suspect."""
    return connection.suspect_since < math.inf


def suspect(connection: Connection, besides: Call) -> None:
    """A call, `besides`, was cancelled or timed out."""
    connection.suspect_since = trio.current_time()
    connection.protected = frozenset(connection.calls - {besides})


def clear(connection: Connection) -> None:
    """Something was heard of the server: it is not suspect any more."""
    connection.suspect_since = math.inf
    connection.protected = frozenset()
    connection.probe_wanted = False
    connection.unfit = False


def was_heard(connection: Connection) -> bool:
    """Whether bytes have arrived since it became suspect. Not every wire reports that."""
    return connection.link.heard_at > connection.suspect_since


def probe_due_at(connection: Connection) -> float:
    """When it is to be probed; `inf` where it is not suspect."""
    if connection.probe_wanted:
        return connection.suspect_since
    return connection.suspect_since + connection.policy.probe_timeout


def failed_probe(connection: Connection) -> bool:
    """A probe was not answered. Returns whether that is death; otherwise the session is unfit from now on."""
    if connection.protected & connection.calls:
        connection.unfit = True
        connection.probe_wanted = False
        connection.suspect_since = trio.current_time()
        return False
    return True
