"""The server's side of one connection.

It is built like a process behind two pipes, because the tests that matter are about the moments between two steps. What
the client sends is an *offer* until the server's reader takes it; a client that stops waiting withdraws its offer, and a
server that is stopped takes none. What the server sends goes through a line that may delay it, in order. Death ends both
directions in the same step: nothing that was still under way arrives after it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import mcp
import trio

from . import _protocol as protocol
from ._gates import Error, Gate, GateTable, Slow, never, ok
from ._records import ConnectionRecord
from ._tools import ToolContext, ToolTable, dump_result

_HANDSHAKES = ("initialize", "server/discover")


@final
@dataclass(eq=False)
class Offer:
    """A message that the client wants to be read."""

    message: dict[str, Any]
    on_taken: Callable[[], None]
    """Called in the step in which the server reads it."""
    taken: bool = False


@final
@dataclass(eq=False)
class _Question:
    """A request of the server's that the client has not answered yet."""

    answered: trio.Event
    response: dict[str, Any] | None = None


class Script(Protocol):
    """What a connection needs of its server."""

    name: str
    eras: str
    gates: GateTable
    tools: ToolTable
    resources: dict[str, Any]
    prompts: dict[str, Any]

    def _started(self, connection: int, params: Mapping[str, Any]) -> int:
        """A tool has been started. Returns the number of its record."""

    def _ended(self, index: int, **changes: Any) -> None:
        """The tool of that record has ended."""

    def _next_question(self) -> int:
        """The number of the server's next request to a client."""


