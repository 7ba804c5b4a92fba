"""The owner task of one connection: it enters transport and session, waits, and leaves both (R1).

While it waits it holds one cancel scope, whose deadline is the next time at which the lane has something to check (R7): has
the session been idle too long, is it too old, has draining lasted long enough, is it to be probed? A deadline that fires
decides nothing. The owner calls the lane, synchronously, and the lane looks at how things stand now; so a lease taken at the
very instant of the deadline always wins. Giving and ending leases does not move the deadline: it may be early, and then the
answer is 'not yet'. That keeps a call free of timers.

Everything else reaches the owner through that one scope. To end a connection, the lane sets its state and cancels the wait.
The owner itself is cancelled only when a deadline has passed, because a cancelled owner skips the requests that belong to
leaving, such as the one that ends a session on an HTTP server.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, final

import mcp
import trio
from mcp import MCPError
from mcp.client.auth import OAuthFlowError
from pydantic import ValidationError

from .._errors import AuthenticationError, ConnectError
from .._groups import interrupt_in, sole_error, text_of
from .._wire._causes import shown_cause
from .._wire._listing import share_listings
from .._wire._log_level import ask_for_log_messages, must_ask_for_log_messages
from .._wire._probe import probe
from ._record import Connection
from ._states import State

logger = logging.getLogger("trio_mcp_pool")

# A listing with more pages than this is not followed further: no server has so many tools.
_MAX_PAGES = 100
# How long a dial may take before a warning, in seconds, where a third of `connect_timeout` is longer.
_SLOW = 60.0
# How much of a child's stderr an error or a warning shows, in characters.
_SHOWN = 500


class Timer(Protocol):
    """A callback that will run at a time, unless it is cancelled."""

    def cancel(self) -> None:
        """Do not run it."""


class OwnerHost(Protocol):
    """What an owner needs of the pool. All synchronous."""

    def fatal(self, error: BaseException, /) -> None:
        """A `KeyboardInterrupt` or `SystemExit` came out of an owner (R14)."""

    def spawn(self, task: Callable[[], Awaitable[None]], name: str, /) -> None:
        """Run a task in the pool's nursery and context."""

    def call_at(self, at: float, callback: Callable[[], None], /) -> Timer:
        """Call a synchronous function at that time on Trio's clock."""

    @property
    def configure(self) -> Callable[[Connection], Awaitable[None]]:
        """Run the server's `configure=` function on a session handle of its own."""


