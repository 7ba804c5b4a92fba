"""One connection as its wire sees it.

A *wire* is what carries one MCP session: a child process with its pipes, or an HTTP client. Wires know nothing of pools.
Each is an async context manager that is entered and left by the connection's owner task, gives a live `mcp.Client`, and is
handed a `Link` and nothing else of the house. Through the link the wire reports what it learns: how far the dial has come,
that a byte was heard, that the session is gone. From the link it reads the little it must know: how long it may take to
leave.

A `Call` is one verb of one caller on its way through a session. It travels in a context variable, because the request
passes through the SDK before it reaches the wire again, and the wire must be able to say two things about it that the SDK
has no words for: that its last byte was accepted by the operating system, and why it failed if not by a JSON-RPC error.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import trio

from .._errors import Phase, PoolError

if TYPE_CHECKING:
    import mcp_types as types

_PASSING_KEPT = 64
# Shorter values are words like "1" or "on": to mask them would blot out half of every line.
_SHORTEST_SECRET = 4


class Parked(Protocol):
    """A request that waits for its answer."""

    def cut(self) -> None:
        """Let its caller go, because the connection closes. Without effect where nobody waits any more."""


@final
class Call:
    """One verb of one caller, as the wire sees it."""

    __slots__ = (
        "_cut",
        "answer",
        "answers",
        "elicit",
        "failure",
        "lease",
        "link",
        "parent",
        "parked",
        "scope",
        "task",
        "tool",
        "user_error",
        "written",
    )

    def __init__(
        self,
        scope: trio.CancelScope | None,
        link: Link,
        *,
        lease: object = None,
        task: trio.lowlevel.Task | None = None,
        parent: Call | None = None,
    ) -> None:
        self._cut = False
        self.scope: trio.CancelScope | None = scope
        """What it runs in, where that is cancelled when the connection closes under it (`cut`)."""
        self.parked: Parked | None = None
        """The request that it waits for, or waited for last."""
        self.link: Link = link
        """The connection that carries it."""
        self.written: bool = False
        """Whether any request of this call was written. While it is `False`, nothing can have run."""
        self.answers: int = 0
        """How many results of requests of this call have arrived. Only wires that can tell keep it up to date."""
        self.answer: object = None
        """The result that the last answer held, as it came."""
        self.lease: object = lease
        """The lease through which it goes, where it is a caller's."""
        self.task: trio.lowlevel.Task | None = task
        """The task that makes it."""
        self.parent: Call | None = parent
        """The call in whose context this one was made: that of a handler, on another connection perhaps."""
        self.tool: str | None = None
        """The tool that it calls."""
        self.elicit: Callable[..., Awaitable[Any]] | None = None
        """Asked for input of a person instead of the function that the server has, while this call runs."""
        self.user_error: BaseException | None = None
        """What a callback of the user raised on behalf of this call."""
        self.failure: PoolError | None = None
        """Why the request failed, where a JSON-RPC error could not say it."""

    @property
    def is_cut(self) -> bool:
        """Whether the connection has closed under it."""
        return self._cut or (self.scope is not None and self.scope.cancel_called)

    def cut(self, why: str) -> None:
        """The connection closes under it: whoever waits for it goes on at once."""
        self._cut = True
        if self.scope is not None:
            self.scope.cancel(reason=why)
        elif self.parked is not None:
            self.parked.cut()


current_call: ContextVar[Call | None] = ContextVar("trio_mcp_pool_call", default=None)
"""The call on whose behalf the current task runs. Read it through `Link.current_call`: a handler that runs for one
connection's call may itself use another connection."""


@final
class Handler:
    """A callback of the user that answers a question of the server, while it runs."""

    __slots__ = ("link", "task")

    def __init__(self, link: Link, task: trio.lowlevel.Task) -> None:
        self.link = link
        self.task = task


current_handler: ContextVar[Handler | None] = ContextVar("trio_mcp_pool_handler", default=None)
"""The handler in which the current task runs, or which has started it."""


