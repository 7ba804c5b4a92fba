"""The events of a pool as OpenTelemetry metrics, and the waits of its callers as events of their spans.

Requests and sessions are measured as OpenTelemetry's semantic conventions for MCP say (`mcp.client.operation.duration`,
`mcp.client.session.duration`). For pools of sessions there is no convention, so those names mirror the ones for database
connections (`db.client.connection.*`) as `mcp.client.pool.*`. Durations are in seconds, with the buckets of the MCP
conventions. Spans of requests are not made here, because the SDK and the pool's own wire make them. Nothing is recorded unless
the program has configured a meter provider or a tracer provider; the API alone is a dependency, and it comes with the MCP SDK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, final

from mcp import MCPError
from mcp_types import REQUEST_TIMEOUT
from opentelemetry.metrics import Histogram, Meter, get_meter
from opentelemetry.trace import get_current_span

from . import _events as events

_Attributes: TypeAlias = dict[str, str | int]

# Seconds, from OpenTelemetry's semantic conventions for MCP (development status, 2026).
_BUCKETS: Final = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]

METHODS: Final[Mapping[str, str]] = {
    "call_tool": "tools/call",
    "call_tool_once": "tools/call",
    "list_tools": "tools/list",
    "read_resource": "resources/read",
    "_read_resource_once": "resources/read",
    "list_resources": "resources/list",
    "list_resource_templates": "resources/templates/list",
    "get_prompt": "prompts/get",
    "_get_prompt_once": "prompts/get",
    "list_prompts": "prompts/list",
    "complete": "completion/complete",
    "send_ping": "ping",
    "set_logging_level": "logging/setLevel",
    "subscribe_resource": "resources/subscribe",
    "unsubscribe_resource": "resources/unsubscribe",
    "send_roots_list_changed": "notifications/roots/list_changed",
    "send_progress_notification": "notifications/progress",
}
"""The protocol's method for each verb of a session."""


