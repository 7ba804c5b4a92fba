"""Whatever `mcp.Client` offers over stdio is offered on both wires alike, in both protocol eras.

One scenario goes through everything that a server can ask of its client and notes what came of it; the notes of the two
wires must be the same, and must be right. A server takes long to start, so each test starts two and asks all there is.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import mcp_types as types
import pytest
import trio
from mcp import MCPError
from mcp.client.context import ClientRequestContext
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from pydantic import BaseModel

from tests.servers.features_stdio import EXTENSION, Ticket
from trio_mcp_pool import ConnectError, Pool, Session, StdioServer, open_pool
from trio_mcp_pool._wire.jsonrpc import _outbound

Mode = Literal["legacy", "auto"]
Wire = Literal["trio", "sdk"]
ANSWER = types.CreateMessageResult(role="assistant", content=types.TextContent(text="word"), model="m")


class Printed(BaseModel):
    number: int


class Tickets(ClientExtension):
    """An extension with a result shape and a notification of its own."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.printed: list[int] = []

    async def _redeem(self, ticket: Ticket, context: ClaimContext) -> types.CallToolResult:
        # A result that is claimed may be finished by further calls.
        answer = await context.session.call_tool("echo", {"text": f"ticket {ticket.number}"})
        assert isinstance(answer, types.CallToolResult)
        return answer

    async def _note(self, params: Printed) -> None:
        self.printed.append(params.number)

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="ticket", model=Ticket, resolve=self._redeem)]

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return [
            NotificationBinding(method=f"notifications/{EXTENSION}/printed", params_type=Printed, handler=self._note)
        ]


class Host:
    """The callbacks of a client, and what they saw."""

    def __init__(self) -> None:
        self.sample: Callable[[], Awaitable[types.CreateMessageResult | types.ErrorData]] = self.say_word
        self.logs: list[tuple[str, Any]] = []
        self.notifications: Counter[str] = Counter()
        self.extension = Tickets()

    async def say_word(self) -> types.CreateMessageResult:
        return ANSWER

    async def sampling(
        self, context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult | types.ErrorData:
        return await self.sample()

    async def elicitation(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": f"Ada, asked {params.message!r}"})

    async def roots(self, context: ClientRequestContext) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root.model_validate({"uri": "file:///here"})])

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append((params.level, params.data))

    async def message(self, message: Any) -> None:
        self.notifications[type(message).__name__] += 1

    def server(self, wire: Wire, mode: Mode) -> StdioServer:
        return StdioServer(
            sys.executable,
            ["-m", "tests.servers.features_stdio"],
            wire=wire,
            mode=mode,
            sampling_callback=self.sampling,
            elicitation_callback=self.elicitation,
            list_roots_callback=self.roots,
            logging_callback=self.log,
            log_level="info",
            message_handler=self.message,
            extensions=[self.extension],
        )


