"""One call of a tool set, from its arguments to its result: checked, approved, and sent with the program's block about it.

The rule: `Attempt` says at every moment what is known of the call, whatever is raised by whom. The obvious way, to judge by the
exception, takes a hook's deadline for an answer, and a hook's mistake after the answer for a call that may have run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import trio

from .._errors import CallOutcome, InvalidArgumentsError, OutcomeUnknownError, ToolDeniedError
from .._groups import sole_error
from ._arguments import read_arguments
from ._checks import Checker
from ._explain import outcome_of
from ._hooks import Approve, Around, ToolCall, make_call
from ._run import Limits
from ._strict import without_nulls

if TYPE_CHECKING:
    import mcp_types as types

    from ._source import Source


@final
@dataclass(slots=True, eq=False)
class SetTool:
    """One tool of the set."""

    name: str
    server: str
    tool: types.Tool
    strict: bool = False
    """Whether the model was shown the strict form."""
    checker: Checker | None = None
    """Made when it is first needed."""


@final
class Attempt:
    """What has become of one call so far."""

    __slots__ = ("begun", "failure", "result", "tool")

    def __init__(self) -> None:
        self.tool: SetTool | None = None
        self.begun = False
        self.failure: BaseException | None = None
        self.result: types.CallToolResult | None = None

    def outcome(self, error: BaseException | None) -> CallOutcome:
        if self.result is not None or error is None:
            return "answered"
        return outcome_of(self.failure if isinstance(self.failure, Exception) else error, self.begun)


def _shown(named: SetTool, arguments: dict[str, Any]) -> ToolCall:
    try:
        return make_call(named.name, named.server, named.tool, arguments)
    except Exception as why:
        # They cannot be copied, and so are no JSON: too deep, or with something in them that is a program's own.
        raise InvalidArgumentsError(
            f"the arguments of {named.name!r} must be JSON values, and not nested too deeply ({type(why).__name__})",
            server=named.server,
        ) from None


@final
class Calls:
    """How a set makes its calls."""

    def __init__(
        self, source: Source, checker: Callable[[SetTool], Checker], approve: Approve | None, around: Around | None
    ) -> None:
        self._source = source
        self._checker = checker
        self._approve = approve
        self._around = around

    async def make(
        self,
        named: SetTool,
        arguments: dict[str, Any],
        attempt: Attempt,
        limits: Limits | None,
        options: dict[str, Any],
    ) -> types.CallToolResult:
        """Ask for approval, wait for a turn, send. The arguments are checked already."""
        if self._approve is not None:
            arguments = await self._approved(named, arguments)
        if limits is None:
            return await self._send(named, arguments, attempt, options)
        async with limits.turn(named.server):
            return await self._send(named, arguments, attempt, options)

    async def checked(self, named: SetTool, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they will be sent. Raises `InvalidArgumentsError`."""
        if named.strict:
            arguments = without_nulls(named.tool.input_schema, arguments)
        complaints = await self._checker(named).complaints(arguments)
        if complaints:
            raise InvalidArgumentsError(
                f"the arguments of {named.name!r} do not fit its schema: {'; '.join(complaints)}", server=named.server
            )
        return arguments

    async def _approved(self, named: SetTool, arguments: dict[str, Any]) -> dict[str, Any]:
        assert self._approve is not None
        answer = await self._approve(_shown(named, arguments))
        if answer is True:
            return arguments
        if answer is False or isinstance(answer, str):
            reason = answer if isinstance(answer, str) and answer else "it was not approved"
            raise ToolDeniedError(
                f"the call of {named.name!r} was not made: {reason}",
                server=named.server,
                tool=named.name,
                reason=reason,
            )
        if not isinstance(answer, Mapping):
            raise TypeError(
                f"approve= must return True, False, a reason or a mapping of arguments, not {type(answer).__name__}"
            )
        return await self.checked(named, read_arguments(answer, named.name, named.server))

    async def _send(
        self, named: SetTool, arguments: dict[str, Any], attempt: Attempt, options: dict[str, Any]
    ) -> types.CallToolResult:
        if self._around is None:
            attempt.begun = True
            attempt.result = await self._source.call_tool(named.server, named.tool.name, arguments, **options)
            return attempt.result
        try:
            async with self._around(_shown(named, arguments)):
                attempt.begun = True
                try:
                    attempt.result = await self._source.call_tool(named.server, named.tool.name, arguments, **options)
                except BaseException as exc:
                    attempt.failure = exc
                    raise
        except ExceptionGroup as group:
            # A nursery in the hook wraps what the call raised, and nothing else went wrong.
            if attempt.failure is None or sole_error(group) is not attempt.failure:
                raise
            raise attempt.failure from None
        if attempt.result is not None:
            return attempt.result
        # The hook swallowed what ended the call: its own deadline, mostly. That does not make it a success.
        if isinstance(attempt.failure, Exception):
            raise attempt.failure
        # Where it was a cancellation from outside, the caller must not get an error in its place.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise OutcomeUnknownError(
            f"the block around the call of {named.name!r} ended it before its answer came: it may have run",
            server=named.server,
        )
