"""A stdio server that misbehaves as it is told. `python -S -m tests.faults.hostile_stdio FOLDER`.

`mode` at the start: `handshake` (`die`, `mute`), `close` (`ignore_eof`, `ignore_term`, `grandchild`, `setsid`). SIGUSR1 does
what `mode` says under `idle`: `exit`, `close_stdout`, `noise`, `bad_utf8`, `stop_reading`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from tests.faults.hostile import Ground, plain_result, tool_answer

NOISE = b'this is not JSON\n\n[1, 2\n{"jsonrpc": "2.0", "id": 987654, "result": {}}\n{"jsonrpc": "2.0", "id": "x", "result"\n'
GRANDCHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"

LOG = b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "again and again"}}\n'

lock = threading.Lock()


def odd_answer(request: dict[str, Any], do: str) -> bytes | None:
    """An answer that is none to a strict reader, or none at all."""
    good = tool_answer(request, "ok", {}) or b""
    if do == "surrogate":
        return good.replace(b'"ok"', b'"cut \\ud83d"')
    if do == "control":
        return good.replace(b'"ok"', b'"a\x01\tb"')
    if do == "bom":
        return b"\xef\xbb\xbf" + good
    if do == "float_id":
        return good.replace(b'"id": %d,' % request["id"], b'"id": %d.0,' % request["id"])
    if do == "no_jsonrpc":
        return good.replace(b'"jsonrpc": "2.0", ', b"")
    if do == "digits":
        return good.replace(b'"isError"', b'"_meta": {"n": %s}, "isError"' % (b"9" * 5000))
    if do == "cut":
        return good[:-20]
    if do == "too_deep":
        return good.replace(b'"ok"', b"[" * 100_000 + b"]" * 100_000)
    if do == "no_result":
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "ok"}).encode()
    if do == "values":
        return good.replace(b'"isError"', b'"_meta": {"n": [%s]}, "isError"' % b",".join([b"{}"] * 1_100_000))
    return None


def write(data: bytes) -> None:
    with lock:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def misbehave(do: str) -> None:
    if do == "exit":
        sys.stderr.write("I am going down\n")
        sys.stderr.flush()
        os._exit(3)
    elif do == "close_stdout":
        os.close(1)
    elif do == "noise":
        write(NOISE)
    elif do == "bad_utf8":
        write(b"\xff\xfe\xe9\n")
    elif do == "stop_reading":
        while True:
            time.sleep(60)


def call(ground: Ground, request: dict[str, Any]) -> None:
    arguments = request["params"].get("arguments") or {}
    do = arguments.get("do", "ok")
    ground.execute(arguments["id"])
    body = tool_answer(request, do, arguments) or odd_answer(request, do)
    if body is not None:
        write(body + b"\n")
    elif do == "wait":

        def later() -> None:
            ground.wait_for_go()
            write(tool_answer(request, "ok", {}) + b"\n")  # type: ignore[operator]

        threading.Thread(target=later, daemon=True).start()
    elif do == "stop_reading":
        write(tool_answer(request, "ok", {}) + b"\n")  # type: ignore[operator]
        misbehave(do)
    elif do == "flood":
        for _ in range(30):
            write(LOG * 100)
        write(tool_answer(request, "ok", {}) + b"\n")  # type: ignore[operator]
    elif do == "flood_stderr":
        for _ in range(20):
            sys.stderr.write("a\n" * 30_000)
            sys.stderr.flush()
        write(tool_answer(request, "ok", {}) + b"\n")  # type: ignore[operator]
    elif do == "noise":
        misbehave(do)
        write(tool_answer(request, "ok", {}) + b"\n")  # type: ignore[operator]
    elif do != "never":
        misbehave(do)


def main() -> None:
    ground = Ground(sys.argv[1])
    ground.append("starts", str(os.getpid()))
    mode = ground.mode()
    if mode.get("handshake") == "die":
        sys.stderr.write("cannot start\n")
        sys.stderr.flush()
        os._exit(7)
    close = mode.get("close")
    if close == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: misbehave(ground.mode().get("idle", "")))
    if close in ("grandchild", "setsid"):
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", GRANDCHILD], start_new_session=close == "setsid", stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        ground.append("grandchildren", str(child.pid))
    for line in sys.stdin.buffer:
        if mode.get("handshake") == "mute":
            continue
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        if message["method"] == "tools/call":
            call(ground, message)
        else:
            write(plain_result(message, "both") + b"\n")
    while close in ("ignore_eof", "ignore_term"):
        time.sleep(60)


if __name__ == "__main__":
    main()