def text(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def attempt(call: Awaitable[types.CallToolResult]) -> str:
    """What came of a call, an error included."""
    try:
        return text(await call)
    except Exception as error:
        return repr(error)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Ask the server again and again; the test's own deadline ends it."""
    while not await what():
        await trio.lowlevel.checkpoint()


async def scenario(wire: Wire, mode: Mode) -> dict[str, Any]:
    host = Host()
    notes: dict[str, Any] = {}
    async with open_pool({"features": host.server(wire, mode)}) as pool, pool.session("features") as session:
        notes["version"] = session.protocol_version

        steps: list[tuple[float, float | None, str | None]] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append((progress, total, message))
            if progress == 2:
                raise ValueError("a callback that raises costs that message only")

        await session.call_tool("progress", {"to": 30}, progress_callback=on_progress)
        notes["progress"] = steps
        await session.call_tool("log", {"lines": 30})
        await until(lambda: _true(len(host.logs) == 30 and host.notifications["LoggingMessageNotification"] == 30))
        notes["logs"] = host.logs

        await _requests_of_the_server(pool, session, host, notes)
        await _cancellation(session, notes)
        await _changes(session, host, notes, mode)
        await _caching(session, notes)

        notes["claimed"] = await attempt(session.call_tool("ticket"))
        await session.call_tool("custom")
        await until(lambda: _true(host.extension.printed != []))
        notes["bound"] = host.extension.printed
        notes["meta"] = {
            key for key in json.loads(text(await session.call_tool("meta"))) if not key.startswith("io.modelcontext")
        }
        notes["notifications"] = dict(host.notifications)
        notes["connects"] = pool.statistics().connects
    return notes


async def _true(value: bool) -> bool:
    return value


async def _requests_of_the_server(pool: Pool, session: Session, host: Host, notes: dict[str, Any]) -> None:
    for kind in ("sample", "elicit", "roots"):
        notes[kind] = json.loads(text(await session.call_tool(kind)))

    async def refuse() -> types.ErrorData:
        return types.ErrorData(code=-1, message="not today")

    host.sample = refuse
    notes["refused"] = await attempt(session.call_tool("sample"))

    async def fail() -> types.CreateMessageResult:
        raise ValueError("the callback's own")

    host.sample = fail
    notes["raised"] = await attempt(session.call_tool("sample"))

    async def call_back() -> types.CreateMessageResult:
        inner = text(await pool.call_tool("features", "echo", {"text": "from within"}))
        return ANSWER.model_copy(update={"content": types.TextContent(text=inner)})

    host.sample = call_back
    notes["called back"] = json.loads(text(await session.call_tool("sample")))["content"]["text"]

    asked, go_on = trio.Event(), trio.Event()

    async def block() -> types.CreateMessageResult:
        asked.set()
        await go_on.wait()
        return ANSWER

    host.sample = block
    async with trio.open_nursery() as nursery:

        async def blocked() -> None:
            notes["blocked"] = json.loads(text(await session.call_tool("sample")))

        nursery.start_soon(blocked)
        await asked.wait()
        notes["meanwhile"] = text(await session.call_tool("echo", {"text": "others go on"}))
        go_on.set()


async def _cancellation(session: Session, notes: dict[str, Any]) -> None:
    async def count(what: str) -> int:
        counts: dict[str, int] = json.loads(text(await session.call_tool("seen")))
        return counts.get(what, 0)

    async def at_least(what: str, number: int) -> bool:
        return await count(what) >= number

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.call_tool, "hang")
        await until(lambda: at_least("hanging", 1))
        nursery.cancel_scope.cancel()
    await until(lambda: at_least("cancelled", 1))
    try:
        await session.call_tool("hang", read_timeout_seconds=0.05)
    except MCPError as error:
        notes["timed out"] = error.code
    await until(lambda: at_least("cancelled", 2))
    notes["cancelled"] = await count("cancelled")


async def _changes(session: Session, host: Host, notes: dict[str, Any], mode: Mode) -> None:
    if mode == "legacy":
        await session.call_tool("changed")
        await until(lambda: _true(host.notifications["ToolListChangedNotification"] == 1))
        return
    async with session.listen(tools_list_changed=True) as changes:
        await session.call_tool("changed")
        notes["heard"] = type(await anext(changes)).__name__


async def _caching(session: Session, notes: dict[str, Any]) -> None:
    async def listings() -> int:
        counts: dict[str, int] = json.loads(text(await session.call_tool("seen")))
        return counts["listings"]

    before = await listings()
    for _ in range(3):
        await session.list_tools()
    notes["listings"] = await listings() - before
    await session.list_tools(cache_mode="refresh")
    notes["refreshed"] = await listings() - before


