"""One connection and the task that owns it.

A connection begins as a wish and ends as a number in the books. In between it is always in exactly one state:

- `DIALING`: the owner is on its way in, or waits for its turn to dial. It goes on to `READY`, or, when the dial fails or is
  called off, to `CLOSING`.
- `READY`: the session is live. With no lease on it, it is *idle*; with one or more, *in use*. It goes on to `DRAINING` when
  it must end but leases still run, to `BROKEN` when it dies, and to `CLOSING` when nobody minds.
- `DRAINING`: takes no new leases, lets the running ones finish, then goes to `CLOSING`; it may die before that.
- `BROKEN`: it was found dead. It goes on to `CLOSING` in the same step; the state is there so that the way is on record.
- `CLOSING`: the owner is on its way out. From here a failed dial goes to `FAILED` and everything else to `CLOSED`, and only
  then does the connection stop counting (R9).

The owner is one task. It enters transport and session, says so to the lane, naps, and leaves both (R1). While it naps it
holds one cancel scope whose deadline is the next moment at which there is something to ask (R7): has it lain idle too
long, is it too old, has draining lasted long enough, should it be probed? A deadline that fires decides nothing. The owner
asks the lane, synchronously, and the lane looks at how things stand now; so a lease taken at the very instant of the
deadline always wins. Giving and ending leases does not touch the nap: the deadline may be early, and then the answer is
'not yet'. That keeps a call free of timers.

Everything else reaches the owner through that one scope. To end a connection, the lane sets its state and cancels the nap.
The owner itself is cancelled only when a deadline has passed, because a cancelled owner skips the courtesies of closing,
such as the request that frees a session on an HTTP server.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, final

import mcp
import trio
from mcp import MCPError
from pydantic import ValidationError

from ._errors import ConnectError, OutcomeUnknownError, PoolClosedError, PoolError, SessionLostError
from ._wire._bare import essence, interrupt_in
from ._wire._link import Call, Link
from ._wire._probe import probe

if TYPE_CHECKING:
    import mcp_types as types

    from ._events import CloseReason
    from ._policy import PoolPolicy
    from ._servers import Server

logger = logging.getLogger("trio_mcp_pool")

# A listing that never ends must not hold a dial: no server has this many pages of tools.
_MOST_PAGES = 100


class State(enum.Enum):
    """The states of a connection; the module's docstring tells its life."""

    DIALING = "dialing"
    READY = "ready"
    DRAINING = "draining"
    BROKEN = "broken"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


# `live` is asked several times per call, and to look up a member of an enumeration takes longer than to compare it.
_READY, _DRAINING = State.READY, State.DRAINING

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.DIALING: frozenset({State.READY, State.CLOSING}),
    State.READY: frozenset({State.DRAINING, State.BROKEN, State.CLOSING}),
    State.DRAINING: frozenset({State.BROKEN, State.CLOSING}),
    State.BROKEN: frozenset({State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED, State.FAILED}),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset(),
}

EndReason: TypeAlias = "CloseReason | Literal['failed']"


class Listener(Protocol):
    """What a connection tells: the lane it belongs to. All synchronous."""

    def dialled(self, connection: Connection, /) -> None:
        """The session is ready."""

    def dial_failed(self, connection: Connection, error: ConnectError, cause: BaseException | None, /) -> None:
        """The dial has failed; cleaning up may still take a while."""

    def died(self, connection: Connection, /) -> None:
        """The session was found dead."""

    def proved(self, connection: Connection, /) -> None:
        """The server answered a first request."""

    def next_question(self, connection: Connection, /) -> float:
        """When there will be something to ask, on Trio's clock."""

    def asked(self, connection: Connection, /) -> bool:
        """The moment has come: end it, or not. Returns whether it should be probed."""

    def probed(self, connection: Connection, alive: bool, /) -> None:
        """A probe was answered, or was not."""

    def gone(self, connection: Connection, /) -> None:
        """Nothing of the connection is left."""

    def fatal(self, error: BaseException, /) -> None:
        """A `KeyboardInterrupt` or `SystemExit` came out of the owner."""

    def spawn(self, task: Callable[[], Awaitable[None]], name: str, /) -> None:
        """Run a task beside the owner."""


