"""The handle that a caller holds while its lease lasts.

A session has the verbs of `mcp.Client`, by the same names and with the same arguments, and adds to them what a shared
session needs. Each verb runs in a cancel scope of its own, which the closing of the connection cancels (R15). And where the
SDK could only say 'connection closed', the caller learns what matters to it: `SessionLostError` when its request was never
written, `OutcomeUnknownError` when it was. What the server answers, errors included, passes through untouched.

A session never sends a request a second time; that is for the pool's own verbs (R13).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

import anyio
import mcp
import trio
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT
from trio.lowlevel import disable_ki_protection

from ._errors import LeaseEndedError, PoolError, SessionLostError
from ._lease import Lease
from ._wire._bare import essence, interrupt_in
from ._wire._link import Call, current_call
from ._wire._probe import probe

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.caching import CacheMode
    from mcp.client.subscriptions import Subscription
    from mcp.shared.dispatcher import ProgressFnT

T = TypeVar("T")

_NEVER_CACHED = frozenset({"call_tool", "get_prompt", "complete"})

# What a torn-down stream raises where the SDK did not turn it into an error of its own.
_CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError, trio.ClosedResourceError, trio.BrokenResourceError)


@final
class Session:
    """One caller's hold on a live MCP session, until `release`.

    Any number of tasks may call through it at once. Every verb raises `LeaseEndedError` after the release,
    `SessionLostError` if the session is gone and the request was not written, `OutcomeUnknownError` if it was written and
    no answer can come, `AuthenticationError`, `HttpStatusError` or `MessageTooLargeError` where that is why, and
    `mcp.MCPError` for an error that the server answered. Every verb checkpoints.
    """

    __slots__ = ("__weakref__", "_lease")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __repr__(self) -> str:
        lease = self._lease
        state = "released" if lease.ended else lease.connection.state.value
        return f"<Session {lease.connection.number} of {lease.lane.name!r}: {state}>"

    def release(self) -> None:
        """End the lease. Synchronous, idempotent, never blocks; the context manager of `Pool.session` calls it."""
        self._lease.lane.release(self._lease)

    # What is known of the server. All raise `SessionLostError` where the session is gone, as the verbs do.

    @property
    def server(self) -> str:
        """The server's name in the pool."""
        return self._lease.lane.name

    @property
    def client(self) -> mcp.Client:
        """The MCP client underneath, for what this mirror lacks. Calls made through it get none of the pool's care.

        Raises `LeaseEndedError` after the release.
        """
        if self._lease.ended:
            raise self._ended()
        client = self._lease.connection.client
        assert client is not None, "a lease is given on ready connections only"
        return client

    @property
    def protocol_version(self) -> str:
        """The negotiated version of the protocol, such as `2026-07-28`."""
        return self._live_client().protocol_version

    @property
    def server_info(self) -> types.Implementation | None:
        """The server's own name and version; `None` where a modern server does not say."""
        return self._live_client().server_info

    @property
    def server_capabilities(self) -> types.ServerCapabilities:
        """What the server can do."""
        return self._live_client().server_capabilities

    @property
    def instructions(self) -> str | None:
        """The server's own word on how to use it."""
        return self._live_client().instructions

    # The verbs.

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: ProgressFnT | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
    ) -> types.CallToolResult:
        """Call a tool. A result with `is_error` is a result. Arguments and result as `mcp.Client.call_tool`."""
        return await self._run(
            self.client.call_tool,
            name,
            arguments,
            read_timeout_seconds,
            progress_callback,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
        )

    async def list_tools(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListToolsResult:
        """One page of the server's tools, as `mcp.Client.list_tools`."""
        return await self._run_cacheable(self.client.list_tools, cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def list_resources(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListResourcesResult:
        """One page of the server's resources, as `mcp.Client.list_resources`."""
        return await self._run_cacheable(self.client.list_resources, cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def list_resource_templates(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListResourceTemplatesResult:
        """One page of the server's resource templates, as `mcp.Client.list_resource_templates`."""
        return await self._run_cacheable(
            self.client.list_resource_templates, cursor=cursor, meta=meta, cache_mode=cache_mode
        )

    async def read_resource(
        self,
        uri: str,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ReadResourceResult:
        """A resource's contents, as `mcp.Client.read_resource`."""
        return await self._run_cacheable(
            self.client.read_resource,
            uri,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
            cache_mode=cache_mode,
        )

    async def list_prompts(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListPromptsResult:
        """One page of the server's prompts, as `mcp.Client.list_prompts`."""
        return await self._run_cacheable(self.client.list_prompts, cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, str] | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
    ) -> types.GetPromptResult:
        """A prompt filled in, as `mcp.Client.get_prompt`."""
        return await self._run(
            self.client.get_prompt,
            name,
            arguments,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
        )

    async def complete(
        self,
        ref: types.ResourceTemplateReference | types.PromptReference,
        argument: dict[str, str],
        context_arguments: dict[str, str] | None = None,
    ) -> types.CompleteResult:
        """Completions of an argument, as `mcp.Client.complete`."""
        return await self._run(self.client.complete, ref, argument, context_arguments)

    def listen(
        self,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[Subscription]:
        """A stream of the server's change events, as `mcp.Client.listen` (modern servers only).

        It ends with the SDK's `SubscriptionLost` when the session dies or is closed; where that happens before the server
        has agreed, entering raises `SessionLostError` or `PoolClosedError`. Hold the lease for as long as the stream is open.
        """
        client = self.client
        return self._listening(
            lambda: client.listen(
                tools_list_changed=tools_list_changed,
                prompts_list_changed=prompts_list_changed,
                resources_list_changed=resources_list_changed,
                resource_subscriptions=resource_subscriptions,
            )
        )

    async def send_ping(self, *, meta: types.RequestParamsMeta | None = None) -> types.EmptyResult:
        """Ask the server for a sign of life (handshake era only), as `mcp.Client.send_ping`."""
        client = self.client
        # Looked up late: where the session is gone, the SDK's client cannot even be asked for its method.
        return await self._run(lambda: client.session.send_ping(meta=meta))

    # Underneath.

    def _live_client(self) -> mcp.Client:
        client = self.client
        if not self._lease.connection.live:
            raise self._gone(False)
        return client

    @asynccontextmanager
    async def _listening(
        self, opening: Callable[[], AbstractAsyncContextManager[Subscription]]
    ) -> AsyncIterator[Subscription]:
        self._live_client()
        async with AsyncExitStack() as stack:
            try:
                subscription = await stack.enter_async_context(opening())
            except MCPError as exc:
                if exc.code == CONNECTION_CLOSED and not self._lease.connection.live:
                    # Whether the request was written does not matter: it runs nothing.
                    raise self._gone(False) from exc
                raise
            yield subscription

    def _verb(self, name: str) -> Callable[..., Awaitable[Any]]:
        """A verb by its name, for the pool's own verbs: what runs it, with one frame less."""
        return partial(self._run if name in _NEVER_CACHED else self._run_cacheable, getattr(self.client, name))

    # The pool's verbs hold control-C back until their lease is released; what a verb runs may be the user's own code, which
    # it must reach.
    @disable_ki_protection
    async def _run(self, verb: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """One verb, in a scope that the connection cancels when it closes, with errors that say what happened."""
        lease = self._lease
        connection = lease.connection
        if not connection.live:
            raise self._gone(False)
        link = connection.link
        with trio.CancelScope() as scope:
            call = Call(scope, link)
            if not link.tells_written:
                # Such a client may run the whole request in this very task, with no await that yields.
                await trio.lowlevel.checkpoint()
                call.written = True
            token = current_call.set(call)
            connection.calls.add(call)
            try:
                result = await verb(*args, **kwargs)
            except MCPError as exc:
                error = await self._translated(exc, call)  # noqa: ASYNC120 (a cancelled caller does not want it)
                if error is exc:
                    raise
                raise error from exc
            except BaseExceptionGroup as group:
                if call.failure is not None:
                    raise self._failed(call.failure) from group
                # The SDK wraps what a single callback raised.
                leaf = interrupt_in(group) or essence(group)
                raise leaf from leaf.__cause__
            except trio.Cancelled:
                if call.failure is None and connection.live:
                    lease.lane.suspect(connection)
                raise
            except Exception as exc:
                if call.failure is not None:
                    raise self._failed(call.failure) from exc
                if not connection.live and isinstance(exc, _CLOSED) and not isinstance(exc, PoolError):
                    raise self._gone(call.written) from exc
                raise
            finally:
                connection.calls.discard(call)
                current_call.reset(token)
            if not connection.proven:
                lease.lane.proved(connection)
            return result
        # The scope was cancelled, and nobody but the connection or its wire does that.
        raise self._failed(call.failure) if call.failure is not None else self._gone(call.written)

    async def _run_cacheable(self, verb: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """A verb that the SDK may answer from its cache, without any await that yields."""
        await trio.lowlevel.checkpoint()
        return await self._run(verb, *args, **kwargs)

    async def _translated(self, exc: MCPError, call: Call) -> Exception:
        """What the caller is told where the SDK said `exc`."""
        connection = self._lease.connection
        if call.failure is not None:
            return self._failed(call.failure)
        if exc.code == CONNECTION_CLOSED:
            # The code alone proves nothing: it also stands for one lost response on a session that is well.
            if not connection.link.is_lost and connection.live and not connection.link.tells_written:
                client = connection.client
                if client is not None and not await probe(client, connection.link, connection.policy.probe_timeout):
                    connection.link.lost(exc)
            if connection.link.is_lost or not connection.live:
                return self._gone(call.written)
        elif exc.code == REQUEST_TIMEOUT:
            self._lease.lane.suspect(connection)
        elif not connection.proven:
            self._lease.lane.proved(connection)
        return exc

    def _gone(self, written: bool) -> PoolError:
        # Also where the lease has ended under a running call: whether the tool may have run is what matters then.
        return self._failed(self._lease.connection.lost_error(written))

    def _failed(self, error: PoolError) -> PoolError:
        if isinstance(error, SessionLostError) and not self._lease.connection.live:
            # Who is told here that a scope's session is gone need not be told again.
            self._lease.lane.notice = None
        return error

    def _ended(self) -> LeaseEndedError:
        return LeaseEndedError(
            f"this session of server {self.server!r} was released; acquire another one", server=self.server
        )