@final
class Link:
    """What the wire of one connection and its owner tell each other. All methods are synchronous and never raise."""

    def __init__(
        self,
        server: str,
        *,
        on_lost: Callable[[], None] = lambda: None,
        on_failing: Callable[[BaseException], None] = lambda _: None,
        on_undecided: Callable[[], None] = lambda: None,
        connect_timeout: float = math.inf,
        close_timeout: float = 10,
        write_timeout: float = math.inf,
        probe_timeout: float = 10,
    ) -> None:
        self.server = server
        """The server's name in the pool, for errors and log lines."""
        self.scope: Hashable = None
        """The scope's key; `None` for sessions outside of scopes. Set before the dial, as are `number` and `attempt`."""
        self.number: int = 0
        """The connection's number, unique in its pool."""
        self.attempt: int = 1
        """The number of this dial among consecutive dials of the server that failed, from 1."""
        self.callbacks: tuple[Any, Any] = (None, None)
        """The `Callbacks` of the scope and those of the pool; `None` where there are none. Set before the dial."""
        self.elicits: bool = False
        """Whether a function was declared that is told who asks, so that a call may bring another one."""
        self.on_message: Callable[[Any], None] | None = None
        """Told of every message that the client's `message_handler` is, before it. Synchronous; must not raise."""
        self.call_tool: Callable[..., Awaitable[types.CallToolResult]] | None = None
        """Instead of the client's `call_tool`, with the same signature, where the wire has a faster one; set when the dial is
        done."""
        self.begin_tool_call: Callable[..., Awaitable[Any]] | None = None
        """The same, to be awaited without a scope, where the wire wakes what is parked (`Call.cut`). Gives the result, or a
        function to be awaited in a scope, which gives it."""
        self.connect_timeout = connect_timeout
        self.close_timeout = close_timeout
        """Seconds that leaving the wire may take."""
        self.write_timeout = write_timeout
        """Seconds without a byte accepted, while one waits to be written, after which the session is dead."""
        self.probe_timeout = probe_timeout
        self.close_by: float = math.inf
        """The time on Trio's clock by which the wire must be gone; set by the owner just before it leaves the wire."""
        self.leaving = False
        """Whether the owner has begun to leave: from here on nothing new is sent, courtesy notices included."""

        self.phase: Phase = "spawn"
        """How far the dial has come. The wire moves it on."""
        self.transport: Literal["pipe", "tcp"] | None = None
        """What carries the session, where it is known. Set by the kind of server, as is `address`."""
        self.address: tuple[str | None, int | None] = (None, None)
        """The host and port of an HTTP server."""
        self.advice: str = ""
        """What is usually wrong where the dial fails as it has, for the error's text."""
        self.pid: int | None = None
        """The process id of a child, once it runs."""
        self.exit_status: int | None = None
        """The return code of a child, once it is reaped; negative: the signal that ended it."""
        self.heard_at: float = -math.inf
        """When the last byte arrived, on Trio's clock. Only wires that can tell keep it up to date."""
        self.hears_unasked: trio.Event | None = None
        """Set when what the server sends unasked can arrive, or is known never to. `None`: from the handshake on."""
        self.tells_written = True
        """Whether the wire marks a call as written. One that cannot makes every call count as written from its start."""
        self.killed: list[int] = []
        """Processes that had to be killed on leaving."""
        self.left_behind: list[int] = []
        """Processes that escaped and still run."""

        self.lost_cause: BaseException | None = None
        self.is_lost: bool = False
        """Whether the session is gone."""
        self._on_lost = on_lost
        self._on_failing = on_failing
        self._on_undecided = on_undecided
        self._stderr = b""
        self._secrets: tuple[str, ...] = ()
        """All that is masked, the longest first, so that no part of one is left where another was masked inside it."""
        self._lasting: frozenset[str] = frozenset()
        self._passing: deque[str] = deque(maxlen=_PASSING_KEPT)

    # What the wire reports.

    def lost(self, cause: BaseException | None = None) -> None:
        """The session is gone: end of stream, a dead process, a session the server no longer knows. Idempotent."""
        if self.is_lost:
            return
        self.is_lost = True
        self.lost_cause = cause
        self._on_lost()

    def failing(self, why: BaseException) -> None:
        """The dial has failed with `why` and only cleaning up remains, which may take a while. The owner tells those who
        wait without waiting for that."""
        self._on_failing(why)

    def undecided(self) -> None:
        """Neither life nor death can be told from what the server answers. A handshake beside this session decides (R11)."""
        if not self.is_lost and not self.leaving:
            self._on_undecided()

    def current_call(self) -> Call | None:
        """The call on whose behalf the current task runs, where it goes through this connection."""
        call = current_call.get()
        return call if call is not None and call.link is self else None

    def heard(self) -> None:
        """Bytes arrived from the server."""
        self.heard_at = trio.current_time()

    # What a child wrote to stderr, and what must not be shown of it.

    def keep_secret(self, values: Iterable[str]) -> None:
        """From now on mask these values wherever text of the server's own making is shown."""
        # Also by the line: a key of several lines would otherwise pass through the log, which is written by the line.
        parts = {part.strip() for value in values for part in (value, *value.splitlines())}
        self._lasting |= {part for part in parts if len(part) >= _SHORTEST_SECRET}
        self._sort_secrets()

    def keep_passing_secret(self, values: Iterable[str]) -> None:
        """The same of values that others follow, such as tokens: only the last few are masked, or they would pile up."""
        new = [value for value in values if len(value) >= _SHORTEST_SECRET and value not in self._secrets]
        if new:
            self._passing.extend(new)
            self._sort_secrets()

    def _sort_secrets(self) -> None:
        self._secrets = tuple(sorted({*self._lasting, *self._passing}, key=len, reverse=True))

    @property
    def keeps_secrets(self) -> bool:
        """Whether there is anything to mask."""
        return bool(self._secrets)

    def mask(self, text: str) -> str:
        """`text` with every known secret value replaced by `***`."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def set_stderr(self, tail: bytes) -> None:
        """The last bytes that the child wrote to stderr."""
        self._stderr = tail

    @property
    def stderr_tail(self) -> str:
        """The end of the child's stderr as text, with known secrets masked."""
        return self.mask(self._stderr.decode("utf-8", "replace"))
