"""The handle that a caller holds while its lease lasts, and the block that gives it.

A session has the verbs of `mcp.Client`, by the same names and with the same arguments. What a shared session needs beside
them, a scope for each call and errors that say what happened, is in `_call.py`. A session never sends a request a second
time; that is for the pool's own verbs (R13).
"""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import mcp
import trio
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED
from trio.lowlevel import enable_ki_protection

from ._call import Verb, call_tool_once, check_arguments, lost_error, run
from ._callbacks import Elicit, Progress, ProgressFnT
from ._errors import LeaseEndedError
from ._lanes._lane import Lane
from ._lanes._lease import Lease
from ._servers._callers import call_options

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.caching import CacheMode
    from mcp.client.subscriptions import Subscription

T = TypeVar("T")

_FRAMES: Final = 5
"""How many frames of the place where a forgotten session was acquired are shown."""


@final
class Session:
    """A live MCP session, lent to one caller until `release`.

    Any number of tasks may call through it at once. Every verb checkpoints, and raises

    - `LeaseEndedError` after the release,
    - `SessionLostError` if the session is gone and the request was not written,
    - `OutcomeUnknownError` if it was written and no answer can come,
    - `InvalidArgumentsError` where no request could be made of the arguments: nothing was sent,
    - `InvalidResultError` where the answer was against the protocol or the tool's own schema,
    - `AuthenticationError`, `HttpStatusError` or `MessageTooLargeError` where that is why,
    - `mcp.MCPError` for an error that the server answered, or for a read timeout.

    A session that is garbage collected without having been released gives its lease back and is reported by a
    `ResourceWarning`; with `tracemalloc` switched on (`python -X tracemalloc=10`) it names the place where it was acquired.
    """

    __slots__ = ("__weakref__", "_lease", "_token")

    def __init__(self, lease: Lease, token: trio.lowlevel.TrioToken | None = None) -> None:
        """For the pool itself; programs call `Pool.session` or `Pool.acquire`."""
        self._lease = lease
        self._token = token

    def __repr__(self) -> str:
        lease = self._lease
        state = "released" if lease.ended else lease.connection.state.value
        return f"<Session {lease.connection.number} of {lease.holder.name!r}: {state}>"

    def __del__(self) -> None:
        lease, token = self._lease, self._token
        if token is None or lease.ended or lease not in lease.connection.leases:
            return
        place = tracemalloc.get_object_traceback(self)
        where = "; acquired at:\n" + "\n".join(place.format(_FRAMES)) if place is not None else ""
        warnings.warn(f"{self!r} was never released{where}", ResourceWarning, stacklevel=2, source=self)
        with suppress(trio.RunFinishedError):
            # Collected at any moment and in any thread, perhaps in the middle of a step.
            token.run_sync_soon(lease.holder.release, lease)

    def release(self) -> None:
        """End the lease. Synchronous, idempotent, never blocks; the context manager of `Pool.session` calls it.

        Raises `RuntimeError` outside of the pool's Trio run, such as in a worker thread, where it changes nothing.
        """
        if self._token is not None and not _runs_under(self._token):
            raise RuntimeError(
                "a session must be released in the Trio run of its pool; from a thread call "
                "trio.from_thread.run_sync(session.release)"
            )
        self._lease.holder.release(self._lease)

    async def wait_lost(self) -> None:
        """Wait until the session has died or is being closed, drained or replaced included. Checkpoints.

        Returns at once where it has, or where the lease has ended. Useful where a lease is held for something that belongs to
        the session, such as a subscription.
        """
        if self._lease.ended:
            await trio.lowlevel.checkpoint()
        else:
            await self._lease.connection.wait_ending()

    # What is known of the server. All raise `SessionLostError` where the session is gone, as the verbs do.

    @property
    def server(self) -> str:
        """The server's name in the pool."""
        return self._lease.holder.name

    @property
    def client(self) -> mcp.Client:
        """The MCP client underneath, for what `Session` lacks. Calls made through it have neither the pool's
        errors nor a scope that ends them when the connection closes.

        Raises `LeaseEndedError` after the release.
        """
        return self._live_client()

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
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
        allow_input_required: bool = False,
    ) -> types.CallToolResult:
        """Call a tool. A result with `is_error` is a result. Arguments and result as `mcp.Client.call_tool`.

        `on_progress(caller, progress, total, message)` is called for progress, in the context variables of this call, and
        `on_elicit(caller, params)` answers what the server asks about it, instead of the function in `callbacks=`; where the
        transport does not say which call a question is about (the older era on stdio), that one is asked all the same.
        Raises `ValueError`, with nothing sent, for `on_elicit` where no `Callbacks.elicit` was declared.

        With `allow_input_required` a modern server's `InputRequiredResult` is returned as it is, and not answered by the
        callbacks: answer it by calling again with `input_responses` and `request_state`.
        """
        check_arguments(self.server, name, arguments)
        return await self._run(
            call_tool_once if allow_input_required else "call_tool",
            name,
            arguments,
            read_timeout_seconds,
            progress_callback,
            **call_options(input_responses, request_state, meta, on_elicit, on_progress),
        )

    async def list_tools(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListToolsResult:
        """One page of the server's tools, as `mcp.Client.list_tools`."""
        return await self._run("list_tools", cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def list_resources(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListResourcesResult:
        """One page of the server's resources, as `mcp.Client.list_resources`."""
        return await self._run("list_resources", cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def list_resource_templates(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListResourceTemplatesResult:
        """One page of the server's resource templates, as `mcp.Client.list_resource_templates`."""
        return await self._run("list_resource_templates", cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def read_resource(
        self,
        uri: str,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
        allow_input_required: bool = False,
    ) -> types.ReadResourceResult:
        """A resource's contents, as `mcp.Client.read_resource`; `allow_input_required` as for `call_tool`."""
        return await self._run(
            _read_resource_once if allow_input_required else "read_resource",
            uri,
            input_responses=input_responses,
            request_state=request_state,
            meta=meta,
            **({} if allow_input_required else {"cache_mode": cache_mode}),
        )

    async def list_prompts(
        self,
        *,
        cursor: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        cache_mode: CacheMode = "use",
    ) -> types.ListPromptsResult:
        """One page of the server's prompts, as `mcp.Client.list_prompts`."""
        return await self._run("list_prompts", cursor=cursor, meta=meta, cache_mode=cache_mode)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, str] | None = None,
        *,
        input_responses: types.InputResponses | None = None,
        request_state: str | None = None,
        meta: types.RequestParamsMeta | None = None,
        allow_input_required: bool = False,
    ) -> types.GetPromptResult:
        """A prompt filled in, as `mcp.Client.get_prompt`; `allow_input_required` as for `call_tool`."""
        return await self._run(
            _get_prompt_once if allow_input_required else "get_prompt",
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
        return await self._run("complete", ref, argument, context_arguments)

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
        """Check that the server answers (handshake era only), as `mcp.Client.send_ping`."""
        return await self._run("send_ping", meta=meta)

    async def set_logging_level(
        self, level: types.LoggingLevel, *, meta: types.RequestParamsMeta | None = None
    ) -> types.EmptyResult:
        """Request log messages of this level and above (handshake era), as `mcp.Client.set_logging_level`.

        It holds for the session, and so for all callers that share it. For every new session, in either era, the server's
        `log_level=` says what is wanted.
        """
        return await self._run("set_logging_level", level, meta=meta)

    async def subscribe_resource(self, uri: str, *, meta: types.RequestParamsMeta | None = None) -> types.EmptyResult:
        """Request notifications of changes of a resource (handshake era), as `mcp.Client.subscribe_resource`.

        The subscription is the session's, so hold the lease for as long as it is wanted: an idle session is closed.
        """
        return await self._run("subscribe_resource", uri, meta=meta)

    async def unsubscribe_resource(self, uri: str, *, meta: types.RequestParamsMeta | None = None) -> types.EmptyResult:
        """End a subscription (handshake era), as `mcp.Client.unsubscribe_resource`."""
        return await self._run("unsubscribe_resource", uri, meta=meta)

    async def send_roots_list_changed(self) -> None:
        """Notify the server that the list of roots has changed, as `mcp.Client.send_roots_list_changed`."""
        await self._run("send_roots_list_changed")

    async def send_progress_notification(
        self, progress_token: str | int, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Notify the server of the progress of its request, as `mcp.Client.send_progress_notification`."""
        await self._run("send_progress_notification", progress_token, progress, total, message)

    async def send_request(
        self,
        request: Any,
        result_type: type[T],
        request_read_timeout_seconds: float | None = None,
        *,
        progress_callback: ProgressFnT | None = None,
    ) -> T:
        """Send any request, such as a vendor's own, as `mcp.ClientSession.send_request`. Never sent a second time.

        `request` is a request model of the protocol's types, `result_type` the model that its result is read into.
        """
        result: T = await self._run(
            _send_request, request, result_type, request_read_timeout_seconds, progress_callback=progress_callback
        )
        return result

    # Underneath.

    def _live_client(self) -> mcp.Client:
        lease = self._lease
        if lease.ended:
            raise self._ended()
        client = lease.connection.client
        if client is None or not lease.connection.live:
            raise lost_error(lease, False)
        return client

    # Each verb says what it returns, which the SDK has validated; the variable takes that type.
    async def _run(self, verb: Verb, /, *args: Any, **kwargs: Any) -> T:  # pyright: ignore[reportInvalidTypeVarUse]
        if self._lease.ended:
            raise self._ended()
        result: T = await run(self._lease, verb, args, kwargs)
        return result

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
                    raise lost_error(self._lease, False) from exc
                raise
            yield subscription

    def _ended(self) -> LeaseEndedError:
        return LeaseEndedError(
            f"this session of server {self.server!r} was released; acquire another one", server=self.server
        )


def _runs_under(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:
        return False


@final
class Leasing(AbstractAsyncContextManager[Session]):
    """`async with pool.session(...)`: entering waits for a session, leaving is synchronous and cannot fail."""

    __slots__ = ("_find", "_lease", "_session", "_token")

    def __init__(self, find: Callable[[], Lane], token: trio.lowlevel.TrioToken) -> None:
        self._find = find
        self._token = token
        self._lease: Lease | None = None
        self._session: Session | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Session:
        if self._session is not None:
            raise RuntimeError("this lease was entered already; call session() again for another one")
        self._lease = await self._find().acquire(in_block=True)
        self._session = Session(self._lease, self._token)
        return self._session

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lease is not None:
            self._lease.holder.release(self._lease)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"pool.session(...) is an async context manager and has no {name!r}; write "
            "'async with pool.session(...) as session:' and use that"
        )


# Functions of the client, for what it offers through its session only.


async def _read_resource_once(client: mcp.Client, *args: Any, **kwargs: Any) -> Any:
    return await client.session.read_resource(*args, **kwargs, allow_input_required=True)


async def _get_prompt_once(client: mcp.Client, *args: Any, **kwargs: Any) -> Any:
    return await client.session.get_prompt(*args, **kwargs, allow_input_required=True)


async def _send_request(client: mcp.Client, *args: Any, **kwargs: Any) -> Any:
    return await client.session.send_request(*args, **kwargs)
