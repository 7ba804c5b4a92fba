"""A tool set: some tools of some servers, in a model's format, and a way to run what the model asks for.

The rule: what is shown, what may be called and what is checked come from one table, which is made anew when the catalogue has
changed and never in between. The obvious way, a list of tools fetched when the agent starts, is out of date as soon as a server
changes its tools, and lets a model call what was filtered out of the list.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, final

import trio

from .._errors import InvalidArgumentsError, ToolDeniedError, UnknownToolError
from ._arguments import read_arguments
from ._calls import Attempt, Calls, SetTool
from ._checks import Checker
from ._formats import MOST_DESCRIPTION, Style, anthropic_tools, is_cut, openai_tool
from ._hooks import Approve, Around
from ._names import NameFunction, Names, qualified
from ._outcomes import Outcome, Outcomes
from ._patterns import compile_patterns
from ._requests import ToolRequest, read_requests
from ._run import Limits, OutcomeStream, run_all, run_each
from ._schemas import SchemaProblemError, audit, short
from ._strict import make_strict

if TYPE_CHECKING:
    import mcp_types as types

    from .._callbacks import Elicit, Progress
    from ._catalog import Catalog
    from ._entries import ToolEntry
    from ._source import Source

_MOST_COMPARED: Final = 1_000
_SPARE: Final = 1_000
"""Names of tools that are no longer listed, kept beside as many as there are tools."""


@final
class ToolSet:
    """Tools of a pool or a scope for one agent. Made by `Pool.toolset` and `ScopedPool.toolset`.

    It follows the catalogue: tools that servers add, change or remove are in it, and out of it, from then on. May be used from
    any number of tasks at once.
    """

    def __init__(
        self,
        catalog: Catalog,
        source: Source,
        servers: Collection[str] | None = None,
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        read_only: bool = False,
        names: NameFunction | None = None,
        approve: Approve | None = None,
        around: Around | None = None,
        max_concurrent: int = 8,
        max_per_server: int | None = None,
        max_chars: int | None = None,
    ) -> None:
        """For the pool itself; programs call `Pool.toolset`."""
        for what, number in (
            ("max_concurrent", max_concurrent),
            ("max_per_server", max_per_server),
            ("max_chars", max_chars),
        ):
            if number is None and what != "max_concurrent":
                continue
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{what} must be an int, not {type(number).__name__}")
            if number < 1:
                raise ValueError(f"{what} must be at least 1, not {number}")
        for what, hook in (("approve", approve), ("around", around), ("names", names)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{what}= must be a function or None, not {type(hook).__name__}")
        if not isinstance(read_only, bool):
            raise TypeError(f"read_only= must be a bool, not {type(read_only).__name__}")
        self._catalog = catalog
        self._source = source
        self._servers = None if servers is None else frozenset(servers)
        self._allowed = None if allow is None else compile_patterns("allow", allow)
        deny = list(deny) if isinstance(deny, Iterable) and not isinstance(deny, str) else deny
        self._denied = compile_patterns("deny", deny)
        self._filtered = allow is not None or bool(deny) or read_only
        self._read_only = read_only
        self._names = Names(names)
        self._calls = Calls(source, self._checker, approve, around)
        self._max_concurrent = max_concurrent
        self._max_per_server = max_per_server
        self._max_chars = max_chars
        self._version = -1
        self._tools: dict[str, SetTool] = {}
        self._formats: dict[object, Any] = {}
        self._not_strict: dict[str, str] = {}
        self._strict: set[str] = set()

    def __repr__(self) -> str:
        return f"<ToolSet of {len(self._table())} tools>"

    def __len__(self) -> int:
        return len(self._table())

    def __contains__(self, name: object) -> bool:
        return name in self._table()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tools now, as models see them, in the order of configuration, then of listing."""
        return tuple(self._table())

    @property
    def problems(self) -> dict[str, str]:
        """By name: why a tool's arguments go unchecked, or why it is shown without `strict`, or with a description that is cut.

        Looks at every schema, each time. Synchronous.

        What is wrong with whole servers is in `Catalog.problems`.
        """
        found = dict(self._not_strict)
        for name, named in self._table().items():
            problem = self._checker(named).problem
            if problem is None:
                try:
                    audit(named.tool.input_schema)
                except (SchemaProblemError, RecursionError) as why:
                    problem = str(why)
            if problem is not None:
                found[name] = f"its arguments go unchecked: {problem}"
            elif is_cut(named.tool):
                found.setdefault(name, f"its description is cut to {MOST_DESCRIPTION:,} characters")
        return found

    # The table.

    def _table(self) -> dict[str, SetTool]:
        if self._version == self._catalog.version:
            return self._tools
        version = self._catalog.version
        self._names.forget_beyond(2 * len(self._catalog.tools) + _SPARE)
        made: dict[str, SetTool] = {}
        for entry in self._entries():
            name = self._names.name(entry.server, entry.name)
            if self._filtered and self._refusal(entry, name) is not None:
                continue
            old = self._tools.get(name)
            if old is not None and old.tool is entry.value:
                made[name] = old
            else:
                made[name] = SetTool(name, entry.server, entry.value, name in self._strict)
        if len(made) != len(self._tools) or not all(map(operator.is_, made.values(), self._tools.values())):
            # Where nothing differs, though it was listed again, the formats stay the same objects.
            self._formats.clear()
            self._not_strict.clear()
        self._tools, self._version = made, version
        return made

    def _entries(self) -> Iterable[ToolEntry]:
        if self._servers is None:
            return self._catalog.tools
        return [entry for entry in self._catalog.tools if entry.server in self._servers]

    def _refusal(self, entry: ToolEntry, name: str) -> str | None:
        """Why a tool is not in the set."""
        raw = qualified(entry.server, entry.name)
        if self._denied(raw, name):
            return "a deny pattern matches it"
        if self._allowed is not None and not self._allowed(raw, name):
            return "no allow pattern matches it"
        if self._read_only:
            server = self._source.servers.get(entry.server)
            hints = entry.value.annotations
            if server is None or not server.trusted or hints is None or hints.read_only_hint is not True:
                return "the set is read-only, and no trusted server says that this tool is"
        return None

    def _checker(self, named: SetTool) -> Checker:
        if named.checker is None:
            named.checker = self._catalog.checker(named.server, named.tool)
        return named.checker

    def _find(self, name: str) -> SetTool:
        table = self._table()
        found = table.get(name)
        if found is not None:
            return found
        for entry in self._entries():
            if self._names.name(entry.server, entry.name) == name:
                reason = self._refusal(entry, name) or "it is not in the set"
                raise ToolDeniedError(
                    f"the tool {short(name)} may not be called: {reason}", server=entry.server, tool=name, reason=reason
                )
        near = difflib.get_close_matches(name[:64], islice(table, _MOST_COMPARED), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownToolError(
            f"there is no tool {short(name)}{hint}", tool=name[:200], suggestion=near[0] if near else None
        )

    # In a model's format.

    def _format(self, key: object, make: Callable[[], Any]) -> Any:
        self._table()
        if key not in self._formats:
            self._formats[key] = make()
        return self._formats[key]

    def to_anthropic(self) -> list[dict[str, Any]]:
        """The tools for `client.messages.create(tools=...)`. Made once and shared: do not change the dicts. Synchronous."""
        made: list[dict[str, Any]] = self._format("anthropic", lambda: anthropic_tools(self._tools.values()))
        return made

    def to_openai(self, *, style: Style = "chat", strict: bool = False) -> list[dict[str, Any]]:
        """The tools for OpenAI's `tools=`, in the style of chat completions (default) or of the Responses API. Synchronous.

        `strict=True` makes the model keep to the schemas: what may be left out becomes `null`, which is taken out again
        before the call. Tools whose schema has no strict form are shown as they are; `problems` says why.
        Made once and shared: do not change the dicts. Raises `ValueError` for another style.
        """
        if style not in ("chat", "responses"):
            raise ValueError(f"style must be 'chat' or 'responses', not {style!r}")
        made: list[dict[str, Any]] = self._format(
            ("openai", style, strict), lambda: [self._openai(named, style, strict) for named in self._tools.values()]
        )
        return made

    def _openai(self, named: SetTool, style: Style, strict: bool) -> dict[str, Any]:
        schema = named.tool.input_schema
        if strict:
            try:
                schema = make_strict(schema)
            except Exception as why:
                # Whatever else it raises, the schema is malformed, and must not take the other tools out of the list.
                said = str(why) if isinstance(why, SchemaProblemError) else f"it is malformed ({type(why).__name__})"
                self._not_strict[named.name] = f"it is shown without strict: {said}"
                return openai_tool(named, style, schema, False)
            named.strict = True
            self._strict.add(named.name)
        return openai_tool(named, style, schema, strict)

    def to_inspect_ai(self) -> list[Any]:
        """The tools as `inspect_ai.tool.ToolDef`s; needs the extra `inspect-ai`. Made once and shared. Synchronous.

        References are inlined and missing descriptions filled in. A tool's error, and every other that a model can act
        on, is raised as inspect_ai's `ToolError`.
        """
        from ._inspect_ai import inspect_tools

        made: list[Any] = self._format("inspect_ai", lambda: inspect_tools(self._answer, self._tools.values()))
        return made

    async def _answer(self, name: str, arguments: dict[str, Any]) -> Outcome:
        return await self._run_one(ToolRequest(name, arguments), None)

    # Calling.

    async def call(
        self,
        name: str,
        arguments: Any = None,
        *,
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
        read_timeout_seconds: float | None = None,
    ) -> types.CallToolResult:
        """Call a tool by its name in the set. Checkpoints.

        `arguments` (default: none) is a mapping, or the JSON text that OpenAI sends; it is checked against the tool's schema
        before anything is sent. A result with `is_error` is a result. `on_elicit`, `on_progress` and `read_timeout_seconds`
        (default: the server's own) are those of `Session.call_tool`. `max_concurrent` and `max_per_server` do not count here.

        Raises `UnknownToolError`, `ToolDeniedError` and `InvalidArgumentsError`, with nothing sent; what the hooks raise;
        `OutcomeUnknownError` where the block about the call ended it; and what `Pool.call_tool` raises.
        """
        if not isinstance(name, str):
            raise TypeError(f"a tool's name must be a str, not {type(name).__name__}")
        options: dict[str, Any] = {
            "on_elicit": on_elicit,
            "on_progress": on_progress,
            "read_timeout_seconds": read_timeout_seconds,
        }
        return await self._perform(name, arguments, Attempt(), None, options)

    async def run(self, response: Any, *, skip: Collection[str] = ()) -> Outcomes:
        """Run everything that a model asked for, side by side, and return the outcomes in the order asked. Checkpoints.

        `response` is a message of Anthropic's, a chat completion or a response of OpenAI's, as an object or as a dict, its
        blocks, or `(name, arguments)` pairs. What is no function call is skipped, and so are calls of the names in `skip`:
        those of tools that are the program's own. At most `max_concurrent` calls run at a time; asking for approval does
        not count.

        Raises `TypeError` for what is no response, and for a chunk or event of a stream: collect the message first.
        What goes wrong with a call is in its outcome, and models are told of it.
        """
        return Outcomes(await run_all(self._run_one, self._requests(response, skip), self._limits()))

    def run_each(self, response: Any, *, skip: Collection[str] = ()) -> AbstractAsyncContextManager[OutcomeStream]:
        """The same as a block that gives the outcomes as they come:

            async with tools.run_each(response) as outcomes:
                async for outcome in outcomes:
                    ...

        Leaving the block cancels the calls that still run. What its body raises comes out bare. Entering is no
        checkpoint; leaving waits until the cancelled calls have ended. Raises `TypeError` at once, as `run`.
        """
        return run_each(self._run_one, self._requests(response, skip), self._limits())

    def _requests(self, response: Any, skip: Collection[str]) -> list[ToolRequest]:
        if isinstance(skip, str):
            raise TypeError(f"skip= must be a collection of names such as [{skip!r}], not a str")
        return [request for request in read_requests(response) if request.name not in skip]

    def _limits(self) -> Limits:
        return Limits(self._max_concurrent, self._max_per_server)

    async def _run_one(self, request: ToolRequest, limits: Limits | None) -> Outcome:
        started, attempt = trio.current_time(), Attempt()
        error: Exception | None = None
        try:
            await self._perform(request.name, request.arguments, attempt, limits, {})
        except Exception as exc:
            error = exc
        named = attempt.tool
        try:
            return Outcome(
                request,
                server=None if named is None else named.server,
                tool=None if named is None else named.tool.name,
                result=attempt.result,
                error=error,
                outcome=attempt.outcome(error),
                seconds=trio.current_time() - started,
                max_chars=self._max_chars,
            )
        finally:
            del error

    async def _perform(
        self, name: str, arguments: Any, attempt: Attempt, limits: Limits | None, options: dict[str, Any]
    ) -> types.CallToolResult:
        try:
            named = attempt.tool = self._find(name)
            ready = read_arguments(arguments, named.name, named.server)
            if named.strict or not self._checker(named).fits(ready):
                ready = await self._calls.checked(named, ready)
        except (UnknownToolError, ToolDeniedError, InvalidArgumentsError):
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 (a cancelled caller does not want it)
            raise
        return await self._calls.make(named, ready, attempt, limits, options)
