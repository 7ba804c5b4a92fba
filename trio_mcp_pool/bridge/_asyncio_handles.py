"""`AsyncioPool` and its handles: the pool for asyncio programs.

Every verb is awaited, those too that are synchronous in the pool (`statistics`, `add_server`, `acquire_nowait`): an answer of
the Trio thread takes a moment, for which the event loop must not stand still. Only `release`, which has no answer, is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, final

from .. import Pool, PoolClosedError, ScopedPool, Server, Session
from ._job import Block
from ._loop import AsyncioLink
from ._mirror import Described, Kind, calls_server, dress, mirrors, needs_proxy, read, server_of
from ._relays import around_all, relay_callbacks

if TYPE_CHECKING:
    import mcp_types as types

P = ParamSpec("P")
T = TypeVar("T")

Progress = Callable[[float, float | None, str | None], object]
"""A progress callback, plain or async, called in the event loop of the caller."""

_WAITS = "Awaited in asyncio; a cancelled task cancels it."


class Handle:
    """Something of the pool's, to be used in the Trio thread only."""

    def __init__(self, link: AsyncioLink, target: Any) -> None:
        self._link = link
        self._target = target

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._target!r}>"

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, at_once: bool = False) -> Any:
        acquires = name in ("acquire", "acquire_nowait")
        relays = relay_callbacks(kwargs, self._link.relay)
        function = around_all(relays, partial(getattr(self._target, name), *args, **kwargs))
        value = await self._link.run(
            function,
            server=server_of(self._target, name, args, kwargs),
            calls_server=partial(calls_server, name),
            keeps_task=acquires,
            at_once=at_once and not acquires,
            undo=self._release_late if acquires else None,
        )
        return wrap(self._link, value)

    async def _release_late(self, session: Session) -> None:
        await self._link.run(session.release, at_once=True)

    def _block(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AbstractAsyncContextManager[Any]:
        return _Block(
            self._link,
            partial(getattr(self._target, name), *args, **kwargs),
            server_of(self._target, name, args, kwargs),
        )


def wrap(link: AsyncioLink, value: Any) -> Any:
    """A result as the caller may use it."""
    cls = type(value)
    if cls is Session:
        return AsyncioSession(link, value)
    if cls is ScopedPool:
        return AsyncioScopedPool(link, value)
    return AsyncioProxy(link, value) if needs_proxy(value) else value


def build(name: str, kind: Kind, member: Any) -> Any:
    """One verb, for `mirrors`."""
    if kind == "property":
        return property(lambda self: read(self._target, name), doc=member.__doc__)

    async def call(self: Handle, *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, args, kwargs, at_once=kind == "plain")

    def block(self: Handle, *args: Any, **kwargs: Any) -> Any:
        return self._block(name, args, kwargs)

    verb = block if kind == "block" else call
    dress(verb, member, "For `async with` in asyncio." if kind == "block" else _WAITS)
    return verb


def awaited(
    member: Callable[Concatenate[Any, P], Awaitable[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A verb that is awaited in the pool too, with its types."""
    verb: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]] = build(member.__name__, "call", member)
    return verb


def synchronous(member: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A verb that is synchronous in the pool, with its types."""
    verb: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]] = build(member.__name__, "plain", member)
    return verb


@final
class _Block(AbstractAsyncContextManager[Any]):
    """A context manager of the pool's as one of asyncio's. May be left by another task than it was entered by."""

    def __init__(
        self, link: AsyncioLink, open_it: Callable[[], AbstractAsyncContextManager[Any]], server: str | None
    ) -> None:
        self._link = link
        self._open = open_it
        self._server = server
        self._block: Block | None = None

    async def __aenter__(self) -> Any:
        if self._block is not None:
            raise RuntimeError("this block was entered already; call for another one")
        self._block = await self._link.enter(self._open, self._server)
        self._value = wrap(self._link, self._block.value)
        return self._value

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        if not self._link.thread.owns_process():
            return False  # a forked child: the block is the parent's
        assert self._block is not None
        self._link.held.pop(self._value, None)
        try:
            return await self._link.leave(self._block, exc)
        except PoolClosedError:
            if self._link.thread.ended:
                return False  # whatever it held has ended with the thread
            raise


@final
class AsyncioProxy(Handle):
    """Any other object of the pool's whose verbs belong to the Trio thread: a subscription, a tool set.

    Its attributes are those of the object; its verbs are awaited.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._target, name)
        if not callable(value):
            return wrap(self._link, value)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self._call("__anext__", (), {})


class Leases(Handle):
    """What `AsyncioPool` and `AsyncioScopedPool` have in common, written down for its types."""

    async def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Progress | None = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool on any session of the server, as `Pool.call_tool`. A cancelled task cancels the call.

        `on_elicit`, `on_progress` and `progress_callback`, plain or async, are called in this event loop.
        """
        result: types.CallToolResult = await self._call(
            "call_tool",
            (server, name, arguments, read_timeout_seconds),
            {"progress_callback": progress_callback, **options},
        )
        return result

    read_resource = awaited(Pool.read_resource)
    get_prompt = awaited(Pool.get_prompt)
    list_tools = awaited(Pool.list_tools)
    list_resources = awaited(Pool.list_resources)
    list_resource_templates = awaited(Pool.list_resource_templates)
    list_prompts = awaited(Pool.list_prompts)
    complete = awaited(Pool.complete)
    send_ping = awaited(Pool.send_ping)
    wait_ready = awaited(Pool.wait_ready)

    @property
    def servers(self) -> Mapping[str, Server]:
        """What is configured now, by name, as `Pool.servers`: a copy."""
        servers: Mapping[str, Server] = read(self._target, "servers")
        return servers

    def listen(
        self,
        server: str,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Sequence[str] = (),
        scope: Hashable = None,
    ) -> AbstractAsyncContextManager[AsyncioProxy]:
        """A stream of a server's change events, as `Pool.listen`, for `async with` and an `async for` in it."""
        return self._block(
            "listen",
            (server,),
            {
                "tools_list_changed": tools_list_changed,
                "prompts_list_changed": prompts_list_changed,
                "resources_list_changed": resources_list_changed,
                "resource_subscriptions": resource_subscriptions,
                "scope": scope,
            },
        )


@final
@mirrors(ScopedPool, build)
class AsyncioScopedPool(Leases):
    """A scope, as `ScopedPool`, for asyncio. Made by `AsyncioPool.open_scope`."""

    @property
    def key(self) -> Hashable:
        """The scope's key."""
        key: Hashable = self._target.key
        return key

    def session(self, server: str) -> AbstractAsyncContextManager[AsyncioSession]:
        """Lease the scope's session of a server for the length of an `async with` block, as `ScopedPool.session`."""
        return self._block("session", (server,), {})

    async def acquire(self, server: str) -> AsyncioSession:
        """Lease the scope's session of a server, as `ScopedPool.acquire`. A cancelled task ends the wait."""
        session: AsyncioSession = await self._call("acquire", (server,), {})
        return session

    async def acquire_nowait(self, server: str) -> AsyncioSession:
        """Lease the scope's session if it is free at this moment, as `ScopedPool.acquire_nowait`. Awaited."""
        session: AsyncioSession = await self._call("acquire_nowait", (server,), {})
        return session


@final
@mirrors(Session, build)
class AsyncioSession(Described, Handle):
    """A lease, as `Session`, for asyncio. Any number of tasks may call through it at once."""

    def __init__(self, link: AsyncioLink, target: Session) -> None:
        super().__init__(link, target)
        self._taker = link.held[self] = asyncio.current_task()

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, at_once: bool = False) -> Any:
        if self._taker is not None and self._taker is not asyncio.current_task():
            self._taker = None
            self._link.held.pop(self, None)
        return await super()._call(name, args, kwargs, at_once=at_once)

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Progress | None = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool, as `Session.call_tool`. A cancelled task cancels the call.

        `on_elicit`, `on_progress` and `progress_callback`, plain or async, are called in this event loop.
        """
        result: types.CallToolResult = await self._call(
            "call_tool", (name, arguments, read_timeout_seconds), {"progress_callback": progress_callback, **options}
        )
        return result

    read_resource = awaited(Session.read_resource)
    get_prompt = awaited(Session.get_prompt)
    list_tools = awaited(Session.list_tools)
    list_resources = awaited(Session.list_resources)
    list_resource_templates = awaited(Session.list_resource_templates)
    list_prompts = awaited(Session.list_prompts)
    complete = awaited(Session.complete)
    send_ping = awaited(Session.send_ping)

    def listen(
        self,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[AsyncioProxy]:
        """A stream of the server's change events, as `Session.listen`, for `async with` and an `async for` in it."""
        return self._block(
            "listen",
            (),
            {
                "tools_list_changed": tools_list_changed,
                "prompts_list_changed": prompts_list_changed,
                "resources_list_changed": resources_list_changed,
                "resource_subscriptions": resource_subscriptions,
            },
        )

    def release(self) -> None:
        """End the lease, as `Session.release`. Synchronous, idempotent, does not wait."""
        self._link.held.pop(self, None)
        if self._link.thread.owns_process():
            self._link.thread.soon(self._target.release)
