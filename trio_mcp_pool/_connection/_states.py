"""The states of a connection, and which may follow which.

A connection is always in exactly one state:

- `DIALING`: the dial waits for its turn, or its owner is entering the transport and the session. It goes on to `READY`, or,
  when the dial fails or is aborted, to `CLOSING`.
- `READY`: the session is live. With no lease it is *idle*, with one or more *in use*. It goes on to `DRAINING` when it must
  end but leases still run, to `BROKEN` when it dies, and to `CLOSING` when it may end at once.
- `DRAINING`: takes no new leases, lets the running ones finish, then goes to `CLOSING`; it may die before that.
- `BROKEN`: it was found dead. It goes on to `CLOSING` in the same step; the state exists so that the table shows the way.
- `CLOSING`: the owner is leaving the session and the transport. From here a failed dial goes to `FAILED` and everything
  else to `CLOSED`, and only then does the connection stop counting (R9).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class State(enum.Enum):
    """The states of a connection; the module's docstring describes them."""

    DIALING = "dialing"
    READY = "ready"
    DRAINING = "draining"
    BROKEN = "broken"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.DIALING: frozenset({State.READY, State.CLOSING}),
    State.READY: frozenset({State.DRAINING, State.BROKEN, State.CLOSING}),
    State.DRAINING: frozenset({State.BROKEN, State.CLOSING}),
    State.BROKEN: frozenset({State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED, State.FAILED}),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset(),
}
