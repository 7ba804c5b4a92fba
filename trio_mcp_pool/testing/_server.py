"""A scripted MCP server in this process, for tests of pools and of programs that use them.

The client is a real `mcp.Client` and the messages between the two are real MCP; only the process, its pipes and the passing
of time are made up. Everything happens on Trio's clock, so that under `trio.testing.MockClock` an hour passes in no time
and every moment has an exact number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from typing import Any, Literal, final

import mcp
import trio

from .._arguments import explain_timeout
from .._policy import PoolPolicy
from .._servers import (
    ClientOptions,
    Configure,
    Server,
    as_handlers,
    callback_options,
    check_callbacks,
    watch_messages,
)
from .._wire._link import Link
from ._gates import GateTable
from ._peer import Peer
from ._records import CallRecord, ConnectionRecord
from ._tools import Tools, ToolTable
from ._transport import ScriptedTransport

_CLIENT_OPTIONS = frozenset(f.name for f in fields(ClientOptions))


@final
@explain_timeout
class ScriptedServer(Server):
    """A server for tests: what it does at each stage of a session is up to the test, what it did is on record.

        async def test_a_missing_command_is_told_at_once(autojump_clock):
            server = ScriptedServer()
            server.gates["spawn"] = error(FileNotFoundError("no-such-command"))
            async with open_pool({"files": server}) as pool:
                with pytest.raises(ConnectError):
                    await pool.call_tool("files", "echo", {"text": "hello"})

        async def test_the_result_arrives_after_three_seconds(autojump_clock):
            server = ScriptedServer({"greet": lambda name: f"hello {name}"}, gates={"call": slow(3)})
            async with open_pool({"greeter": server}) as pool:
                result = await pool.call_tool("greeter", "greet", {"name": "you"})
            assert trio.current_time() == 3
            assert [call.tool for call in server.calls] == ["greet"]

    `tools` maps names to functions, sync or async, or is a sequence of functions; `tool()` adds annotations. Default: `echo`,
    which returns its `text`, and `add`, which adds `a` and `b`; both read-only. `resources` maps URIs, and `prompts` names,
    to their text or to a function that returns it. All three can be changed while the server runs.

    `gates` sets gates from the start; see the table below. `eras` is what the server understands: `"both"`, only the
    handshakes of 2024-11-05 to 2025-11-25 (`"legacy"`), or only 2026-07-28 (`"modern"`). `mode` is how the client begins, as
    for `mcp.Client`; what else that takes is taken by the same name and handed on. `policy`, `trusted` and `configure` are
    those of every server. A scripted server is equal to itself only.

    | stage | reached | `error(e)` | `slow(s)` | `never` |
    | --- | --- | --- | --- | --- |
    | `spawn` | when a dial enters the transport | `e` comes out of the dial | the dial takes `s` longer | it hangs |
    | `handshake` | once per dial, when the server has read the client's first message | an `MCPError` is its answer; at \
anything else the server dies | the answer takes `s` | there is none |
    | `call` | when the server has read a tool call | an `MCPError` is its answer; anything else becomes a result with \
`is_error`; the tool counts as run | the tool runs after `s` | it runs for ever |
    | `stream` | when the server is about to read a request, after the handshake | it reads the request and dies, with `e` \
as the reason; a tool counts as run | everything it sends for the request arrives `s` later, in order | it stops reading, \
this request included, so that writing hangs |
    | `close` | when the client leaves the transport | `e` comes out | leaving takes `s`, uncancellable if `shielded` | \
