"""Following one resource, in both eras of the protocol.

The rule: a subscription is a block. It holds a lease, so that its session is not closed for idleness, and survives the loss of
the session by subscribing again, after which it says that something may have been missed: nothing in the protocol replays it.
In the older era a session has one subscription per URI, whoever asked for it, so those who ask are counted: the end of one
reader does not silence another. The obvious way, `subscribe_resource` and a message handler, silences them, and goes quiet for
ever when the session dies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, final

import mcp_types as types
import trio
from mcp.client.subscriptions import ResourceUpdated, SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from .._errors import ConnectError, SessionLostError
from .._groups import interrupt_in, sole_error
from ._readers import Readers
from ._run import what_comes_out

if TYPE_CHECKING:
    from .._session import Session
    from ._catalog import Catalog
    from ._notifications import ServerNotice
    from ._source import Source

_PARTING: Final = 2.0
"""Seconds that taking leave of a resource may take."""
_AGAIN: Final = 0.5
_MOST_PENDING: Final = 1000


@final
@dataclass(frozen=True, slots=True)
class ResourceUpdate:
    """A resource was changed, or may have been."""

    uri: str
    """Which one: the one subscribed to, or one below it."""
    missed: bool = False
    """Whether the session was lost meanwhile, so that any number of changes may have gone unnoticed."""


@final
class Updates:
    """An async iterator of `ResourceUpdate`s; several of one resource between two steps are one. Made by `Pool.subscribe`."""

    def __init__(self, uri: str) -> None:
        """For the pool itself."""
        self.uri = uri
        """The resource subscribed to."""
        self._waiting: dict[str, bool] = {}
        self._arrived = trio.Event()
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ResourceUpdate:
        """The next update, as soon as there is one, for one reader. Raises what subscribing again raised. Checkpoints."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._arrived.is_set():  # otherwise another task waits for it already
                self._arrived = trio.Event()
            await self._arrived.wait()
        uri = next(iter(self._waiting))
        return ResourceUpdate(uri, self._waiting.pop(uri))

    def _put(self, uri: str, missed: bool = False) -> None:
        if len(self._waiting) >= _MOST_PENDING and uri not in self._waiting:
            uri, missed = self.uri, True
        self._waiting[uri] = missed or self._waiting.get(uri, False)
        self._arrived.set()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._arrived.set()


@asynccontextmanager
async def subscribe(catalog: Catalog, source: Source, server: str, uri: str) -> AsyncIterator[Updates]:
    """The block. What its body raises comes out bare."""
    updates = Updates(uri)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_follow, catalog, source, server, updates)
            try:
                yield updates
            except BaseException as exc:  # noqa: ASYNC103 (raised bare below)
                error = exc
            nursery.cancel_scope.cancel(reason="the block of subscribe was left")
    except BaseExceptionGroup as group:
        error = what_comes_out(error, group)
    if error is not None:
        try:
            raise error
        finally:
            del error  # the frame would otherwise keep the error, and the error the frame


async def _follow(
    catalog: Catalog,
    source: Source,
    server: str,
    updates: Updates,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    started = False
    while True:
        wait = 0.0
        try:
            async with source.session(server) as session:
                async with _subscribed(catalog, source, session, updates):
                    if not started:
                        task_status.started()
                        started = True
                    else:
                        updates._put(updates.uri, missed=True)
                    await session.wait_lost()
        except SessionLostError:
            pass
        except ConnectError as why:
            if not started:
                raise
            wait = max(_AGAIN, why.retry_after or 0.0)
        except SubscriptionLost:
            if not started:
                raise
            wait = _AGAIN
        except Exception as why:
            if not started:
                raise
            updates._fail(why)
            return
        await trio.sleep(wait)


@asynccontextmanager
async def _subscribed(catalog: Catalog, source: Source, session: Session, updates: Updates) -> AsyncIterator[None]:
    offered = session.server_capabilities.resources
    if offered is None or not offered.subscribe:
        raise ValueError(f"server {session.server!r} offers no subscriptions to resources")
    if session.protocol_version in MODERN_PROTOCOL_VERSIONS:
        async with session.listen(resource_subscriptions=[updates.uri]) as events:
            if updates.uri not in (events.honored.resource_subscriptions or ()):
                raise ValueError(f"server {session.server!r} does not agree to tell of changes of this resource")
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_read, events, updates)
                    yield
                    nursery.cancel_scope.cancel(reason="the session is gone")
            except BaseExceptionGroup as group:
                raise interrupt_in(group) or sole_error(group) from None
        return
    await source.hears(session.server)
    key = (id(session.client), updates.uri)
    readers = catalog._resource_readers.setdefault(key, Readers())

    def heard(notice: ServerNotice) -> None:
        told = notice.notification
        if isinstance(told, types.ResourceUpdatedNotification) and _is_within(str(told.params.uri), updates.uri):
            updates._put(str(told.params.uri))

    forget = catalog._hear(session.server, source.scope, heard)
    readers.users += 1
    try:
        await _join(session, updates.uri, readers)
        try:
            yield
        finally:
            await _part(session, updates.uri, readers)  # noqa: ASYNC102 (shielded and bounded inside)
    finally:
        forget()
        readers.users -= 1
        if readers.users == 0:
            del catalog._resource_readers[key]


def _is_within(uri: str, followed: str) -> bool:
    """Whether it is the resource that is followed, or one below it: `memo://a/b` is below `memo://a`, `memo://ab` is not."""
    if not uri.startswith(followed):
        return False
    return len(uri) == len(followed) or followed.endswith("/") or uri[len(followed)] in "/?#"


async def _join(session: Session, uri: str, readers: Readers) -> None:
    """The first reader subscribes. Cancelled meanwhile, it unsubscribes: the server may have done it already."""
    async with readers.lock:
        if readers.count == 0:
            try:
                # As a request: the SDK's own method warns of the end of its era, which is known here.
                subscribing = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))
                await session.send_request(subscribing, types.EmptyResult)
            except trio.Cancelled:
                with trio.move_on_after(_PARTING, shield=True):
                    await _unsubscribe(session, uri)
                raise
        readers.count += 1


async def _part(session: Session, uri: str, readers: Readers) -> None:
    """The last reader takes leave of the resource."""
    with trio.move_on_after(_PARTING, shield=True):
        async with readers.lock:
            readers.count -= 1
            if readers.count == 0:
                await _unsubscribe(session, uri)


async def _unsubscribe(session: Session, uri: str) -> None:
    try:
        leaving = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=uri))
        await session.send_request(leaving, types.EmptyResult)
    except Exception:
        return  # the session is gone, and its subscriptions with it


async def _read(events: Any, updates: Updates) -> None:
    async for event in events:
        if isinstance(event, ResourceUpdated):
            updates._put(str(event.uri))
    # The server has ended it, and the session lives on: begin again.
    raise SubscriptionLost("the server ended the subscription")
