"""The scripted server as a real process: the standard library and `_protocol.py`, nothing else.

Run by path and isolated (`python -I -S .../_child.py SCRIPT`), so that it answers within some tens of milliseconds.
`SCRIPT` is a JSON object made by `scripted_stdio_server`: `name`, `eras`, `log`, `texts` and `gates`, where a gate is a list
whose first item names it, and a stage has one gate or a list of gates.

What it does it appends to the log, one JSON line per event, each written by one `write` call to a file opened for
appending: so several children may share a log, and a test that kills one of them loses nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import _protocol as protocol
else:
    _spec = importlib.util.spec_from_file_location("_protocol", Path(__file__).with_name("_protocol.py"))
    protocol = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(protocol)

_BUILT_IN = {
    "echo": ("Returns its text.", {"text": {"type": "string"}}),
    "add": ("Returns the sum of two numbers.", {"a": {"type": "number"}, "b": {"type": "number"}}),
    "sleep": ("Returns after so many seconds.", {"seconds": {"type": "number"}}),
    "pid": ("Returns the process id of the server.", {}),
    "crash": ("Kills the server in the middle of the call.", {}),
}


class Child:
    """One run of the script."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script
        self._log = script.get("log")
        self._out = threading.Lock()
        self._passages = {"call": 0, "stream": 0}
        self._shaken = False
        self._handshake: list[Any] | None = None
        self._cancelled: set[Any] = set()
        self._resources = {"memo://hello": "hello"}
        self._prompts = {"greet": "Say hello."}
        self._number = 1
        self.note("spawn")
        if self._log:
            # Which of the log's processes this is: a gate that is a list counts dials, and each dial is a process.
            lines = [json.loads(line) for line in Path(self._log).read_text().splitlines()]
            spawned = [line["pid"] for line in lines if line["event"] == "spawn"]
            self._number = spawned.index(os.getpid()) + 1
            for line in lines:
                if line["event"] in self._passages:
                    self._passages[line["event"]] += 1

    def note(self, event: str, **details: Any) -> None:
        """Append to the log."""
        if self._log:
            line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **details}) + "\n"
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(log, line.encode())
            os.close(log)

    def gate(self, stage: str) -> list[Any]:
        """The gate for the next passage of `stage`."""
        given = self._script.get("gates", {}).get(stage, ["ok"])
        if isinstance(given[0], str):
            return list(given)
        if stage in self._passages:
            self._passages[stage] += 1
        number = self._passages.get(stage, self._number)
        gate: list[Any] = given[number - 1] if number <= len(given) else ["ok"]
        return gate

    def send(self, message: dict[str, Any]) -> None:
        """Write one message to stdout."""
        line = json.dumps(message).encode() + b"\n"
        with self._out:
            try:
                while line:
                    line = line[os.write(1, line) :]
            except OSError:
                os._exit(1)  # the client has gone

    def die(self, gate: list[Any], stage: str) -> None:
        """End as the gate says: a line on stderr, then the status it names."""
        _, name, text, status = gate[:4]
        os.write(2, f"scripted {stage} failure: {name}: {text}\n".encode())
        os._exit(status)

    def run(self) -> None:
        """Read stdin to its end, then leave."""
        gate = self.gate("spawn")
        if gate[0] == "error":
            self.die(gate, "spawn")
        if gate[0] == "slow":
            time.sleep(gate[1])
        if gate[0] == "never":
            while True:
                time.sleep(3600)
        closing = self.gate("close")
        if closing[0] == "never" or (closing[0] == "slow" and closing[2]):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for line in sys.stdin.buffer:
            if line.strip():
                self.take(json.loads(line))
        if closing[0] == "slow":
            time.sleep(closing[1])
        while closing[0] == "never":
            time.sleep(3600)
        if closing[0] == "error":
            self.die(closing, "close")
        os._exit(0)

    def take(self, message: dict[str, Any]) -> None:
        """Deal with one message from the client."""
        if "method" not in message:
            return
        if "id" not in message:
            if message["method"] == "notifications/cancelled":
                self._cancelled.add(message["params"]["requestId"])
            return
        if not self._shaken and message["method"] in ("initialize", "server/discover"):
            self.shake(message)
            return
        gate = self.stream_gate(message)
        if gate[0] == "never":
            while True:  # stop reading; what the client writes from here on fills the pipe
                time.sleep(3600)
        if gate[0] == "error":
            if message["method"] == "tools/call":
                self.ran(message)
            self.die(gate, "stream")
        delay = gate[1] if gate[0] == "slow" else 0
        if message["method"] == "tools/call":
            self.call(message, delay)
            return
        try:
            self.reply(message, self.answer(message), delay)
        except protocol.RpcError as why:
            self.later(delay, protocol.refuse(message, why.error))

    def stream_gate(self, message: dict[str, Any]) -> list[Any]:
        """The gate for one request: several gates are dealt out to tool calls only."""
        given = self._script.get("gates", {}).get("stream", ["ok"])
        if message["method"] != "tools/call" and not isinstance(given[0], str):
            return ["ok"]
        self.note("stream")
        return self.gate("stream")

    def shake(self, request: dict[str, Any]) -> None:
        """Answer the handshake."""
        if self._handshake is None:
            self._handshake = self.gate("handshake")
        gate = self._handshake
        if gate[0] == "error" and gate[4] is not None:
            self.send(protocol.refuse(request, {"code": gate[4], "message": gate[2]}))
            return
        if gate[0] == "error":
            self.die(gate, "handshake")
        if gate[0] == "never":
            return
        if gate[0] == "slow":
            time.sleep(gate[1])
        try:
            result = protocol.handshake(self._script["name"], request, self._script["eras"])
        except protocol.RpcError as why:
            self.send(protocol.refuse(request, why.error))
        else:
            self._shaken = True
            self.send(protocol.answer(request, result))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result of anything but a tool call."""
        if request["method"] in ("server/discover", "initialize"):
            return protocol.handshake(self._script["name"], request, self._script["eras"])
        if request["method"] == "tools/list":
            tools = [
                {
                    "name": name,
                    "description": text,
                    "inputSchema": {"type": "object", "properties": properties, "required": list(properties)},
                }
                for name, (text, properties) in _BUILT_IN.items()
            ]
            tools += [{"name": name, "inputSchema": {"type": "object"}} for name in self._script["texts"]]
            return protocol.listing(request, "tools", tools)
        return protocol.lookup(request, self._resources, self._prompts)

    def ran(self, request: dict[str, Any]) -> None:
        """Put the execution of a tool on record."""
        params = request["params"]
        self.note("call", tool=params["name"], arguments=params.get("arguments") or {})

    def call(self, request: dict[str, Any], delay: float) -> None:
        """Run a tool."""
        name, arguments = request["params"]["name"], request["params"].get("arguments") or {}
        if name not in _BUILT_IN and name not in self._script["texts"]:
            self.reply(request, protocol.text_result(f"Unknown tool: {name}", is_error=True), delay)
            return
        self.ran(request)
        gate = self.gate("call")
        if gate[0] == "never":
            return
        if gate[0] == "error":
            if gate[4] is not None:
                self.later(delay, protocol.refuse(request, {"code": gate[4], "message": gate[2]}))
            else:
                self.reply(request, protocol.text_result(gate[2], is_error=True), delay)
            return
        if gate[0] == "slow":
            delay += gate[1]
        try:
            if name == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "sleep":
                delay += arguments["seconds"]
            text = self.text(name, arguments)
            result = protocol.text_result(text)
        except (KeyError, TypeError) as why:
            result = protocol.text_result(f"bad arguments: {why!r}", is_error=True)
        self.reply(request, result, delay)

    def text(self, name: str, arguments: dict[str, Any]) -> str:
        """What a tool returns."""
        match name:
            case "echo":
                return str(arguments["text"])
            case "add":
                return str(arguments["a"] + arguments["b"])
            case "sleep":
                return "awake"
            case "pid":
                return str(os.getpid())
            case _:
                text: str = self._script["texts"][name]
                return text

    def reply(self, request: dict[str, Any], result: dict[str, Any], delay: float) -> None:
        """Answer with a result, after `delay` seconds."""
        self.later(delay, protocol.answer(request, result))

    def later(self, delay: float, message: dict[str, Any]) -> None:
        """Send after `delay` seconds, unless the request was cancelled by then."""
        if not delay:
            self.send(message)
            return

        def send() -> None:
            if message["id"] not in self._cancelled:
                self.send(message)

        timer = threading.Timer(delay, send)
        timer.daemon = True
        timer.start()


if __name__ == "__main__":
    Child(json.loads(sys.argv[1])).run()