leaving hangs until it is cancelled |

    Where `stream` is given several gates, each tool call takes the next one and other requests pass: the client of the SDK
    lists the tools by itself after it has called one that it did not know. With a single gate that request,
    too, is slow or ends the server: let the client list the tools first where that matters. With the client's `mode` a modern
    version string there is no handshake on the wire, so that gate is not reached.
    """

    def __init__(
        self,
        tools: Tools | None = None,
        *,
        gates: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        prompts: Mapping[str, Any] | None = None,
        name: str = "scripted",
        eras: Literal["both", "legacy", "modern"] = "both",
        mode: str = "auto",
        trusted: bool = False,
        configure: Configure | None = None,
        policy: PoolPolicy | None = None,
        **client_options: Any,
    ) -> None:
        if eras not in ("both", "legacy", "modern"):
            raise ValueError(f"ScriptedServer.eras must be 'both', 'legacy' or 'modern', not {eras!r}")
        for option in client_options:
            if option not in _CLIENT_OPTIONS:
                raise TypeError(f"ScriptedServer takes no {option!r}, and neither does mcp.Client")
        check_callbacks("ScriptedServer", client_options)
        self.name = name
        self.eras: str = eras
        self.trusted = trusted
        self.configure = configure
        self.policy = policy
        self._check()
        self.gates: GateTable = GateTable(dict(gates or {}))
        """What happens at each stage: `server.gates["call"] = slow(2)`."""
        self.tools: ToolTable = ToolTable(tools)
        """The tools by name. Those added or removed are seen by the next request."""
        self.resources: dict[str, Any] = dict({"memo://hello": "hello"} if resources is None else resources)
        """Resources by URI: their text, or a function that returns it."""
        self.prompts: dict[str, Any] = dict({"greet": "Say hello."} if prompts is None else prompts)
        """Prompts by name: their text, or a function of their arguments that returns it."""
        self._options: dict[str, Any] = {"mode": mode, **client_options}
        self._records: list[CallRecord] = []
        self._peers: list[Peer] = []
        self._peak = 0
        self._questions = 0

    def __repr__(self) -> str:
        return f"<ScriptedServer {self.name!r} {self.open_connections} open, {len(self._peers)} dialled>"

    # What happened.

    @property
    def calls(self) -> list[CallRecord]:
        """Every tool that ran, in the order in which the calls were read: whatever their callers got."""
        return list(self._records)

    @property
    def connections(self) -> list[ConnectionRecord]:
        """Every dial, in order, and what became of it."""
        return [peer.record for peer in self._peers]

    @property
    def open_connections(self) -> int:
        """How many connections exist, those that are dialling, dead but not yet left, or closing included."""
        return sum(peer.record.state != "closed" for peer in self._peers)

    @property
    def peak_open(self) -> int:
        """The most connections that existed at the same time, counted as in `open_connections`."""
        return self._peak

    # What the test does to it.

    def kill(self, n: int | Literal["all"] | None = None) -> None:
        """End a connection at once, as a killed process would: no answer that was still under way arrives. Synchronous.

        `n` is the number of the connection, from 1; `None` the newest that lives; `"all"` every one. Raises `LookupError`
        if there is no such connection; nothing happens to one that has ended already.
        """
        for peer in self._chosen(n):
            peer._kill()

    def stop(self, n: int | Literal["all"] | None = None) -> None:
        """Stop a server as SIGSTOP does: it reads nothing and sends nothing, but is not dead. Its tools go on.

        `n` as for `kill()`. Synchronous.
        """
        for peer in self._chosen(n):
            peer.stop()

    def resume(self, n: int | Literal["all"] | None = None) -> None:
        """Let a server that was stopped, by `stop()` or at a `never` of the stage `stream`, go on. Synchronous."""
        for peer in self._chosen(n):
            peer.resume()

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification on every live connection: `server.notify("notifications/tools/list_changed")`. Synchronous.

        Notices of changes reach a modern client only where it listens for them, as the protocol has it.
        """
        for peer in self._peers:
            if not peer.ended:
                peer.notify(method, params)

    def _chosen(self, n: int | Literal["all"] | None) -> list[Peer]:
        living = [peer for peer in self._peers if not peer.ended]
        if n == "all":
            return living
        if n is None:
            if not living:
                raise LookupError(f"{self!r} has no living connection")
            return living[-1:]
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"a connection is named by its number, None or 'all', not {n!r}")
        if not 1 <= n <= len(self._peers):
            raise LookupError(f"{self!r} has no connection number {n}")
        return [self._peers[n - 1]]

    # What its connections report.

    def _started(self, connection: int, params: Mapping[str, Any]) -> int:
        self._records.append(
            CallRecord(connection, params["name"], dict(params.get("arguments") or {}), trio.current_time())
        )
        return len(self._records) - 1

    def _ended(self, index: int, **changes: Any) -> None:
        self._records[index] = replace(self._records[index], **changes)

    def _next_question(self) -> int:
        self._questions += 1
        return self._questions

    @asynccontextmanager
    async def _connect(self, link: Link) -> AsyncIterator[mcp.Client]:
        peer = Peer(self, len(self._peers) + 1)
        self._peers.append(peer)
        self._peak = max(self._peak, self.open_connections)
        options = {**self._options, "message_handler": watch_messages(link, self._options.get("message_handler"))}
        options = callback_options(link, options, options.pop("callbacks", None))
        async with mcp.Client(ScriptedTransport(peer, link, self.gates), **as_handlers(link, options)) as client:
            peer.note(state="open", opened_at=trio.current_time())
            yield client
