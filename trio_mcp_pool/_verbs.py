"""Leasing and calling, the same for the pool and for a scope.

The verbs here take a server's name, lease a session for the length of one request, and are the only ones that may send a
request a second time (R13): when it was never written; when it is a read by protocol; or when the server is trusted and
says of the tool that it is read-only or idempotent. Once. Inside a scope nothing is sent again, because the new session would
not know what the old one knew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import trio
from mcp import MCPError
from pydantic import ValidationError
from trio.lowlevel import enable_ki_protection

from ._arguments import explain_timeout_of
from ._blocks import block
from ._call import check_arguments, run
from ._callbacks import Elicit, Progress, ProgressFnT
from ._core._core import Core
from ._errors import OutcomeUnknownError, PoolError, SessionLostError
from ._events import CallResent, of_caller
from ._groups import interrupt_in
from ._lanes._lane import Lane
from ._lanes._lease import Lease
from ._servers._callers import call_options

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.caching import CacheMode
    from mcp.client.subscriptions import Subscription

Resending: TypeAlias = Literal["always", "never"] | tuple[str]
"""Whether a verb may be sent again although it was written: by protocol, never, or if the tool of that name may."""

# A listing with more pages than this is not followed further: no server has so many tools.
_MAX_PAGES: Final = 100


class Listening(Protocol):
    """What `Verbs.listen` needs of a session handle."""

    def listen(
        self,
        *,
        tools_list_changed: bool,
        prompts_list_changed: bool,
        resources_list_changed: bool,
        resource_subscriptions: Sequence[str],
    ) -> AbstractAsyncContextManager[Subscription]:
        """A stream of the server's change events."""


