"""Leasing and calling, the same for the pool and for a scope.

The verbs here take a server's name, lease a session for the length of one request, and are the only ones that may send a
request a second time (R13): when it was never written; when it is a read by protocol; or when the server is trusted and
says of the tool that it is read-only or idempotent. Once. Inside a scope nothing is resent, because the new session would
not know what the old one knew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import trio
from trio.lowlevel import enable_ki_protection

from ._core import Core
from ._errors import OutcomeUnknownError, PoolError, SessionLostError
from ._events import CallResent
from ._lane import Lane
from ._lease import Lease
from ._session import Session
from ._wire._bare import interrupt_in

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.caching import CacheMode
    from mcp.shared.dispatcher import ProgressFnT


@final
class _Leasing(AbstractAsyncContextManager[Session]):
    """`async with pool.session(...)`: entering waits for a session, leaving is synchronous and cannot fail."""

    __slots__ = ("_find", "_session")

    def __init__(self, find: Callable[[], Lane]) -> None:
        self._find = find
        self._session: Session | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Session:
        if self._session is not None:
            raise RuntimeError("this lease was entered already; call session() again for another one")
        self._session = Session(await self._find().acquire())
        return self._session

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._session.release()


class Verbs:
    """What `Pool` and `ScopedPool` have in common."""

    _core: Core

    @abstractmethod
    def _lane(self, server: str, scope: Hashable) -> Lane:
        """The lane that serves this server here."""

    @enable_ki_protection
    async def _call(
        self, server: str, scope: Hashable, verb: str, repeat: bool | str, *args: Any, **kwargs: Any
    ) -> Any:
        """Lease a session, call one verb of its client, release. `repeat` says whether the verb may be sent again although
        it was written: always, never, or if the tool of that name may."""
        lane = self._lane(server, scope)
        lease = lane.take()
        if lease is None:
            # Who is cancelled already must not start a dial. Who got a lease looks when it sends.
            await trio.lowlevel.checkpoint_if_cancelled()
            lease = await lane.wait()
        try:
            return await Session(lease)._verb(verb)(*args, **kwargs)
        except (SessionLostError, OutcomeUnknownError) as why:
            if lane.stateful or (isinstance(why, OutcomeUnknownError) and not _may_repeat(lease, repeat)):
                raise
            first = why
        finally:
            lane.release(lease)
        if self._core.observed:
            self._core._emit(CallResent(at=trio.current_time(), server=server, scope=scope, method=verb))
        try:
            return await self._call_again(server, scope, verb, args, kwargs, first)
        finally:
            del first  # its traceback holds this frame

    @enable_ki_protection
    async def _call_again(
        self, server: str, scope: Hashable, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], first: PoolError
    ) -> Any:
        try:
            lease = await self._lane(server, scope).acquire()
            try:
                return await Session(lease)._verb(verb)(*args, **kwargs)
            finally:
                lease.lane.release(lease)
        except OutcomeUnknownError:
            raise
        except PoolError as why:
            # Most of these say that nothing ran. That is true of this time, but not of the first.
            if isinstance(first, OutcomeUnknownError):
                raise first from why
            raise
        finally:
            del first

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
        scope: Hashable = None,
    ) -> types.CallToolResult:
        """Call a tool on any session of the server.

        Everything but `server` and `scope` is handed to `mcp.Client.call_tool`. Checkpoints.

        Raises what acquiring a session raises, what `Session.call_tool` raises, and `OutcomeUnknownError` only where
        resending is not allowed (R13) or was in vain.
        """
        result: types.CallToolResult = await self._call(
            server,
            scope,
            "call_tool",
            name,
            name,
            arguments,
            read_timeout_seconds,
            progress_callback,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
        )
        return result

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
        """Read a resource through any session of the server. Otherwise as `call_tool`; a read may be resent."""
        result: types.ReadResourceResult = await self._call(
            server,
            scope,
            "read_resource",
            True,
            uri,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
            cache_mode=cache_mode,
        )
        return result

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
        """Fill in a prompt through any session of the server. Otherwise as `call_tool`; a read may be resent."""
        result: types.GetPromptResult = await self._call(
            server,
            scope,
            "get_prompt",
            True,
            name,
            arguments,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
        )
        return result

    async def list_tools(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListToolsResult:
        """One page of the server's tools. Otherwise as `call_tool`; a read may be resent."""
        result: types.ListToolsResult = await self._call(
            server, scope, "list_tools", True, cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    async def list_resources(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListResourcesResult:
        """One page of the server's resources. Otherwise as `call_tool`; a read may be resent."""
        result: types.ListResourcesResult = await self._call(
            server, scope, "list_resources", True, cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    async def list_resource_templates(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListResourceTemplatesResult:
        """One page of the server's resource templates. Otherwise as `call_tool`; a read may be resent."""
        result: types.ListResourceTemplatesResult = await self._call(
            server, scope, "list_resource_templates", True, cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    async def list_prompts(
        self,
        server: str,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        scope: Hashable = None,
    ) -> types.ListPromptsResult:
        """One page of the server's prompts. Otherwise as `call_tool`; a read may be resent."""
        result: types.ListPromptsResult = await self._call(
            server, scope, "list_prompts", True, cursor=cursor, meta=meta, cache_mode=cache_mode
        )
        return result

    async def complete(
        self,
        server: str,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
        *,
        scope: Hashable = None,
    ) -> types.CompleteResult:
        """Completions of an argument. Otherwise as `call_tool`; resent only if it was never written."""
        result: types.CompleteResult = await self._call(
            server, scope, "complete", False, ref, argument, context_arguments
        )
        return result

    async def wait_ready(self, *servers: str) -> None:
        """Dial now: return when each of the servers named, or of all if none is, has a live session. Checkpoints.

        Raises the first `ConnectError`, bare; the other dials go on, for they belong to the pool.
        """
        lanes = [self._lane(name, None) for name in servers or self._names()]
        first: PoolError | None = None
        await trio.lowlevel.checkpoint()
        try:
            async with trio.open_nursery() as nursery:

                @enable_ki_protection
                async def lease(lane: Lane, race: trio.CancelScope) -> None:
                    nonlocal first
                    try:
                        lane.release(await lane.acquire())
                    except PoolError as error:
                        first = first or error
                        nursery.cancel_scope.cancel(reason="a dial failed")
                    race.cancel(reason="it is ready")

                async def wait(lane: Lane) -> None:
                    if lane.ready:
                        return
                    # A session that becomes ready may be on lease to others for long: that it lives is all that is asked.
                    async with trio.open_nursery() as race:
                        race.start_soon(lease, lane, race.cancel_scope)
                        await lane.opened.wait()
                        race.cancel_scope.cancel(reason="it is ready")

                for lane in lanes:
                    nursery.start_soon(wait, lane)
        except BaseExceptionGroup as group:
            # An interrupt comes to the task that waits here. The nursery is the pool's own, so its group stays in here.
            if (interrupt := interrupt_in(group)) is None:
                raise
            raise interrupt from None
        if first is not None:
            raise first

    @abstractmethod
    def _names(self) -> list[str]:
        """All servers that can be named here."""


def _may_repeat(lease: Lease, repeat: bool | str) -> bool:
    """Whether running it twice does no harm: by protocol, or because a trusted server says so of the tool."""
    if isinstance(repeat, bool):
        return repeat
    connection = lease.connection
    if not connection.server.trusted:
        return False
    says = connection.annotations.get(repeat)
    return says is not None and bool(says.read_only_hint or says.idempotent_hint)
