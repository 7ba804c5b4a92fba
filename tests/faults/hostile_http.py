"""An HTTP server that misbehaves as it is told. `python -S -m tests.faults.hostile_http FOLDER ERA PORT`.

ERA is `legacy`, `modern` or `sse`, the older transport. `mode` says, whenever it is asked: `connect` (`mute`, or a status),
`cancelled` (what a cancel notice meets: `slow`, `fail`, `reset`), `delete` (`mute`), `streams` (`cut`: those held open end).
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import socket
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.faults.hostile import Ground, answer, plain_result, text, tool_answer

# More than the client accepts in one event.
TOO_BIG = 17_000_000


class State:
    """What all requests share."""

    def __init__(self, ground: Ground, era: str) -> None:
        self.ground = ground
        self.era = era
        self.numbers = itertools.count(1)
        self.sessions: dict[str, queue.Queue[bytes | None]] = {}
        self.forgotten = 404


class Server(ThreadingHTTPServer):
    request_queue_size = 200
    daemon_threads = True
    state: State

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without asking a name server for the name of this machine
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is nothing unusual here


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    # Answering.

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply_json(self, body: bytes, **headers: str) -> None:
        self.reply(200, body, content_type="application/json", **headers)

    def start_events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end_events(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    # Requests.

    def do_GET(self) -> None:
        state = self.server.state
        if not self.connects():
            return
        if state.era == "sse":
            session = f"{os.getpid()}-{next(state.numbers)}"
            box = state.sessions[session] = queue.Queue()
            self.start_events()
            self.chunk(f"event: endpoint\ndata: /messages?session={session}\n\n".encode())
        else:
            session = self.headers.get("mcp-session-id", "")
            if session not in state.sessions:
                self.reply(state.forgotten if session else 405)
                return
            box = state.sessions[session]
            self.start_events()
        while True:
            try:
                message = box.get(timeout=0.05)
            except queue.Empty:
                if state.ground.mode().get("streams") == "cut":
                    break
                continue
            if message is None:
                break
            self.chunk(b"event: message\ndata: " + message + b"\n\n")
        self.hang_up(reset=True)

    def do_DELETE(self) -> None:
        if self.server.state.ground.mode().get("delete") == "mute":
            time.sleep(30)
        box = self.server.state.sessions.pop(self.headers.get("mcp-session-id", ""), None)
        if box is not None:
            box.put(None)
        self.reply(200)

    def do_POST(self) -> None:
        state = self.server.state
        message = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))))
        method = message.get("method")
        if state.era == "sse":
            session = parse_qs(urlsplit(self.path).query).get("session", [""])[0]
            known = session in state.sessions
        else:
            session = self.headers.get("mcp-session-id", "")
            known = not session or session in state.sessions
        if not known:
            self.reply(state.forgotten)
        elif "id" not in message:
            self.notice(method)
        elif method == "tools/call":
            self.call(message, session)
        elif method == "server/discover" and state.era == "legacy":
            self.reply(404)
        elif method == "initialize" and state.era == "legacy":
            if self.connects():
                session = f"{os.getpid()}-{next(state.numbers)}"
                state.sessions[session] = queue.Queue()
                self.reply_json(plain_result(message, "legacy"), mcp_session_id=session)
        elif method in ("server/discover", "initialize") and not self.connects():
            return
        else:
            self.deliver(session, plain_result(message, "modern" if state.era == "modern" else "legacy"))

    def connects(self) -> bool:
        how = self.server.state.ground.mode().get("connect")
        if how == "mute":
            time.sleep(30)
        elif how is not None:
            self.reply(how)
        return how is None

    def notice(self, method: str) -> None:
        how = self.server.state.ground.mode().get("cancelled") if method == "notifications/cancelled" else None
        if how == "slow":
            time.sleep(3)
        if how == "fail":
            self.reply(500)
        elif how == "reset":
            self.hang_up(reset=True)
        else:
            self.reply(202)

    def deliver(self, session: str, body: bytes) -> None:
        """An answer, over whatever stream it belongs on."""
        if self.server.state.era == "sse":
            self.reply(202)
            self.server.state.sessions[session].put(body)
        else:
            self.reply_json(body)

    def call(self, message: dict[str, Any], session: str) -> None:
        state = self.server.state
        arguments = message["params"].get("arguments") or {}
        do = arguments.get("do", "ok")
        if do == "status":
            extra = {"retry_after": "7"} if arguments["status"] in (429, 503) else {}
            self.reply(arguments["status"], **extra)
            return
        state.ground.execute(arguments["id"])
        if state.era == "sse":
            self.call_over_sse(message, session, do, arguments)
            return
        body = tool_answer(message, do, arguments)
        if body is not None:
            self.reply_json(body)
        elif do == "wait":
            self.start_events()
            state.ground.wait_for_go()
            self.chunk(b"data: " + answer(message["id"], text("ok")) + b"\n\n")
            self.end_events()
        elif do == "forget":
            state.forgotten = arguments["status"]
            self.reply_json(answer(message["id"], text("forgotten")))
            state.sessions.clear()
        elif do == "never":
            self.start_events()
            time.sleep(30)
        elif do == "reset":
            self.hang_up(reset=True)
        elif do == "truncated":
            self.wfile.write(
                b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"jsonrpc":'
            )
            self.hang_up(reset=False)
        elif do == "truncated_events":
            self.start_events()
            self.chunk(b'data: {"jsonrpc":')
            self.hang_up(reset=True)
        elif do == "ended_events":
            self.start_events()
            self.end_events()
        elif do == "broken_json":
            self.reply_json(b'{"jsonrpc": "2.0", "id":')
        elif do == "html":
            self.reply(200, b"<p>Welcome!</p>", content_type="text/html")
        elif do == "big_event":
            self.start_events()
            self.chunk(b"data: " + answer(message["id"], text("x" * TOO_BIG)) + b"\n\n")
            self.end_events()

    def call_over_sse(self, message: dict[str, Any], session: str, do: str, arguments: dict[str, Any]) -> None:
        state = self.server.state
        box = state.sessions[session]
        body = tool_answer(message, do, arguments)
        if do == "reset":
            self.hang_up(reset=True)
            return
        self.reply(202)
        if body is not None:
            box.put(body)
        elif do == "wait":

            def later() -> None:
                state.ground.wait_for_go()
                box.put(answer(message["id"], text("ok")))

            threading.Thread(target=later, daemon=True).start()
        elif do == "forget":
            state.forgotten = arguments["status"]
            box.put(answer(message["id"], text("forgotten")))
            state.sessions.clear()
        elif do == "big_event":
            box.put(answer(message["id"], text("x" * TOO_BIG)))
        elif do == "ended_events":
            box.put(None)


def main() -> None:
    ground = Ground(sys.argv[1])
    server = Server(("127.0.0.1", int(sys.argv[3])), Handler)
    server.state = State(ground, sys.argv[2])
    ground.append("starts", str(os.getpid()))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
