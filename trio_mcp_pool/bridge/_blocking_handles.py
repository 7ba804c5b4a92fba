"""`BlockingPool` and its handles: the pool for programs of threads.

Every verb blocks the thread that calls it, and no other. The handles are thin: each holds one of the pool's own handles and
the link to the Trio thread, and does nothing with the former outside of the latter.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from inspect import iscoroutinefunction
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, final

from .. import Pool, PoolClosedError, ScopedPool, Server, Session
from ._job import Block
from ._mirror import Described, Kind, calls_server, dress, mirrors, needs_proxy, read, server_of
from ._relays import around_all, relay_callbacks
from ._waiting import BlockingLink, Box

if TYPE_CHECKING:
    import mcp_types as types

P = ParamSpec("P")
T = TypeVar("T")

Progress = Callable[[float, float | None, str | None], object]
"""A progress callback: a plain function, called in the waiting thread, or an async one, called in the Trio thread."""

_WAITS = "Blocks the calling thread until it is done; an interrupt (control-C) cancels it."


class Handle:
    """Something of the pool's, to be used in the Trio thread only."""

    def __init__(self, link: BlockingLink, target: Any) -> None:
        self._link = link
        self._target = target

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._target!r}>"

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, at_once: bool = False) -> Any:
        box: Box = SimpleQueue()
        acquires = name in ("acquire", "acquire_nowait")
        relays = relay_callbacks(
            kwargs, lambda callback: None if iscoroutinefunction(callback) else self._link.relay(callback, box)
        )
        function = around_all(relays, partial(getattr(self._target, name), *args, **kwargs))
        value = self._link.run(
            function,
            server=server_of(self._target, name, args, kwargs),
            calls_server=partial(calls_server, name),
            keeps_task=acquires,
            at_once=at_once and not acquires,
            undo=_release if acquires else None,
            box=box,
        )
        return wrap(self._link, value)

    def _block(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AbstractContextManager[Any]:
        self._link.check_usable()
        return _Block(
            self._link,
            partial(getattr(self._target, name), *args, **kwargs),
            server_of(self._target, name, args, kwargs),
        )


def _release(session: Session) -> None:
    session.release()


def wrap(link: BlockingLink, value: Any) -> Any:
    """A result as the caller may use it."""
    cls = type(value)
    if cls is Session:
        return BlockingSession(link, value)
    if cls is ScopedPool:
        return BlockingScopedPool(link, value)
    return BlockingProxy(link, value) if needs_proxy(value) else value


def build(name: str, kind: Kind, member: Any) -> Any:
    """One verb, for `mirrors`."""
    if kind == "property":
        return property(lambda self: read(self._target, name), doc=member.__doc__)

    def call(self: Handle, *args: Any, **kwargs: Any) -> Any:
        return self._call(name, args, kwargs, at_once=kind == "plain")

    def block(self: Handle, *args: Any, **kwargs: Any) -> Any:
        return self._block(name, args, kwargs)

    verb = block if kind == "block" else call
    dress(verb, member, "Entering and leaving block the calling thread." if kind == "block" else _WAITS)
    return verb


def awaited(member: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Any, P], T]:
    """A verb that is awaited in the pool, with its types."""
    verb: Callable[Concatenate[Any, P], T] = build(member.__name__, "call", member)
    return verb


def synchronous(member: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A verb that is synchronous in the pool, with its types."""
    verb: Callable[Concatenate[Any, P], T] = build(member.__name__, "plain", member)
    return verb


@final
class _Block(AbstractContextManager[Any]):
    """A context manager of the pool's as one of this thread's. May be left in another thread than it was entered in."""

    def __init__(
        self, link: BlockingLink, open_it: Callable[[], AbstractAsyncContextManager[Any]], server: str | None
    ) -> None:
        self._link = link
        self._open = open_it
        self._server = server
        self._block: Block | None = None

    def __enter__(self) -> Any:
        if self._block is not None:
            raise RuntimeError("this block was entered already; call for another one")
        self._block = self._link.enter(self._open, self._server)
        self._value = wrap(self._link, self._block.value)
        return self._value

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> bool:
        if not self._link.thread.owns_process():
            return False  # a forked child: the block is the parent's
        assert self._block is not None
        self._link.held.pop(self._value, None)
        try:
            return self._link.leave(self._block, exc)
        except PoolClosedError:
            if self._link.thread.ended:
                return False  # whatever it held has ended with the thread
            raise


@final
class BlockingProxy(Handle):
    """Any other object of the pool's whose verbs belong to the Trio thread: a subscription, a tool set.

    Its attributes are those of the object; what is awaited there blocks here, `async for` is `for`, `async with` is `with`.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._target, name)
        if not callable(value):
            return wrap(self._link, value)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._call("__anext__", (), {})
        except StopAsyncIteration:
            raise StopIteration from None


class Leases(Handle):
    """What `BlockingPool` and `BlockingScopedPool` have in common, written down for its types."""

    def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Progress | None = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool on any session of the server, as `Pool.call_tool`. Blocks; an interrupt cancels the call.

        `on_elicit`, `on_progress` and `progress_callback` may be plain functions: they are called in this thread, while it
        waits.
        """
        result: types.CallToolResult = self._call(
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
    ) -> AbstractContextManager[BlockingProxy]:
        """A stream of a server's change events, as `Pool.listen`, for a `with` block and a `for` loop in it."""
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
class BlockingScopedPool(Leases):
    """A scope, as `ScopedPool`, whose verbs block the calling thread. Made by `BlockingPool.open_scope`."""

    @property
    def key(self) -> Hashable:
        """The scope's key."""
        key: Hashable = self._target.key
        return key

    def session(self, server: str) -> AbstractContextManager[BlockingSession]:
        """Lease the scope's session of a server for the length of a `with` block, as `ScopedPool.session`."""
        return self._block("session", (server,), {})

    def acquire(self, server: str) -> BlockingSession:
        """Lease the scope's session of a server, as `ScopedPool.acquire`. Blocks; an interrupt ends the wait."""
        session: BlockingSession = self._call("acquire", (server,), {})
        return session

    def acquire_nowait(self, server: str) -> BlockingSession:
        """Lease the scope's session if it is free at this moment, as `ScopedPool.acquire_nowait`."""
        session: BlockingSession = self._call("acquire_nowait", (server,), {})
        return session


@final
@mirrors(Session, build)
class BlockingSession(Described, Handle):
    """A lease, as `Session`, whose verbs block the calling thread. Any number of threads may call through it at once."""

    def __init__(self, link: BlockingLink, target: Session) -> None:
        super().__init__(link, target)
        self._taker: int | None = threading.get_ident()
        link.held[self] = threading.get_ident()

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, at_once: bool = False) -> Any:
        if self._taker != threading.get_ident():
            self._link.held.pop(self, None)
        return super()._call(name, args, kwargs, at_once=at_once)

    def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Progress | None = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool, as `Session.call_tool`. Blocks; an interrupt cancels the call.

        `on_elicit`, `on_progress` and `progress_callback` may be plain functions: they are called in this thread, while it
        waits.
        """
        result: types.CallToolResult = self._call(
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
    ) -> AbstractContextManager[BlockingProxy]:
        """A stream of the server's change events, as `Session.listen`, for a `with` block and a `for` loop in it."""
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
        """End the lease, as `Session.release`. Idempotent; nothing where the pool has ended, or in a forked child."""
        self._link.held.pop(self, None)
        if self._link.thread.owns_process() and not self._link.thread.ended:
            try:
                self._call("release", (), {}, at_once=True)
            except PoolClosedError:
                pass  # the thread ended meanwhile