@final
class OpenTelemetryObserver:
    """An observer that measures a pool with OpenTelemetry: `open_pool(servers, observers=[OpenTelemetryObserver()])`.

    `meter` is the meter to record on; default: the global provider's. One observer serves one pool.

    Metrics, each with the attribute `mcp.client.pool.server`:

    - `mcp.client.operation.duration`, with `mcp.method.name`, the name of a tool or prompt (`gen_ai.tool.name`,
      `gen_ai.prompt.name`) and, where it failed, `error.type`: `tool_error`, the code of a JSON-RPC error, or the name of the
      exception;
    - `mcp.client.session.duration`, with `error.type` for a session that was lost;
    - `mcp.client.pool.count` (sessions, by the attribute `state`, `idle` or `used`), `mcp.client.pool.pending_requests`,
      `mcp.client.pool.timeouts`, `mcp.client.pool.create_time`, `mcp.client.pool.wait_time`, `mcp.client.pool.use_time`.

    The first two also have `mcp.protocol.version`, `network.transport` and, over HTTP, `server.address` and `server.port`.
    A caller that had to wait for a session finds an event `mcp.client.pool.wait` in its current span.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or get_meter("trio_mcp_pool")
        pool = "mcp.client.pool"

        def seconds(name: str, description: str) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_BUCKETS)

        self._count = meter.create_up_down_counter(f"{pool}.count", "{session}", "Live sessions by state")
        self._pending = meter.create_up_down_counter(f"{pool}.pending_requests", "{request}", "Tasks that wait")
        self._timeouts = meter.create_counter(f"{pool}.timeouts", "{timeout}", "Waits that ran out of time")
        self._create = seconds(f"{pool}.create_time", "Time of a dial")
        self._wait = seconds(f"{pool}.wait_time", "Time to obtain a session")
        self._use = seconds(f"{pool}.use_time", "Time that a lease was held")
        self._operation = seconds("mcp.client.operation.duration", "Time from a request to its answer")
        self._session = seconds("mcp.client.session.duration", "Time that a session was open")
        self._leases: Counter[int] = Counter()
        self._open: dict[int, events.SessionOpened] = {}
        self._died: set[int] = set()

    def event(self, e: events.Event, /) -> None:
        """Record one event. Synchronous; does nothing that blocks."""
        where = {"mcp.client.pool.server": e.server}
        match e:
            case events.SessionOpened():
                self._open[e.connection] = e
                self._create.record(e.seconds, where)
                self._move("idle", 1, where)
            case events.SessionDied():
                self._died.add(e.connection)
            case events.SessionClosed():
                session = self._open.pop(e.connection, None)
                if session is not None:
                    lost = {"error.type": "session_lost"} if e.connection in self._died else {}
                    self._session.record(e.age, {**_session_attributes(e.server, session), **lost})
                    self._move("idle", -1, where)
                self._died.discard(e.connection)
            case events.WaitStarted():
                self._pending.add(1, where)
            case events.LeaseStarted():
                self._wait.record(e.waited, where)
                self._left_queue(e.queued, where)
                self._leases[e.connection] += 1
                if self._leases[e.connection] == 1:
                    self._move("idle", -1, where)
                    self._move("used", 1, where)
            case events.LeaseEnded():
                self._use.record(e.used, where)
                self._leases[e.connection] -= 1
                if not self._leases[e.connection]:
                    del self._leases[e.connection]
                    self._move("used", -1, where)
                    self._move("idle", 1, where)
            case events.AcquireFailed():
                self._left_queue(e.queued, where)
                if e.reason == "timed out":
                    self._timeouts.add(1, where)

    def waited(self, server: str, seconds: float, error: BaseException | None, /) -> None:
        """Called by the pool, in the task of a caller that had to wait for a session."""
        span = get_current_span()
        if span.is_recording():
            attributes: dict[str, str | float] = {
                "mcp.client.pool.server": server,
                "mcp.client.pool.wait_time": seconds,
            }
            if error is not None:
                attributes["error.type"] = _name(error)
            span.add_event("mcp.client.pool.wait", attributes)

    def called(
        self,
        server: str,
        session: events.SessionOpened | None,
        verb: str,
        subject: Any,
        seconds: float,
        result: Any,
        error: BaseException | None,
        /,
    ) -> None:
        """Called by the pool, in the task of a caller whose request has ended."""
        attributes = _session_attributes(server, session)
        method = METHODS.get(verb) or str(getattr(subject, "method", verb))
        attributes["mcp.method.name"] = method
        if verb in METHODS:
            if method == "tools/call":
                attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": str(subject)}
            elif method == "prompts/get":
                attributes["gen_ai.prompt.name"] = str(subject)
        if error is not None:
            attributes |= _failure(error)
        elif getattr(result, "is_error", None):
            attributes["error.type"] = "tool_error"
        self._operation.record(seconds, attributes)

    def _left_queue(self, queued: bool, where: Mapping[str, str]) -> None:
        if queued:
            self._pending.add(-1, where)

    def _move(self, state: str, by: int, where: Mapping[str, str]) -> None:
        self._count.add(by, {**where, "state": state})


def _session_attributes(server: str, session: events.SessionOpened | None) -> _Attributes:
    """What the conventions want to know of a session, as far as it is known."""
    if session is None:
        return {"mcp.client.pool.server": server}
    known: dict[str, str | int | None] = {
        "mcp.client.pool.server": server,
        "mcp.protocol.version": session.protocol_version,
        "network.transport": session.transport,
        "network.protocol.name": "http" if session.transport == "tcp" else None,
        "server.address": session.address,
        "server.port": session.port,
    }
    return {name: value for name, value in known.items() if value is not None}


def _failure(error: BaseException) -> _Attributes:
    if not isinstance(error, MCPError):
        return {"error.type": _name(error)}
    if error.code == REQUEST_TIMEOUT:  # the client's own, not an answer
        return {"error.type": "timeout"}
    return {"error.type": str(error.code), "rpc.response.status_code": str(error.code)}


def _name(error: BaseException) -> str:
    """An exception's class, by the name under which programs know it."""
    kind = type(error)
    module = kind.__module__.partition("._")[0]
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
