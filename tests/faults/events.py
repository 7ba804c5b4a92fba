"""The rows of the matrix: what can happen to a session, and what its callers must get.

Four kinds of event differ in who is struck. A *call* strikes by itself: the server does something to this one call, while
others wait for their answers, which must come. A *blow* falls on the session from outside, and everybody who waits on it is
struck. At *connect* there is no session yet, and everybody who wants one is struck. At *close* the pool leaves, by an
exception (one call) or by a cancellation (fifty), and the server does not want to go.

Outcomes are named as in `play.outcome`: `result`, `tool error`, `MCPError -32001`, the name of an error's type with its
telling field, `deadline` for a caller whose own cancel scope ended its call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .place import HTTP, STDIO, STREAMABLE, WIRES, Wire

Load: TypeAlias = Literal["idle", "one", "fifty"]
BUSY: tuple[Load, ...] = ("one", "fifty")
LOADS: tuple[Load, ...] = ("idle", *BUSY)
COUNT: dict[Load, int] = {"idle": 0, "one": 1, "fifty": 50}

OK = frozenset({"result"})
UNKNOWN = frozenset({"OutcomeUnknownError"})
LOST = frozenset({"SessionLostError"})


@dataclass(frozen=True)
class Event:
    """One row, for some of the wires."""

    name: str
    kind: Literal["call", "blow", "connect", "close"]
    wires: tuple[Wire, ...]
    struck: frozenset[str]
    """What those may get who are struck."""
    loads: tuple[Load, ...] = BUSY
    struck_in_scope: frozenset[str] | None = None
    """The same in a scope, where it differs."""
    spares: bool = False
    """Whether the siblings get their results although the session is replaced."""
    dies: bool = False
    """Whether the session is dead afterwards: then its siblings are struck, too, and a scope's next caller is told."""
    do: str = ""
    """A call: what the server does with it. A blow: how it is dealt."""
    arguments: dict[str, Any] = field(default_factory=dict)
    mode: dict[str, Any] = field(default_factory=dict)
    """How the server misbehaves, from its start."""
    tool: str = "act"
    read_timeout: float | None = None
    deadline: float | None = None
    """The caller's own deadline in seconds, where it is part of the event."""
    executed: bool | None = None
    """Whether the struck calls must have been executed, or must not; `None`: as their outcome says."""

    def expected(self, scoped: bool) -> frozenset[str]:
        return self.struck_in_scope if scoped and self.struck_in_scope is not None else self.struck


def _call(name: str, wires: tuple[Wire, ...], do: str, *struck: str, **more: Any) -> Event:
    return Event(name, "call", wires, frozenset(struck), do=do, **more)