EXPECTED: dict[str, Any] = {
    "progress": [(n, 30, f"step {n}") for n in range(1, 31)],
    "logs": [("error" if n % 2 else "info", n) for n in range(30)],
    "sample": ANSWER.model_dump(mode="json", exclude_none=True),
    "elicit": {"action": "accept", "content": {"name": "Ada, asked 'your name?'"}},
    "roots": {"roots": [{"uri": "file:///here"}]},
    "called back": "from within",
    "blocked": ANSWER.model_dump(mode="json", exclude_none=True),
    "meanwhile": "others go on",
    "timed out": types.REQUEST_TIMEOUT,
    "cancelled": 2,
    "bound": [7],
    "notifications": {
        "ProgressNotification": 30,
        "LoggingMessageNotification": 30,
        "ToolListChangedNotification": 1,
    },
    "meta": set(),
    "connects": 1,
}
EXPECTED_BY_ERA: dict[Mode, dict[str, Any]] = {
    "legacy": {
        "version": "2025-11-25",
        "refused": "refused: -1 not today",
        "listings": 3,
        "refreshed": 4,
    },
    "auto": {
        "version": "2026-07-28",
        "refused": "MCPError(-1, 'not today', None)",
        "raised": 'ValueError("the callback\'s own")',  # in the caller's own task, and bare (R14)
        "heard": "ToolsListChanged",
        "claimed": "ticket 7",
        "listings": 1,  # the event has emptied the cache; the next listing fills it again
        "refreshed": 2,
    },
}
# The one intended difference: the SDK sends the text of an exception of the user's to the server, whatever is in it.
RAISED_LEGACY: dict[Wire, str] = {
    "trio": "refused: -32603 The client's handler failed",
    "sdk": "refused: 0 the callback's own",
}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_both_wires_offer_all_that_a_client_offers(
    mode: Mode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_span(*_: object) -> None:
        raise AssertionError("a span was made although nobody traces")

    monkeypatch.setattr(_outbound, "client_span", no_span)
    caplog.set_level(logging.CRITICAL, "trio_mcp_pool.wire")
    caplog.set_level(logging.CRITICAL, "mcp.shared.jsonrpc_dispatcher")
    notes: dict[Wire, dict[str, Any]] = {}

    async def go(wire: Wire) -> None:
        notes[wire] = await scenario(wire, mode)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go, "trio")
            nursery.start_soon(go, "sdk")
    if mode == "legacy":
        assert {wire: noted.pop("raised") for wire, noted in notes.items()} == RAISED_LEGACY
    assert notes["trio"] == notes["sdk"]
    expected = EXPECTED | EXPECTED_BY_ERA[mode]
    assert {key: notes["trio"].get(key) for key in expected} == expected


class Broken(ClientExtension):
    """An extension whose author has made a mistake."""

    identifier = EXTENSION

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        raise TypeError("the extension's own mistake")


@pytest.mark.parametrize("wire", ["trio", "sdk"])
async def test_R15_an_extension_that_raises_fails_the_dial_at_once(wire: Wire) -> None:
    server = StdioServer(sys.executable, ["-m", "tests.servers.features_stdio"], wire=wire, extensions=[Broken()])
    with trio.fail_after(10):
        async with open_pool({"features": server}) as pool:
            with pytest.raises(ConnectError, match="the extension's own mistake") as caught:
                await pool.call_tool("features", "echo", {"text": "?"})
            assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_both_wires_make_the_same_span_of_a_call_and_send_its_context(mode: Mode) -> None:
    recorded: dict[str, Any] = {}

    async def trace(wire: Wire) -> None:
        command = [sys.executable, "-m", "tests.servers.traced", wire, mode]
        recorded[wire] = json.loads((await trio.run_process(command, capture_stdout=True)).stdout)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trace, "trio")
            nursery.start_soon(trace, "sdk")
    call = {
        "name": "MCP send tools/call meta",
        "kind": "CLIENT",
        "status": "UNSET",
        "child of the caller's": True,
        "attributes": {"mcp.method.name": "tools/call"},
    }
    refused = {
        **call,
        "name": "MCP send tools/call no such tool",
        "status": "ERROR",
        "attributes": {"mcp.method.name": "tools/call", "error.type": "-32602", "rpc.response.status_code": "-32602"},
    }
    assert recorded["trio"] == {"spans": [call, call, refused], "arrived": True}
    # The lowest SDK supported gives the span of a refused call no status.
    assert recorded["sdk"]["spans"][:2] == [call, call]
    assert recorded["sdk"]["spans"][2]["name"] == refused["name"]
    assert recorded["sdk"]["arrived"]