@final
class Owner:
    """The owner task of one connection, and the control that its lane has over it."""

    def __init__(self, connection: Connection, host: OwnerHost) -> None:
        self._connection = connection
        self._host = host
        self._life = trio.CancelScope(shield=True)
        self._setup = trio.CancelScope()
        self._wait = trio.CancelScope()
        self._learning = trio.CancelScope(shield=True)
        self._deadline: Timer | None = None
        self._connect_by = math.inf
        self._dial_by = math.inf
        self.next_check_at = math.inf
        self._probing = False

    # What the lane calls: see `OwnerControl`.

    def wake_at(self, at: float) -> None:
        connection = self._connection
        if self._probing and connection.state is State.READY and not connection.outdated:
            # The answer to the probe decides first. Callers that keep cancelling would otherwise cut every probe short,
            # and a mute server would never be noticed.
            return
        if at < self.next_check_at:
            self.next_check_at = self._wait.deadline = at

    def close(self, by: float) -> None:
        connection = self._connection
        connection.link.close_by = by
        if connection.client is None:
            # Still being entered: there is no session to leave.
            self._life.cancel(reason="the dial was aborted")
        else:
            self._life.deadline = by
            self._setup.cancel(reason="the connection closes")
            self._wait.cancel(reason="the connection closes")

    def bound_cleanup(self, by: float) -> None:
        connection = self._connection
        connection.link.close_by = min(connection.link.close_by, by)
        self._life.deadline = min(self._life.deadline, by)

    def bound_dial(self, by: float) -> None:
        self._dial_by = min(self._dial_by, by)
        self._arm_deadline()

    def dial_failing(self, why: BaseException) -> None:
        connection = self._connection
        if connection.state is State.DIALING and isinstance(why := sole_error(why), Exception):
            connection.listener.dial_failed(connection, self._connect_error(why), shown_cause(why, connection.link))

    # The task.

    async def run(self) -> None:
        """Enter, wait, leave, in one task. Raises nothing but a cancellation from above."""
        connection = self._connection
        error: BaseException | None = None
        timeout = connection.policy.connect_timeout
        self._connect_by = trio.current_time() + timeout
        self._arm_deadline()
        warn_at = trio.current_time() + min(timeout / 3, _SLOW)
        self._slow: Timer | None = self._host.call_at(warn_at, self._on_slow)
        try:
            with self._life:
                async with connection.server._connect(connection.link) as client:
                    connection.client = client
                    try:
                        await self._serve(client)
                    finally:
                        self._leave()
        except BaseException as exc:  # noqa: ASYNC103 (its own cancellation is raised; a stray one is an error)
            if (interrupt := interrupt_in(exc)) is not None:
                self._host.fatal(interrupt)
            elif isinstance(exc, trio.Cancelled):
                raise
            error = exc
        finally:
            self._disarm_deadline()
            self._disarm_slow()
            self._finish(error)
            del error

    async def _serve(self, client: mcp.Client) -> None:
        """From the end of the handshake to the moment at which the connection has to end."""
        connection = self._connection
        self._disarm_slow()
        share_listings(client.session, connection.link)
        if connection.state is State.DIALING:
            await self._set_up(client)
        if connection.state is not State.DIALING:
            return
        if connection.link.is_lost:
            raise connection.link.lost_cause or ConnectionError("the session ended during the dial")
        self._disarm_deadline()
        connection.listener.dialled(connection)
        if connection.server.trusted and connection.live:
            self._host.spawn(self._learn_tools, f"listing of the tools of {connection.name!r}")
        await self._wait_for_end(client)

    async def _set_up(self, client: mcp.Client) -> None:
        """Ask for a log level, and run the user's `configure=` function; both have one `connect_timeout` of their own."""
        connection = self._connection
        logs, configure = must_ask_for_log_messages(client), connection.server.configure is not None
        if not logs and not configure:
            return
        connection.link.phase = "setup"
        self._connect_by = trio.current_time() + connection.policy.connect_timeout
        self._arm_deadline()
        with self._setup:
            if logs:
                await ask_for_log_messages(client, connection.name)
            if configure:
                connection.configuring = True
                try:
                    await self._host.configure(connection)
                finally:
                    connection.configuring = False

    async def _wait_for_end(self, client: mcp.Client) -> None:
        connection, listener = self._connection, self._connection.listener
        while connection.live:
            self.next_check_at = listener.next_check_at(connection)
            with trio.CancelScope(deadline=self.next_check_at) as self._wait:
                await trio.sleep_forever()
            if not connection.live or not listener.check(connection):
                continue
            self._probing = True
            # A session that is being replaced has a deadline that a probe must not hold up.
            self.next_check_at = connection.drain_by if connection.outdated else math.inf
            with trio.CancelScope(deadline=self.next_check_at) as self._wait:
                alive = await probe(client, connection.link, connection.policy.probe_timeout)
            self._probing = False
            if connection.live and not self._wait.cancelled_caught:
                listener.probed(connection, alive)

    async def _learn_tools(self) -> None:
        """List the tools of a trusted server, because R13 goes by their annotations. No caller waits for this."""
        connection = self._connection
        client = connection.client
        try:
            with self._learning:
                if client is None or client.server_capabilities.tools is None:
                    return
                annotations = {}
                cursor: str | None = None
                for _ in range(_MAX_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    annotations.update(
                        {tool.name: tool.annotations for tool in page.tools if tool.annotations is not None}
                    )
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                connection.annotations = annotations
        except BaseException as exc:  # noqa: ASYNC103 (its own cancellation is raised; a stray one is an error)
            if (interrupt := interrupt_in(exc)) is not None:
                self._host.fatal(interrupt)
            elif isinstance(exc, trio.Cancelled):
                raise
            elif not isinstance(exc, MCPError | ValidationError):
                logger.info("server %r: listing its tools raised %s", connection.name, type(exc).__name__)

    def _leave(self) -> None:
        """Nothing new is sent from here on, and what still runs is cut (R15)."""
        connection = self._connection
        connection.link.leaving = True
        self._learning.cancel(reason="the connection closes")
        if connection.live:
            # The lane has not closed it: the wire's own tasks have ended and cancelled the wait with them.
            connection.link.lost()
        for call in tuple(connection.calls):
            call.cut(f"the connection to {connection.name!r} closes")

    def _finish(self, error: BaseException | None) -> None:
        """Report what came of it, last of all."""
        connection = self._connection
        if connection.state is State.DIALING:
            cause = sole_error(error) if error is not None else None
            connection.listener.dial_failed(connection, self._connect_error(cause), shown_cause(cause, connection.link))
        elif isinstance(error, Exception) and connection.end_reason != "failed":
            # A broken session may raise while it is left; a live one should not.
            level = logging.INFO if connection.link.is_lost else logging.WARNING
            sole = sole_error(error)
            what = connection.link.mask(f"{type(sole).__name__}: {text_of(sole)}")
            logger.log(level, "server %r: leaving its session raised %s", connection.name, what)
        connection.client = None
        connection.listener.closed(connection)

    # The deadline of the dial. It is reported to the lane at that moment, however long cleaning up then takes (R5).

    def _arm_deadline(self) -> None:
        self._disarm_deadline()
        at = min(self._connect_by, self._dial_by)
        if at < math.inf:
            self._deadline = self._host.call_at(at, self._on_deadline)

    def _disarm_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _disarm_slow(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _on_deadline(self) -> None:
        connection = self._connection
        self._deadline = None
        if connection.state is not State.DIALING:
            return
        if self._dial_by < self._connect_by:
            connection.listener.dial_overdue(connection)
            return
        timeout = connection.policy.connect_timeout
        error = ConnectError(
            f"server {connection.name!r} gave no session within connect_timeout ({timeout:g} s), "
            f"in phase {connection.link.phase!r}{self._last_words('the last of its stderr')}",
            **self._fields(),
        )
        connection.listener.dial_failed(connection, error, TimeoutError(f"no session within {timeout:g} s"))
        self._life.cancel(reason="connect_timeout")

    def _on_slow(self) -> None:
        """A third of the time is over. Say so now: a server that asks for something, or loads for long, looks like a hang."""
        connection = self._connection
        self._slow = None
        if connection.state is not State.DIALING:
            return
        logger.warning(
            "server %r has given no session for %.3g s, in phase %r; connect_timeout is %g s%s",
            connection.name,
            trio.current_time() - connection.dial_started_at,
            connection.link.phase,
            connection.policy.connect_timeout,
            self._last_words("its stderr so far") or ("; its stderr is empty so far" if connection.link.pid else ""),
        )

    # The errors of a dial.

    def _last_words(self, what: str) -> str:
        tail = self._connection.link.stderr_tail[-_SHOWN:].strip()
        return f"; {what}: {tail}" if tail else ""

    def _fields(self) -> dict[str, Any]:
        link = self._connection.link
        return {
            "server": self._connection.name,
            "phase": link.phase,
            "exit_status": link.exit_status,
            "stderr_tail": link.stderr_tail,
        }

    def _connect_error(self, cause: BaseException | None) -> ConnectError:
        name, link = self._connection.name, self._connection.link
        if isinstance(cause, ConnectError):
            error = cause._fresh()
            for key, value in self._fields().items():
                setattr(error, key, value)
            return error
        why = (
            f"{type(cause).__name__}: {link.mask(text_of(cause))}" if cause is not None else "it ended without an error"
        )
        message = f"server {name!r} could not be reached, in phase {link.phase!r}: {why}"
        if link.exit_status is not None:
            message += f" (exit status {link.exit_status})"
        if link.advice:
            message += f"; {link.advice}"
        message += self._last_words("the last of its stderr")
        kind = AuthenticationError if isinstance(cause, OAuthFlowError) else ConnectError
        return kind(message, **self._fields())
