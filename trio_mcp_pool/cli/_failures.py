"""What went wrong, as an exit status, a line for people, and a line of JSON for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import trio
from mcp import MCPError

from .. import (
    AcquireTimeoutError,
    AuthenticationError,
    ConnectError,
    InvalidArgumentsError,
    InvalidResultError,
    PoolError,
    UnknownServerError,
)
from ..config import ConfigError

USAGE, AUTHENTICATION, UNREACHABLE, TOOL, DEADLINE = 1, 3, 4, 5, 124

_KINDS = {
    USAGE: "usage",
    AUTHENTICATION: "authentication",
    UNREACHABLE: "unreachable",
    TOOL: "tool",
    DEADLINE: "deadline",
    130: "interrupted",
    143: "terminated",
}


class Usage(Exception):
    """The command line asks for something that is not there, or not to be had like that."""


class Failed(Exception):
    """The command has failed, and has said so already; only the exit status is left."""

    def __init__(self, code: int, message: str = "", server: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.server = server


@dataclass(frozen=True)
class Failure:
    """One failure, explained."""

    code: int
    message: str
    server: str | None = None
    outcome: str | None = None
    hint: str = ""
    stderr_tail: str = ""

    def as_json(self) -> str:
        """One line for programs."""
        fields: dict[str, Any] = {
            "code": self.code,
            "kind": _KINDS.get(self.code, "error"),
            "server": self.server,
            "message": self.message,
            "outcome": self.outcome,
            "hint": self.hint,
        }
        return json.dumps({"error": {name: value for name, value in fields.items() if value}})


def _hint(error: PoolError) -> str:
    if isinstance(error, AuthenticationError):
        return "Give credentials: --header 'Authorization: Bearer ...', headers in the file, or `trio-mcp-pool login`."
    if isinstance(error, ConnectError) and error.phase == "connect":
        return "Check that the server runs, and its host and port; --transport sse for the older transport."
    if isinstance(error, ConnectError) and error.exit_status is not None:
        return "Run the command by hand to see what it needs."
    return ""


def _own_failure(cause: BaseException | None) -> Failed | None:
    """What this program itself raised inside of a dial."""
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, Failed):
            return cause
        cause = cause.__cause__
    return None


def explain(error: BaseException) -> Failure:
    """The failure that an exception is. Anything unknown is raised again: it is a bug, and its traceback is wanted."""
    if isinstance(error, ExceptionGroup):
        return max((explain(part) for part in error.exceptions), key=lambda failure: failure.code)
    if isinstance(error, Usage | ConfigError | UnknownServerError | InvalidArgumentsError):
        return Failure(USAGE, str(error))
    if isinstance(error, Failed):
        return Failure(error.code, str(error), error.server)
    if isinstance(error, trio.TooSlowError | AcquireTimeoutError):
        return Failure(DEADLINE, str(error) or "the deadline has passed")
    if isinstance(error, MCPError):
        return Failure(TOOL, f"the server answered with an error: {error}", outcome="answered")
    if isinstance(error, PoolError):
        own = _own_failure(error.__cause__)
        if own is not None:
            return Failure(own.code, str(own), error.server)
        code = UNREACHABLE
        if isinstance(error, AuthenticationError):
            code = AUTHENTICATION
        elif isinstance(error, InvalidResultError):
            code = TOOL
        return Failure(code, str(error), error.server, error.outcome, _hint(error), error.stderr_tail)
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Failure(USAGE, what)
    raise error


def report(failure: Failure, formatted: str) -> int:
    """Say what went wrong, on stderr; gives the exit status."""
    if formatted != "table":
        print(failure.as_json(), file=sys.stderr)
        return failure.code
    if failure.message:
        print(f"trio-mcp-pool: {failure.message}", file=sys.stderr)
    if failure.stderr_tail and "the last of its stderr" not in failure.message:
        lines = failure.stderr_tail.strip().splitlines()[-10:]
        print("the server wrote to stderr:\n" + "\n".join(f"  {line}" for line in lines), file=sys.stderr)
    if failure.outcome == "unknown":
        print("the tool may have run", file=sys.stderr)
    if failure.hint:
        print(failure.hint, file=sys.stderr)
    return failure.code