@final
class Connection:
    """One connection: its state, its leases, and its owner task."""

    def __init__(self, number: int, name: str, server: Server, policy: PoolPolicy, listener: Listener) -> None:
        self.number = number
        self.name = name
        self.server = server
        self.policy = policy
        self.listener = listener
        self.state: State = State.DIALING
        self.end_reason: EndReason | None = None
        self.link: Link = Link(
            name,
            on_lost=self._on_lost,
            on_failing=self._on_failing,
            connect_timeout=policy.connect_timeout,
            close_timeout=policy.close_timeout,
            write_timeout=policy.write_timeout,
            probe_timeout=policy.probe_timeout,
        )
        self.client: mcp.Client | None = None
        self.annotations: dict[str, types.ToolAnnotations] = {}
        """What the server says of its tools; looked at only when the server is trusted."""

        # What the lane keeps here.
        self.leases: set[object] = set()
        self.last_used = 0
        self.proven = False
        self.suspect_since: float = math.inf
        """Since when silence has to be explained; `inf` while nothing is suspicious."""
        self.unfit = False
        """Whether a probe failed while calls were running: no new leases until it answers."""
        self.began_at: float = trio.current_time()
        self.ready_at: float = math.inf
        self.idle_since: float = math.inf
        self.retire_at: float = math.inf
        self.drain_by: float = math.inf
        self.drain_reason: CloseReason = "drained"
        self.closing_since: float = math.inf
        self.probed_at: float = -math.inf
        self.started: bool = False
        """Whether the owner runs; a dial that waits for its turn has none yet."""

        self.calls: set[Call] = set()
        self._life = trio.CancelScope(shield=True)
        self._watch = trio.CancelScope(shield=True)
        self._nap = trio.CancelScope()
        self.asks_at: float = math.inf
        """When the owner will ask the lane next, on Trio's clock."""
        self._probing = False

    def __repr__(self) -> str:
        return f"<Connection {self.number} of {self.name!r}: {self.state.value}, {len(self.leases)} leases>"

    def move(self, state: State) -> None:
        """Go to another state, along the table."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")  # pragma: no cover - a bug in the lane
        self.state = state

    @property
    def live(self) -> bool:
        """Whether calls can go through."""
        state = self.state
        return state is _READY or state is _DRAINING

    # What the lane does to it. All synchronous.

    def wake(self, at: float) -> None:
        """There is something to ask at that time, or earlier than was thought."""
        if self._probing and self.state is State.READY:
            # The answer decides first. Callers that keep giving up would otherwise cut every probe short, and a mute
            # server would never be found out.
            return
        if at < self.asks_at:
            self.asks_at = self._nap.deadline = at

    def close(self, by: float) -> None:
        """Leave: in state `CLOSING` already. By the given time on Trio's clock the owner is cancelled."""
        self.link.close_by = by
        if self.client is None:
            # Still on the way in: there is nothing to take leave of.
            self._life.cancel(reason="the dial was called off")
        else:
            self._life.deadline = by
            self._nap.cancel(reason="the connection closes")

    def give_up(self, by: float) -> None:
        """The dial has failed: what it leaves must be cleaned up by the given time."""
        self.link.close_by = by
        self._life.deadline = by

    def hasten(self, by: float) -> None:
        """The pool is closing: a leave that is under way has until then and no longer."""
        self.link.close_by = min(self.link.close_by, by)
        self._life.deadline = min(self._life.deadline, by)

    # What a caller gets when it comes too late.

    def lost_error(self, written: bool) -> PoolError:
        """The error for a call that this connection will not answer any more."""
        closing = self.end_reason is not None and self.end_reason != "broken"
        how = "was closed" if closing else "died"
        if self.link.exit_status is not None and not closing:
            how += f" (exit status {self.link.exit_status})"
        if written:
            return OutcomeUnknownError(
                f"the session of server {self.name!r} {how} after the request was sent: it may have run",
                server=self.name,
            )
        if self.end_reason == "shutdown":
            return PoolClosedError(
                f"the pool closed before the request to server {self.name!r} was sent", server=self.name
            )
        return SessionLostError(
            f"the session of server {self.name!r} {how} before the request was sent: sending again is safe",
            server=self.name,
        )

    # The owner task.

    async def run(self) -> None:
        """The owner: in, nap, out, in one task. Raises nothing but a cancellation from above."""
        self.started = True
        error: BaseException | None = None
        if self.policy.connect_timeout < math.inf:
            self.listener.spawn(self._watch_dial, f"dial watch of {self.name}")
        try:
            with self._life:
                async with self.server._connect(self.link) as client:
                    await self._learn_tools(client)
                    self.client = client
                    try:
                        self.listener.dialled(self)
                        self._watch.cancel()
                        await self._rest(client)
                    finally:
                        self._leave()
        except BaseException as exc:  # noqa: ASYNC103 (its own cancellation is raised; a stray one is an error)
            if (fatal := interrupt_in(exc)) is not None:
                self.listener.fatal(fatal)
            elif isinstance(exc, trio.Cancelled):
                raise
            error = exc
        finally:
            self._watch.cancel()
            self._finish(error)

    async def _learn_tools(self, client: mcp.Client) -> None:
        """List the tools once. A client that has not seen a tool listed asks for the list after its first call, at the
        caller's expense; and the annotations are what R13 goes by. A server that cannot list them is none the worse."""
        if client.server_capabilities.tools is None:
            return
        cursor: str | None = None
        try:
            for _ in range(_MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                for tool in page.tools:
                    if tool.annotations is not None:
                        self.annotations[tool.name] = tool.annotations
                cursor = page.next_cursor
                if cursor is None:
                    break
        except (MCPError, ValidationError) as exc:
            if self.link.is_lost:
                raise
            logger.info("server %r did not list its tools: %s", self.name, type(exc).__name__)

    async def _rest(self, client: mcp.Client) -> None:
        """Nap until the connection has to end."""
        while self.live:
            self.asks_at = self.listener.next_question(self)
            with trio.CancelScope(deadline=self.asks_at) as self._nap:
                await trio.sleep_forever()
            if self.live and self.listener.asked(self):
                self._probing = True
                self.asks_at = math.inf
                with trio.CancelScope() as self._nap:
                    alive = await probe(client, self.link, self.policy.probe_timeout)
                self._probing = False
                if self.live and not self._nap.cancelled_caught:
                    self.listener.probed(self, alive)

    def _leave(self) -> None:
        """Nothing new is sent from here on, and what still runs is cut."""
        self.link.leaving = True
        if self.live:
            # Nobody asked it to leave: the wire's own tasks have come down and took the nap with them.
            self.link.lost()
        for call in tuple(self.calls):
            call.scope.cancel(reason=f"the connection to {self.name!r} closes")

    def _finish(self, error: BaseException | None) -> None:
        """Books what came of it, last of all."""
        if self.state is State.DIALING:
            cause = essence(error) if error is not None else None
            self.listener.dial_failed(self, self._connect_error(cause), cause)
        elif self.live:
            self.listener.died(self)
        elif isinstance(error, Exception) and self.end_reason != "failed":
            # A broken session may well raise on its way out; one that was well may not.
            level = logging.INFO if self.link.is_lost else logging.WARNING
            what = self.link.mask(repr(essence(error)))
            logger.log(level, "server %r: leaving its session raised %s", self.name, what)
        self.listener.gone(self)

    async def _watch_dial(self) -> None:
        """Tells those who wait at the moment of the deadline, however long the clean-up then takes (R5)."""
        with self._watch:
            self._watch.deadline = trio.current_time() + self.policy.connect_timeout
            await trio.sleep_forever()
        if self.state is State.DIALING:
            timeout = self.policy.connect_timeout
            why = ConnectError(
                f"server {self.name!r} gave no session within connect_timeout ({timeout:g} s), in phase {self.link.phase!r}",
                **self._fields(),
            )
            cause = TimeoutError(f"no session within {timeout:g} s")
            self.listener.dial_failed(self, why, cause)
            self._life.cancel(reason="connect_timeout")

    # What the wire says.

    def _on_lost(self) -> None:
        if self.live:
            self.listener.died(self)

    def _on_failing(self, why: BaseException) -> None:
        if self.state is State.DIALING and isinstance(why := essence(why), Exception):
            self.listener.dial_failed(self, self._connect_error(why), why)

    def _fields(self) -> dict[str, Any]:
        link = self.link
        return {
            "server": self.name,
            "phase": link.phase,
            "exit_status": link.exit_status,
            "stderr_tail": link.stderr_tail,
        }

    def _connect_error(self, cause: BaseException | None) -> ConnectError:
        link = self.link
        if isinstance(cause, ConnectError):
            error = cause._fresh()
            for key, value in self._fields().items():
                setattr(error, key, value)
            return error
        why = f"{type(cause).__name__}: {link.mask(str(cause))}" if cause is not None else "it ended without an error"
        message = f"server {self.name!r} could not be reached, in phase {link.phase!r}: {why}"
        if link.exit_status is not None:
            message += f" (exit status {link.exit_status})"
        if link.stderr_tail:
            message += f"; the last of its stderr: {link.stderr_tail[-500:].strip()}"
        return ConnectError(message, **self._fields())