class Verbs:
    """What `Pool` and `ScopedPool` have in common."""

    _core: Core

    @abstractmethod
    def _lane(self, server: str, scope: Hashable) -> Lane:
        """The lane that serves this server here."""

    @abstractmethod
    def _leasing(self, server: str, scope: Hashable) -> AbstractAsyncContextManager[Listening]:
        """A block that leases a session of this server here."""

    @abstractmethod
    def _names(self) -> list[str]:
        """All servers that can be named here."""

    @enable_ki_protection
    async def _call(
        self, server: str, scope: Hashable, verb: str, resending: Resending, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Lease a session, call one verb of its client, release; once more where R13 allows it."""
        lane = self._lane(server, scope)
        lease = lane.try_acquire(in_block=False)
        if lease is None:
            # A caller that is already cancelled must not start a dial. One that got a lease checks when it sends.
            await trio.lowlevel.checkpoint_if_cancelled()
            lease = await lane.wait(in_block=False)
        try:
            return await run(lease, verb, args, kwargs)
        except (SessionLostError, OutcomeUnknownError) as why:
            if lane.stateful or not _may_resend(lease, why, resending):
                raise
            first = why
        finally:
            lane.release(lease)
        try:
            return await self._call_again(server, scope, verb, resending, args, kwargs, first, lease)
        finally:
            del first, lease  # the traceback of `first` holds this frame

    @enable_ki_protection
    async def _call_again(
        self,
        server: str,
        scope: Hashable,
        verb: str,
        resending: Resending,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        first: PoolError,
        lost: Lease,
    ) -> Any:
        try:
            lane = self._lane(server, scope)
            lease = await lane.acquire(in_block=False)
            try:
                if (
                    isinstance(first, OutcomeUnknownError)
                    and isinstance(resending, tuple)
                    and lost.connection.annotations is None  # the tools were not listed before the session was lost
                    and not await _may_run_twice(lease, resending[0])
                ):
                    raise first
                resent = CallResent(at=trio.current_time(), server=server, scope=scope, method=verb)
                self._core.call_resent(of_caller(resent, copy_context()))
                return await run(lease, verb, args, kwargs)
            finally:
                lane.release(lease)
        except OutcomeUnknownError:
            raise
        except PoolError as why:
            # Most of these say that nothing ran. That is true of this sending, but not of the first.
            if isinstance(first, OutcomeUnknownError) and why.outcome == "not run":
                raise first from why
            raise
        finally:
            del first, lost

    @explain_timeout_of
    async def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: ProgressFnT | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
        scope: Hashable = None,
    ) -> types.CallToolResult:
        """Call a tool on any session of the server.

        `on_elicit` and `on_progress` are those of `Session.call_tool`; everything else but `server` and `scope` is handed to
        `mcp.Client.call_tool`. Checkpoints.

        Raises what `Pool.acquire` raises, what `Session.call_tool` raises, and `OutcomeUnknownError` only where sending the
        request again is not allowed (R13) or has failed, too.
        """
        check_arguments(server, name, arguments)
        result: types.CallToolResult = await self._call(
            server,
            scope,
            "call_tool",
            (name,),
            name,
            arguments,
            read_timeout_seconds,
            progress_callback,
            **call_options(input_responses, request_state, meta, on_elicit, on_progress),
        )
        return result

    @explain_timeout_of
    async def read_resource(
        self,
        server: str,
        uri: str,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ReadResourceResult:
        """Read a resource through any session of the server. Otherwise as `call_tool`; a read may be sent again."""
        result: types.ReadResourceResult = await self._call(
            server,
            scope,
            "read_resource",
            "always",
            uri,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
            cache_mode=cache_mode,
        )
        return result

    @explain_timeout_of
    async def get_prompt(
        self,
        server: str,
        name: str,
        arguments: dict[str, str] | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        scope: Hashable = None,
    ) -> types.GetPromptResult:
        """Fill in a prompt through any session of the server. Otherwise as `call_tool`; a read may be sent again."""
        result: types.GetPromptResult = await self._call(
            server,
            scope,
            "get_prompt",
            "always",
            name,
            arguments,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
        )
        return result

    @explain_timeout_of
    async def list_tools(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListToolsResult:
        """One page of the server's tools. Otherwise as `call_tool`; a read may be sent again."""
        result: types.ListToolsResult = await self._call(
            server, scope, "list_tools", "always", cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    @explain_timeout_of
    async def list_resources(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListResourcesResult:
        """One page of the server's resources. Otherwise as `call_tool`; a read may be sent again."""
        result: types.ListResourcesResult = await self._call(
            server, scope, "list_resources", "always", cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    @explain_timeout_of
    async def list_resource_templates(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListResourceTemplatesResult:
        """One page of the server's resource templates. Otherwise as `call_tool`; a read may be sent again."""
        result: types.ListResourceTemplatesResult = await self._call(
            server, scope, "list_resource_templates", "always", cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    @explain_timeout_of
    async def list_prompts(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListPromptsResult:
        """One page of the server's prompts. Otherwise as `call_tool`; a read may be sent again."""
        result: types.ListPromptsResult = await self._call(
            server, scope, "list_prompts", "always", cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    @explain_timeout_of
    async def complete(
        self,
        server: str,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
        *,
        scope: Hashable = None,
    ) -> types.CompleteResult:
        """Completions of an argument. Otherwise as `call_tool`; sent again only if it was never written."""
        result: types.CompleteResult = await self._call(
            server, scope, "complete", "never", ref, argument, context_arguments
        )
        return result

    @explain_timeout_of
    async def send_ping(
        self, server: str, *, meta: types.RequestParamsMeta | None = None, scope: Hashable = None
    ) -> types.EmptyResult:
        """Check that a server answers, through any of its sessions (handshake era only). Otherwise as `call_tool`."""
        result: types.EmptyResult = await self._call(server, scope, "send_ping", "always", meta=meta)
        return result

    @block("pool.listen")
    async def listen(
        self,
        server: str,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Sequence[str] = (),
        scope: Hashable = None,
    ) -> AsyncIterator[Subscription]:
        """A stream of a server's change events for the length of a block, as `mcp.Client.listen` (modern servers only).

        It holds a lease while it is open. It ends with the SDK's `SubscriptionLost` when the session dies or is closed.
        Raises what `Pool.acquire` and `Session.listen` raise.
        """
        async with (
            self._leasing(server, scope) as session,
            session.listen(
                tools_list_changed=tools_list_changed,
                prompts_list_changed=prompts_list_changed,
                resources_list_changed=resources_list_changed,
                resource_subscriptions=resource_subscriptions,
            ) as subscription,
        ):
            yield subscription

    @explain_timeout_of
    async def wait_ready(self, *servers: str) -> None:
        """Dial now: return when each of the servers named, or of all if none is, has a live session. Checkpoints.

        Takes no lease. Raises, bare, the first error of a dial: `ConnectError`, `AuthenticationError` or
        `ServerUnavailableError`; the other dials go on, because they belong to the pool. Also raises `UnknownServerError`,
        `PoolClosedError`, and `TooManyWaitersError` where `max_sessions_total` leaves no place.
        """
        lanes = [self._lane(name, None) for name in servers or self._names()]
        first: PoolError | None = None
        await trio.lowlevel.checkpoint()
        try:
            async with trio.open_nursery() as nursery:

                async def wait(lane: Lane) -> None:
                    nonlocal first
                    try:
                        await lane.wait_ready()
                    except PoolError as error:
                        first = first or error
                        nursery.cancel_scope.cancel(reason="a dial failed")

                for lane in lanes:
                    nursery.start_soon(wait, lane)
        except BaseExceptionGroup as group:
            # An interrupt comes to the task that waits here. The nursery is the pool's own, so its group stays in here.
            if (interrupt := interrupt_in(group)) is None:
                raise
            raise interrupt from None
        if first is not None:
            try:
                raise first
            finally:
                del first  # the traceback holds this frame


def _may_resend(lease: Lease, why: PoolError, resending: Resending) -> bool:
    """Whether the pool may send a request again, as far as is known (R13)."""
    if isinstance(why, SessionLostError) or resending == "always":
        return True
    connection = lease.connection
    if resending == "never" or not connection.server.trusted:
        return False
    if connection.annotations is None:
        return True  # it is not known yet: the tools are listed on the new session first
    said = connection.annotations.get(resending[0])
    return said is not None and bool(said.read_only_hint or said.idempotent_hint)


async def _may_run_twice(lease: Lease, tool: str) -> bool:
    """Whether a trusted server says of a tool that running it twice does no harm."""
    cursor: str | None = None
    try:
        for _ in range(_MAX_PAGES):
            page = await run(lease, "list_tools", (), {"cursor": cursor})
            for each in page.tools:
                if each.name == tool:
                    said = each.annotations
                    return said is not None and bool(said.read_only_hint or said.idempotent_hint)
            cursor = page.next_cursor
            if cursor is None:
                break
    except (MCPError, ValidationError, PoolError):
        pass
    return False
