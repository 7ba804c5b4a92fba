"""The scripted server as a real child process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import mcp

from .._servers import StdioServer
from ._gates import STAGES, Error, Gate, GateTable, Hold, Slow, never

_CHILD = Path(__file__).with_name("_child.py")


def _plain(stage: str, gate: Gate) -> list[Any]:
    if isinstance(gate, Hold):
        raise TypeError(f"gates[{stage!r}]: hold() works in this process only; a child can be ok, error, slow or never")
    if isinstance(gate, Slow):
        return ["slow", gate.seconds, gate.shielded]
    if isinstance(gate, Error):
        why = gate._make()
        status, code = 1, None
        if isinstance(why, mcp.MCPError):
            code = why.code
        elif isinstance(why, SystemExit) and isinstance(why.code, int):
            status = why.code
        return ["error", type(why).__name__, str(why), status, code]
    return ["never"] if gate is never else ["ok"]


def scripted_stdio_server(
    *,
    gates: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    log: str | os.PathLike[str] | None = None,
    name: str = "scripted",
    eras: Literal["both", "legacy", "modern"] = "both",
    **server_options: Any,
) -> StdioServer:
    """A `StdioServer` whose child follows a script: `ScriptedServer`'s with a real process, real pipes and real time.

        server = scripted_stdio_server(gates={"spawn": [error(), ok]}, log=tmp_path / "log")
        ...
        assert [entry["tool"] for entry in read_log(tmp_path / "log") if entry["event"] == "call"] == ["echo"]

    Its tools are `echo(text)`, `add(a, b)`, `sleep(seconds)`, `pid()` and `crash()`, which kills the process in the middle
    of the call, and one for each of `texts`, which returns that text. `server_options` are those of `StdioServer`.

    `gates` has the stages of `ScriptedServer` with one gate each, or a sequence, and means the same as far as a process can:

    - `spawn`: `error(e)` makes the child exit at once with a line on stderr and status 1, or the status of a `SystemExit`;
      `never` leaves it mute.
    - `handshake`: `error(e)` answers with an `MCPError` or exits as above. `never` gives no answer.
    - `call`: as `ScriptedServer`.
    - `stream`: `error(e)` exits with the request read. `never` stops reading after the request that meets it, which no
      longer reaches a tool; what the client writes then fills the pipe's buffer before writing hangs.
    - `close`: `slow(s)` lives on for `s` seconds after the end of stdin, and with `shielded` ignores SIGTERM; `never` ignores
      both the end of stdin and SIGTERM. `error(e)` exits with a status.

    With a `log` each child appends to it what it does, for `read_log`; a sequence of gates then counts over all processes
    that share the log, otherwise every process starts again with the first. Start-up takes some tens of milliseconds.
    """
    table = GateTable(dict(gates or {}))
    plain: dict[str, Any] = {}
    for stage in STAGES:
        given = table[stage]
        if isinstance(given, Gate):
            plain[stage] = _plain(stage, given)
        elif isinstance(given, Sequence):
            plain[stage] = [_plain(stage, gate) for gate in given] or ["ok"]
        else:
            raise TypeError(
                f"gates[{stage!r}] must be a gate or a sequence of gates: a child cannot be given {given!r}"
            )
    script = {
        "name": name,
        "eras": eras,
        "log": None if log is None else os.path.abspath(log),
        "texts": dict(texts or {}),
        "gates": plain,
    }
    return StdioServer(sys.executable, ("-I", "-S", str(_CHILD), json.dumps(script)), **server_options)


def read_log(log: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What the children of a `scripted_stdio_server` did, in order; empty if none has started.

    Each entry has `event`, `pid` and `time` (of the system clock). The events are `spawn`, one per process; `stream`, one per
    passage of that gate; and `call`, one per tool that ran, with `tool` and `arguments`.
    """
    path = Path(log)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
