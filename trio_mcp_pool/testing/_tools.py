"""Tools of a scripted server, and what a tool can see and do while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, final

import mcp_types as types

ToolFunction: TypeAlias = Callable[..., Any]
"""A sync or async function. Called with the arguments by name; see `Tool`."""


class Caller(Protocol):
    """The connection on which a tool was called, as a tool's context needs it."""

    number: int

    def _kill(self) -> None: ...

    def _send(self, message: dict[str, Any], delay: float = 0) -> None: ...

    def _ask(self, method: str, params: Mapping[str, Any] | None) -> Awaitable[dict[str, Any]]: ...


@final
class ToolContext:
    """The call that a tool serves: given to a tool that has a parameter named `context`.

    A tool that reports its progress:

        async def count(context: ToolContext, to: int) -> str:
            for number in range(to):
                context.progress(number + 1, to)
                await trio.sleep(1)
            return "done"
    """

    def __init__(self, caller: Caller, params: Mapping[str, Any], delay: float) -> None:
        self._caller = caller
        self._delay = delay
        self.params = params
        """The parameters of the request as they came, `_meta` included."""

    @property
    def connection(self) -> int:
        """The number of the connection, from 1."""
        return self._caller.number

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the caller wants it. Synchronous."""
        token = (self.params.get("_meta") or {}).get("progressToken")
        if token is None:
            return
        report: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None:
            report["total"] = total
        if message is not None:
            report["message"] = message
        self.notify("notifications/progress", report)

    def log(self, data: Any, level: str = "info") -> None:
        """Send a log message. Synchronous."""
        self.notify("notifications/message", {"level": level, "data": data})

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send any notification on this connection. Synchronous."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = dict(params)
        self._caller._send(message, self._delay)

    async def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to the client (`sampling/createMessage`, `elicitation/create`, `roots/list`) and return its result.

        Only the handshake era has such requests. Raises `mcp.MCPError` when the client answers with an error.
        """
        return await self._caller._ask(method, params)

    def kill(self) -> None:
        """Die in the middle of this call: nothing that was not yet delivered arrives any more. Synchronous."""
        self._caller._kill()


@final
@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool of a scripted server. Made by `tool()`, or by giving a bare function.

    The function is called with the arguments by name. A parameter named `context` receives the `ToolContext`; a single
    parameter named `arguments` receives all arguments as one dict. It may return a `str`, anything that JSON can say (a
    `dict` is structured content, too), `None`, or a whole `CallToolResult`. If it raises `mcp.MCPError` the call is answered
    by that JSON-RPC error, any other `Exception` becomes a result with `is_error`.
    """

    function: ToolFunction
    name: str
    description: str = ""
    input_schema: Mapping[str, Any]
    annotations: Mapping[str, bool]
    """The hints that are given, by their names in the protocol."""

    def _listed(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name, "inputSchema": dict(self.input_schema)}
        if self.description:
            entry["description"] = self.description
        if self.annotations:
            entry["annotations"] = dict(self.annotations)
        return entry

    async def _run(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        names = inspect.signature(self.function).parameters
        given: dict[str, Any] = {"arguments": arguments} if _takes_all(names) else dict(arguments)
        if "context" in names:
            given["context"] = context
        value = self.function(**given)
        return await value if inspect.isawaitable(value) else value


def _takes_all(names: Mapping[str, inspect.Parameter]) -> bool:
    return [name for name in names if name != "context"] == ["arguments"]


_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
}


def _schema(function: ToolFunction) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        if name == "context" or _takes_all(parameters) or parameter.kind is parameter.VAR_KEYWORD:
            continue
        hint = parameter.annotation
        word = hint if isinstance(hint, str) else getattr(hint, "__name__", "")
        properties[name] = {"type": _JSON_TYPES[word]} if word in _JSON_TYPES else {}
        if parameter.default is parameter.empty:
            required.append(name)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def tool(
    function: ToolFunction,
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    read_only: bool | None = None,
    idempotent: bool | None = None,
    destructive: bool | None = None,
    open_world: bool | None = None,
) -> Tool:
    """A tool with more to it than its function: `tool(lookup, read_only=True)`.

    `name` defaults to the function's, `description` to its docstring, `input_schema` to one made from its signature. The
    hints are the protocol's annotations; those left `None` are not sent.
    """
    if not callable(function):
        raise TypeError(f"a tool must be a function, not {type(function).__name__}")
    hints = {
        "readOnlyHint": read_only,
        "idempotentHint": idempotent,
        "destructiveHint": destructive,
        "openWorldHint": open_world,
    }
    return Tool(
        function=function,
        name=name or str(getattr(function, "__name__", type(function).__name__)),
        description=(inspect.getdoc(function) or "") if description is None else description,
        input_schema=_schema(function) if input_schema is None else input_schema,
        annotations={key: value for key, value in hints.items() if value is not None},
    )


Tools: TypeAlias = Mapping[str, ToolFunction | Tool] | Sequence[ToolFunction | Tool]


def collect(tools: Tools | None) -> dict[str, Tool]:
    """The tools by name."""
    if tools is None:
        tools = [tool(echo, read_only=True), tool(add, read_only=True)]
    if isinstance(tools, Mapping):
        named = list(tools.items())
    elif isinstance(tools, Sequence):
        named = [(item.name if isinstance(item, Tool) else tool(item).name, item) for item in tools]
    else:
        raise TypeError(f"tools must be a mapping of names to functions, or a sequence of functions, not {tools!r}")
    found: dict[str, Tool] = {}
    for name, item in named:
        made = replace(item, name=name) if isinstance(item, Tool) else tool(item, name=name)
        if name in found:
            raise ValueError(f"two tools are named {name!r}")
        found[name] = made
    return found


@final
class ToolTable(MutableMapping[str, Tool]):
    """The tools of one server by name. A bare function that is put in becomes a `Tool`."""

    def __init__(self, tools: Tools | None) -> None:
        self._tools = collect(tools)

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __setitem__(self, name: str, given: ToolFunction | Tool) -> None:
        self._tools[name] = replace(given, name=name) if isinstance(given, Tool) else tool(given, name=name)

    def __delitem__(self, name: str) -> None:
        del self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __repr__(self) -> str:
        return f"<tools {', '.join(self._tools)}>"


def echo(text: str) -> str:
    """Returns its text."""
    return text


def add(a: float, b: float) -> str:
    """Returns the sum of two numbers."""
    return str(a + b)


def dump_result(value: Any) -> dict[str, Any] | None:
    """A result of the SDK's types as JSON, `None` for anything else."""
    if isinstance(value, types.Result):
        dumped: dict[str, Any] = value.model_dump(by_alias=True, mode="json", exclude_none=True)
        return dumped
    return None