@final
class Peer:
    """One connection, as the server sees it."""

    def __init__(self, server: Script, number: int) -> None:
        self._server = server
        self.number = number
        self.record = ConnectionRecord(number, "dialling", trio.current_time())
        self.dead = False
        """Whether the server's side ended of itself."""
        self.death: BaseException | None = None
        """Why, where a gate gave a reason."""
        self.ended = False
        """Whether nothing passes any more, in either direction, for whatever reason."""
        self.changed: Callable[[], None] = lambda: None
        """Called when an offer came, was taken or was withdrawn, and at the end."""
        self.offers: deque[Offer] = deque()
        self.last_taken_at = -math.inf
        self.to_client, self.from_server = trio.open_memory_channel[dict[str, Any]](math.inf)
        self._line: deque[tuple[float, dict[str, Any]]] = deque()
        self._deaf = False
        self._dumb = False
        self._woken = trio.lowlevel.ParkingLot()  # all tasks here that wait for a change
        self._scope = trio.CancelScope()
        self._handshake: Gate | None = None
        self._handshake_at = 0.0
        self._shaken = False
        self._modern = False
        self._running: dict[Any, trio.CancelScope] = {}
        self._listeners: dict[Any, dict[str, Any]] = {}
        self._questions: dict[str, _Question] = {}

    # The process as a whole.

    def note(self, **changes: Any) -> None:
        """Change the record of this connection."""
        self.record = replace(self.record, **changes)

    def _kill(self, why: BaseException | None = None) -> None:
        """Die. Synchronous, idempotent."""
        if self.ended:
            return
        self.dead, self.death = True, why
        self.note(died_at=trio.current_time())
        self.end()

    def end(self) -> None:
        """Let nothing pass any more. Synchronous, idempotent."""
        if self.ended:
            return
        self.ended = True
        self._scope.cancel(reason="the connection to the scripted server ended")
        self._line.clear()
        self.offers.clear()
        self.to_client.close()
        self.changed()

    def stop(self) -> None:
        """Neither read nor write until `resume()`."""
        self._deaf = self._dumb = True

    def resume(self) -> None:
        """Go on after `stop()`."""
        self._deaf = self._dumb = False
        self._woken.unpark_all()

    async def run(self) -> None:
        """The server's tasks. Returns when the connection has ended."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, nursery)
                nursery.start_soon(self._write)

    # The way in.

    def offer(self, offer: Offer) -> None:
        """Put a message before the reader. Synchronous."""
        self.offers.append(offer)
        self.changed()
        self._woken.unpark_all()

    def withdraw(self, offer: Offer) -> None:
        """Take back a message that was not read. Synchronous."""
        if offer in self.offers:
            self.offers.remove(offer)
            self.changed()

    async def _read(self, nursery: trio.Nursery) -> None:
        while True:
            offer = await self._next_offer()
            gate = self._stream_gate(offer.message)
            if gate is never:
                # Wedged: this message and all that follow stay unread, unless the test calls `resume()`.
                self._deaf, gate = True, ok
            if not isinstance(gate, Error | Slow):
                await gate._pass()
                if await self._next_offer() is not offer:
                    continue  # withdrawn meanwhile
            self.offers.popleft()
            offer.taken = True
            self.last_taken_at = trio.current_time()
            offer.on_taken()
            self.changed()
            self._take(nursery, offer.message, gate)

    async def _next_offer(self) -> Offer:
        while self._deaf or not self.offers:
            await self._woken.park()
        return self.offers[0]

    def _stream_gate(self, message: dict[str, Any]) -> Gate:
        if "id" not in message or "method" not in message or self._shakes(message):
            return ok
        if message["method"] != "tools/call" and not isinstance(self._server.gates["stream"], Gate):
            return ok  # several gates are for tool calls only: the client lists the tools by itself now and then
        return self._server.gates._draw("stream")

    def _shakes(self, message: dict[str, Any]) -> bool:
        return not self._shaken and message["method"] in _HANDSHAKES

    def _take(self, nursery: trio.Nursery, message: dict[str, Any], gate: Gate) -> None:
        method = message.get("method")
        if method is None:
            question = self._questions.pop(str(message.get("id")), None)
            if question is not None:
                question.response = message
                question.answered.set()
        elif "id" not in message:
            if method == "notifications/cancelled":
                self._cancel((message.get("params") or {}).get("requestId"))
        elif isinstance(gate, Error):
            # It dies with the request read: the tool counts as run, and nobody will hear of it.
            if method == "tools/call" and message["params"]["name"] in self._server.tools:
                self._server._started(self.number, message["params"])
            self._kill(gate._make())
        else:
            # Known from here on, so that a cancellation that is read before the task has started is not lost.
            scope = self._running[message["id"]] = trio.CancelScope()
            nursery.start_soon(self._serve, message, gate.seconds if isinstance(gate, Slow) else 0.0, scope)

    def _cancel(self, request_id: Any) -> None:
        self._listeners.pop(request_id, None)
        scope = self._running.pop(request_id, None)
        if scope is not None:
            scope.cancel(reason="the client cancelled the request")

    # The way out.

    def _send(self, message: dict[str, Any], delay: float = 0) -> None:
        if not self.ended:
            self._line.append((trio.current_time() + delay, message))
            self._woken.unpark_all()

    async def _write(self) -> None:
        while True:  # noqa: ASYNC913 (with nothing to write it parks)
            while self._dumb or not self._line:
                await self._woken.park()
            due, message = self._line[0]
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue  # it may have been stopped meanwhile
            self._line.popleft()
            try:
                self.to_client.send_nowait(message)
            except trio.BrokenResourceError:
                return  # the client reads no more; why it left is its own to tell

    def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification, in the modern era through the subscriptions that asked for it. Synchronous."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = dict(params)
        if method not in protocol.LISTENED or not self._modern:
            self._send(message)
            return
        for listener, wanted in self._listeners.items():
            asked = wanted.get(protocol.LISTENED[method])
            if asked is True or (isinstance(asked, list) and (params or {}).get("uri") in asked):
                self._send({**message, "params": {**(params or {}), "_meta": {protocol.SUBSCRIPTION_ID: listener}}})

    async def _ask(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        name = f"server-{self._server._next_question()}"
        question = self._questions[name] = _Question(trio.Event())
        try:
            self._send({"jsonrpc": "2.0", "id": name, "method": method, "params": dict(params or {})})
            await question.answered.wait()
        except trio.Cancelled:
            # As the SDK's server does: the client has nobody to answer any more.
            gone = {"requestId": name, "reason": "the call that it belongs to was cancelled"}
            self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": gone})
            raise
        finally:
            self._questions.pop(name, None)
        response = question.response
        assert response is not None
        if "error" in response:
            told = response["error"]
            raise mcp.MCPError(told["code"], told["message"], told.get("data"))
        result: dict[str, Any] = response["result"]
        return result

    # The answers.

    async def _serve(self, request: dict[str, Any], delay: float, scope: trio.CancelScope) -> None:
        request_id = request["id"]
        with scope:
            try:
                result = await self._answer(request, delay)
            except protocol.RpcError as why:
                self._send(protocol.refuse(request, why.error), delay)
            except mcp.MCPError as why:
                told = why.error.model_dump(by_alias=True, mode="json", exclude_none=True)
                self._send(protocol.refuse(request, told), delay)
            else:
                if result is not None:
                    self._send(protocol.answer(request, result), delay)
            finally:
                if self._running.get(request_id) is scope:
                    del self._running[request_id]

    async def _answer(self, request: dict[str, Any], delay: float) -> dict[str, Any] | None:
        """The result, or `None` where none is ever sent. Raises the error to be answered."""
        method, params = request["method"], request.get("params") or {}
        self._modern = protocol.is_modern(request)
        server = self._server
        if self._shakes(request):
            return await self._shake(request)
        match method:
            case "tools/call":
                return await self._call(params, delay)
            case "tools/list":
                return protocol.listing(request, "tools", [tool._listed() for tool in server.tools.values()])
            case "subscriptions/listen" if self._modern:
                wanted = dict(params.get("notifications") or {})
                self._listeners[request["id"]] = wanted
                told = {"notifications": wanted, "_meta": {protocol.SUBSCRIPTION_ID: request["id"]}}
                self._send({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": told})
                return None
            case "server/discover" | "initialize":
                return protocol.handshake(server.name, request, server.eras)
            case _:
                return protocol.lookup(request, server.resources, server.prompts)

    async def _shake(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if self._handshake is None:
            # One passage for the whole dial, though in `auto` mode the client may send two messages.
            self._handshake, self._handshake_at = self._server.gates._draw("handshake"), trio.current_time()
        gate = self._handshake
        if isinstance(gate, Error):
            why = gate._make()
            if isinstance(why, mcp.MCPError):
                raise why
            self._kill(why)
            return None
        if isinstance(gate, Slow):
            await trio.sleep_until(self._handshake_at + gate.seconds)
        else:
            await gate._pass()
        result = protocol.handshake(self._server.name, request, self._server.eras)
        self._shaken = True
        return result

    async def _call(self, params: dict[str, Any], delay: float) -> dict[str, Any] | None:
        tool = self._server.tools.get(params["name"])
        if tool is None:
            return protocol.text_result(f"Unknown tool: {params['name']}", is_error=True)
        arguments = dict(params.get("arguments") or {})
        index = self._server._started(self.number, params)
        try:
            result = await self._run(tool, arguments, params, delay)
        except trio.Cancelled:
            if not self.ended:
                self._server._ended(index, cancelled=True)
            raise
        except mcp.MCPError:
            self._server._ended(index, finished_at=trio.current_time())
            raise
        if self.ended:
            return None  # the tool killed its own server
        self._server._ended(index, finished_at=trio.current_time())
        return result

    async def _run(self, tool: Any, arguments: dict[str, Any], params: dict[str, Any], delay: float) -> dict[str, Any]:
        gate = self._server.gates._draw("call")
        try:
            await gate._pass()
            value = await tool._run(arguments, ToolContext(self, params, delay))
        except mcp.MCPError:
            raise
        except Exception as why:
            return protocol.text_result(str(why) or type(why).__name__, is_error=True)
        return dump_result(value) or protocol.tool_result(value)