EVENTS: tuple[Event, ...] = (
    # What the server answers is handed through, and what it answers badly fails one call.
    _call("tool error", WIRES, "tool_error", "tool error", executed=True),
    _call("JSON-RPC error", WIRES, "rpc_error", "MCPError -32050", executed=True),
    _call("malformed result", WIRES, "malformed", "InvalidResultError", executed=True),
    _call("bad structured content", WIRES, "badly_structured", "InvalidResultError", tool="typed", executed=True),
    _call("a 10 MB answer", (*STDIO, *STREAMABLE), "big", "result", arguments={"bytes": 10_000_000}),
    _call("a line over `max_message`", ("stdio",), "big", "MessageTooLargeError", arguments={"bytes": 17_000_000}),
    _call("an event over `max_message`", STREAMABLE, "big_event", "MessageTooLargeError"),
    _call("one invalid UTF-8 byte", STDIO, "bad_utf8", "result"),
    _call("garbage, blank and unknown-id lines", STDIO, "noise", "result"),
    *(
        _call(f"an answer with {what}", ("stdio",), do, "result", executed=True)
        for what, do in [
            ("half an emoji", "surrogate"), ("a control character", "control"), ("a byte order mark", "bom"),
            ("a float for an id", "float_id"), ("no `jsonrpc`", "no_jsonrpc"), ("a number of 5,000 digits", "digits"),
        ]
    ),
    _call("an answer cut in its middle", ("stdio",), "cut", "InvalidResultError", executed=True),
    _call("an answer nested too deeply", ("stdio",), "too_deep", "InvalidResultError", executed=True),
    _call("an answer without a result object", ("stdio",), "no_result", "InvalidResultError", executed=True),
    _call("an answer of over `max_values`", ("stdio",), "values", "MessageTooLargeError", executed=True),
    _call("3,000 notifications before the answer", STDIO, "flood", "result", executed=True),
    _call("600,000 lines on stderr before the answer", STDIO, "flood_stderr", "result", executed=True),
    Event("garbage, blank and unknown-id lines", "blow", STDIO, OK, loads=("idle",), do="noise"),
    Event("one invalid UTF-8 byte", "blow", STDIO, OK, loads=("idle",), do="bad_utf8"),
    # Callers who do not wait.
    _call("read timeout", WIRES, "never", "MCPError -32001", read_timeout=0.3, executed=True),
    _call("caller cancelled", WIRES, "never", "deadline", deadline=0.3, executed=True),
    _call("caller cancelled, the notice is slow", HTTP, "never", "deadline", deadline=0.3, mode={"cancelled": "slow"}),
    _call("caller cancelled, the notice is refused", HTTP, "never", "deadline", deadline=0.3, mode={"cancelled": "fail"}),
    _call("caller cancelled, the notice breaks", HTTP, "never", "deadline", deadline=0.3, mode={"cancelled": "reset"}),
    # A process dies.
    Event("killed", "blow", STDIO, UNKNOWN, LOADS, dies=True, do="kill"),
    Event("exits", "blow", STDIO, UNKNOWN, LOADS, dies=True, do="exit"),
    Event("closes stdout", "blow", STDIO, UNKNOWN, LOADS, dies=True, do="close_stdout"),
    # The first request is handed over to the SDK's wire and stays there: it must count as sent.
    Event("stops reading, the pipe is full", "blow", ("stdio",), OK, struck_in_scope=LOST, dies=True, do="stop_reading"),
    Event(
        "stops reading, the pipe is full", "blow", ("stdio-sdk",), UNKNOWN | OK | {"deadline"},
        struck_in_scope=UNKNOWN | LOST | {"deadline"}, dies=True, do="stop_reading", deadline=2.0,
    ),
    Event("frozen", "blow", WIRES, frozenset({"deadline"}), LOADS, dies=True, do="freeze", deadline=0.4),
    # HTTP.
    _call("401 in a call", HTTP, "status", "AuthenticationError 401", arguments={"status": 401}, executed=False),
    _call("403 in a call", HTTP, "status", "AuthenticationError 403", arguments={"status": 403}, executed=False),
    _call("429 in a call", HTTP, "status", "HttpStatusError 429 7", arguments={"status": 429}, executed=False),
    _call("503 in a call", HTTP, "status", "HttpStatusError 503 7", arguments={"status": 503}, executed=False),
    _call("one POST is reset", HTTP, "reset", "OutcomeUnknownError", executed=True),
    _call("one answer is cut short", STREAMABLE, "truncated", "OutcomeUnknownError", executed=True),
    _call("one answer's stream breaks", STREAMABLE, "truncated_events", "OutcomeUnknownError", executed=True),
    _call("one answer's stream ends without it", STREAMABLE, "ended_events", "OutcomeUnknownError", executed=True),
    _call("an answer is broken JSON", STREAMABLE, "broken_json", "InvalidResultError", executed=True),
    _call("an answer is HTML", STREAMABLE, "html", "HttpStatusError 200", executed=True),
    Event("session unknown (404)", "call", ("http-legacy", "sse"), OK, struck_in_scope=LOST, dies=True,
          do="ok", mode={"forget": 404}),
    # The status alone is no death (R11): the call is told, and a probe and a handshake beside the session decide.
    Event("session unknown (400)", "call", ("http-legacy", "sse"), frozenset({"HttpStatusError 400"}), dies=True, spares=True,
          do="ok", mode={"forget": 400}),
    Event("server restarted", "blow", HTTP, UNKNOWN, LOADS, dies=True, do="restart"),
    Event("server away, then back", "blow", HTTP, UNKNOWN, LOADS, dies=True, do="away"),
    Event("the stream of all answers is cut", "blow", ("sse",), UNKNOWN, LOADS, dies=True, do="cut"),
    Event("the standing stream is cut", "blow", ("http-legacy",), OK, LOADS, do="cut"),
    # There is no session yet.
    Event("command not found", "connect", STDIO, frozenset({"ConnectError spawn"}), do="no_command"),
    Event("dies in the handshake", "connect", STDIO, frozenset({"ConnectError handshake"}), mode={"handshake": "die"}),
    Event("mute at connect", "connect", STDIO, frozenset({"ConnectError handshake"}), mode={"handshake": "mute"}),
    Event("mute at connect", "connect", HTTP, frozenset({"ConnectError handshake", "ConnectError connect"}),
          mode={"connect": "mute"}),
    Event("refused at connect", "connect", HTTP, frozenset({"ConnectError connect"}), do="down"),
    Event("401 at connect", "connect", HTTP, frozenset({"AuthenticationError 401"}), mode={"connect": 401}),
    Event("503 at connect", "connect", HTTP, frozenset({"ConnectError handshake"}), mode={"connect": 503}),
    # It does not want to go.
    Event("close: ignores the end of stdin", "close", STDIO, UNKNOWN, LOADS, mode={"close": "ignore_eof"}),
    Event("close: ignores SIGTERM, too", "close", STDIO, UNKNOWN, LOADS, do="killed", mode={"close": "ignore_term"}),
    Event("close: a grandchild in the group", "close", STDIO, UNKNOWN, LOADS, do="swept", mode={"close": "grandchild"}),
    Event("close: a grandchild with setsid", "close", STDIO, UNKNOWN, LOADS, do="left", mode={"close": "setsid"}),
    Event("close: frozen", "close", WIRES, UNKNOWN, LOADS, do="frozen"),
    Event("close: DELETE is never answered", "close", ("http-legacy",), UNKNOWN, LOADS, mode={"delete": "mute"}),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One field of the matrix."""

    row: int
    wire: Wire
    load: Load
    scoped: bool

    @property
    def event(self) -> Event:
        return EVENTS[self.row]

    def __str__(self) -> str:
        return f"{self.event.name} / {self.wire} / {self.load} / {'scope' if self.scoped else 'no scope'}"


def all_cells() -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(row, wire, load, scoped)
        for row, event in enumerate(EVENTS)
        for wire in event.wires
        for load in event.loads
        for scoped in (False, True)
    ]
