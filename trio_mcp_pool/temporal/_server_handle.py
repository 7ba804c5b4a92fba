"""`mcp_server`: a server's verbs inside a workflow.

The handle itself is a plain object of the workflow's, made anew by every replay; nothing in it is shared between workflows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

import mcp_types as types
from pydantic import BaseModel
from temporalio.exceptions import FailureError
from temporalio.workflow import ActivityConfig

from ._attempts import attempt
from ._names import CALL_TOOL, PREFIX, Answer, Request, activity_name

M = TypeVar("M", bound=BaseModel)


def mcp_server(
    name: str,
    *,
    cache_tools_list: bool = True,
    activity_config: ActivityConfig | None = None,
    prefix: str = PREFIX,
    **options: Any,
) -> McpServer:
    """A server by the name that the workers' `PoolPlugin` knows it by. For workflow code only.

    `options`, or `activity_config` instead, are those of `workflow.execute_activity`: `task_queue`, the timeouts,
    `retry_policy`, `cancellation_type`, `priority`, ... Defaults: the workflow's own queue, `start_to_close_timeout` of one
    minute if neither it nor `schedule_to_close_timeout` is given, `heartbeat_timeout` of 5 s, Temporal's own retry policy.
    The retry policy and `schedule_to_close_timeout` hold for the call as a whole: every attempt is an activity of its own,
    which Temporal never retries.

    With `cache_tools_list`, the first answer of `list_tools` is kept for as long as this object lives.
    """
    return McpServer(name, {**(activity_config or {}), **options}, cache_tools_list=cache_tools_list, prefix=prefix)


@final
class McpServer:
    """A server's verbs, as `mcp.Client` has them, each an activity. Made by `mcp_server`, and by scopes.

    A failure is a `temporalio.exceptions.ApplicationError` whose `type` is the name of the pool's error, and whose
    `details[0]` is a mapping with `server`, `outcome`, and what else is known. A tool's result with `is_error` is a result.
    """

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        *,
        cache_tools_list: bool,
        prefix: str,
        scope: str | None = None,
        still_possible: Callable[[], None] = lambda: None,
        run: Callable[..., Any] = attempt,
    ) -> None:
        self.name = name
        """The server's name."""
        self._options = options
        self._cache = cache_tools_list
        self._prefix = prefix
        self._scope = scope
        self._still_possible = still_possible
        self._run = run
        self._tools: types.ListToolsResult | None = None
        self._harmless: set[str] | None = None

    def __repr__(self) -> str:
        return f"<McpServer {self.name!r}>"

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        *,
        meta: dict[str, Any] | None = None,
        idempotent: bool = False,
    ) -> types.CallToolResult:
        """Call a tool. Never runs it twice within one run of the workflow, unless that does no harm.

        That is so with `idempotent=True`, and for a tool that is marked read-only or idempotent by a server whose worker
        trusts it. Failures have the types of the pool's errors: `OutcomeUnknownError` where it may have run,
        `ArgumentsTooLargeError` (nothing was sent) and `ResultTooLargeError` (it has run) where Temporal cannot carry it.
        """

        async def may_repeat() -> bool:
            return idempotent or await self._does_no_harm(name)

        request = {"name": name, "arguments": arguments, "read_timeout_seconds": read_timeout_seconds, "meta": meta}
        answer = await self._activity(CALL_TOOL, request, may_repeat)
        return types.CallToolResult.model_validate(answer.result)

    async def list_tools(self, *, cursor: str | None = None) -> types.ListToolsResult:
        """One page of the server's tools. With `cache_tools_list`, the first page is asked for once."""
        if self._tools is None or cursor is not None or not self._cache:
            answer = await self._activity("list-tools", {"cursor": cursor}, _yes)
            result = types.ListToolsResult.model_validate(answer.result)
            if cursor is not None:
                return result
            self._tools = result
            self._harmless = {
                tool.name
                for tool in result.tools
                if answer.trusted
                and tool.annotations is not None
                and (tool.annotations.read_only_hint or tool.annotations.idempotent_hint)
            }
        return self._tools

    async def list_resources(self, *, cursor: str | None = None) -> types.ListResourcesResult:
        """One page of the server's resources."""
        return await self._read("list-resources", {"cursor": cursor}, types.ListResourcesResult)

    async def list_resource_templates(self, *, cursor: str | None = None) -> types.ListResourceTemplatesResult:
        """One page of the server's resource templates."""
        return await self._read("list-resource-templates", {"cursor": cursor}, types.ListResourceTemplatesResult)

    async def list_prompts(self, *, cursor: str | None = None) -> types.ListPromptsResult:
        """One page of the server's prompts."""
        return await self._read("list-prompts", {"cursor": cursor}, types.ListPromptsResult)

    async def read_resource(self, uri: str, *, meta: dict[str, Any] | None = None) -> types.ReadResourceResult:
        """A resource's contents."""
        return await self._read("read-resource", {"uri": uri, "meta": meta}, types.ReadResourceResult)

    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, *, meta: dict[str, Any] | None = None
    ) -> types.GetPromptResult:
        """A prompt filled in."""
        request = {"name": name, "arguments": arguments, "meta": meta}
        return await self._read("get-prompt", request, types.GetPromptResult)

    async def complete(
        self,
        ref: types.PromptReference | types.ResourceTemplateReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult:
        """Completions of an argument of a prompt or of a resource template."""
        reference = ref.model_dump(mode="json", by_alias=True, exclude_none=True)
        request = {"ref": reference, "argument": argument, "context_arguments": context_arguments}
        return await self._read("complete", request, types.CompleteResult)

    async def _read(self, operation: str, request: dict[str, Any], model: type[M]) -> M:
        return model.model_validate((await self._activity(operation, request, _yes)).result)

    async def _activity(self, operation: str, arguments: dict[str, Any], may_repeat: Callable[[], Any]) -> Answer:
        answer: Answer = await self._run(
            activity_name(self._prefix, self.name, operation),
            Request({name: value for name, value in arguments.items() if value is not None}, self._scope),
            server=self.name,
            options=self._options,
            result_type=Answer,
            may_repeat=may_repeat,
            still_possible=self._still_possible,
        )
        return answer

    async def _does_no_harm(self, tool: str) -> bool:
        """What the server says of the tool, where the worker trusts it. Asked for, if nobody has listed the tools yet."""
        if self._scope is not None:
            return False  # the session that knew what came before may be another one now
        if self._harmless is None:
            try:
                await self.list_tools()
            except FailureError:
                return False
        return tool in (self._harmless or ())


async def _yes() -> bool:
    return True
