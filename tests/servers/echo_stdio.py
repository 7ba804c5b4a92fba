"""An MCP server on stdio made of the standard library only, obliging or hostile as its arguments say.

Speaks both eras: `initialize` (2025-06-18) and `server/discover` (2026-07-28), unless `--era` allows only one.

Tools: `echo` (text), `big` (bytes: a result of that size), `sleep` (seconds, answered out of order), `pid`, `count` (how many
tools/call were executed), `crash` (exit status), `bad_utf8`, `garbage`, `ask` (a sampling request to the client), `progress`
(steps), `grandchild` (setsid: bool), `split` (the answer in pieces), `env` (name), `log` (lines on stderr), `close_stdout`,
`meta` (the `_meta` that came), `structured` (its arguments as structured content; its schema wants a number `n`).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time

lock = threading.Lock()
executed = 0
waiting = {}
next_id = 1000


def send(message):
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    write(data)


def write(data):
    with lock:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def text(value):
    # Required in the modern era, ignored in the other.
    return {"resultType": "complete", "content": [{"type": "text", "text": value}], "isError": False}


def spawn_grandchild(setsid):
    code = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code], start_new_session=setsid, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    child.stdout.readline()
    return child.pid


def call(request, name, arguments):
    global executed, next_id
    executed += 1
    request_id = request["id"]
    if name == "echo":
        return text(arguments.get("text", ""))
    if name == "pid":
        return text(str(os.getpid()))
    if name == "count":
        return text(str(executed))
    if name == "big":
        return text("x" * arguments["bytes"])
    if name == "env":
        return text(os.environ.get(arguments["name"], ""))
    if name == "crash":
        sys.stderr.write("I am going down\n")
        sys.stderr.flush()
        os._exit(arguments.get("status", 3))
    if name == "close_stdout":
        os.close(1)
        time.sleep(600)
    if name == "bad_utf8":
        answer = {"jsonrpc": "2.0", "id": request_id, "result": text("caf?")}
        write(json.dumps(answer).encode().replace(b"?", b"\xe9") + b"\n")
        return None
    if name == "garbage":
        write(b"this is not JSON\n\n[1, 2\n" + (b"\xff\xfe\n" if arguments.get("binary") else b""))
        return text("after the garbage")
    if name == "log":
        for line in arguments["lines"]:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
        return text("logged")
    if name == "split":
        data = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": text("in pieces")}).encode() + b"\n"
        for at in range(0, len(data), 7):
            write(data[at : at + 7])
            time.sleep(0.001)
        return None
    if name == "meta":
        return text(json.dumps(request["params"].get("_meta", {})))
    if name == "structured":
        return text(json.dumps(arguments)) | {"structuredContent": arguments}
    if name == "grandchild":
        return text(str(spawn_grandchild(arguments.get("setsid", False))))
    if name == "leave_grandchild":
        # The grandchild keeps our stdout open; we answer and go.
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        send({"jsonrpc": "2.0", "id": request_id, "result": text(str(child.pid))})
        os._exit(0)
    if name == "progress":
        token = request["params"].get("_meta", {}).get("progressToken")
        for step in range(arguments["steps"]):
            params = {"progressToken": token, "progress": step + 1, "total": arguments["steps"], "message": str(step)}
            send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        return text("done")
    if name == "ask":
        with lock:
            next_id += 1
            mine = next_id
        waiting[mine] = request_id
        params = {"messages": [{"role": "user", "content": {"type": "text", "text": "?"}}], "maxTokens": 5}
        send({"jsonrpc": "2.0", "id": mine, "method": "sampling/createMessage", "params": params})
        return None
    if name == "sleep":

        def later():
            time.sleep(arguments["seconds"])
            send({"jsonrpc": "2.0", "id": request_id, "result": text("slept")})

        threading.Thread(target=later, daemon=True).start()
        return None
    if name == "wedge":
        send({"jsonrpc": "2.0", "id": request_id, "result": text("no more reading")})
        time.sleep(600)
    return {"content": [{"type": "text", "text": f"unknown tool {name}"}], "isError": True}


def handle(message, options):
    method = message.get("method")
    if method is None:
        original = waiting.pop(message.get("id"), None)
        if original is not None:
            said = json.dumps(message.get("result", message.get("error")))
            send({"jsonrpc": "2.0", "id": original, "result": text(said)})
        return
    if "id" not in message:
        if method == "notifications/cancelled" and options.log_cancelled:
            sys.stderr.write(f"cancelled {message['params']['requestId']}\n")
            sys.stderr.flush()
        return
    params = message.get("params") or {}
    modern = options.era in ("modern", "both") and "io.modelcontextprotocol/protocolVersion" in params.get("_meta", {})
    result = None
    if method == "initialize" and options.era in ("legacy", "both"):
        result = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo", "version": "1"},
        }
    elif method == "server/discover" and options.era in ("modern", "both"):
        result = {
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "echo", "version": "1"}},
            "ttlMs": 0,
            "cacheScope": "private",
        }
    elif method == "tools/list":
        names = ["echo", "big", "sleep", "pid", "count", "wedge", "leave_grandchild", "structured"]
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        tools[-1]["outputSchema"] = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
        result = {"tools": tools}
        if modern:
            result |= {"ttlMs": 0, "cacheScope": "private"}
    elif method == "ping":
        result = {}
    elif method == "tools/call":
        result = call(message, params["name"], params.get("arguments") or {})
        if result is None:
            return
    if result is None:
        error = {"code": -32601, "message": "Method not found"}
        send({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return
    if modern:
        result["resultType"] = "complete"
    send({"jsonrpc": "2.0", "id": message["id"], "result": result})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", default="both", choices=["legacy", "modern", "both"])
    parser.add_argument("--stubborn", action="store_true", help="ignore the end of stdin and SIGTERM")
    parser.add_argument("--ignore-eof", action="store_true")
    parser.add_argument("--cleanup", help="on SIGTERM take a third of a second, then write this file and exit")
    parser.add_argument("--die", type=int, default=None, help="say why on stderr and exit with this status at once")
    parser.add_argument("--mute", action="store_true", help="read and never answer")
    parser.add_argument("--deaf", action="store_true", help="never read")
    parser.add_argument("--log-cancelled", action="store_true")
    parser.add_argument("--setsid-child", action="store_true")
    options = parser.parse_args()
    if options.die is not None:
        sys.stderr.write("cannot read the configuration: hunter2secret\n")
        sys.stderr.flush()
        os._exit(options.die)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.cleanup:

        def clean_up(*_):
            time.sleep(0.3)
            with open(options.cleanup, "w") as file:
                file.write("clean")
            os._exit(0)

        signal.signal(signal.SIGTERM, clean_up)
    while options.deaf:
        time.sleep(60)
    for line in sys.stdin.buffer:
        if not options.mute:
            handle(json.loads(line), options)
    while options.stubborn or options.ignore_eof:
        time.sleep(60)


if __name__ == "__main__":
    main()
