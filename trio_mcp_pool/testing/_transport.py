"""The client's side of one connection: a transport for `mcp.Client` that reports to a link.

It does what the pool's wires do. A request counts as written when the server has taken it and not before; that the session
is lost is said before anybody can learn it from a failing call; once the session is lost or being left, nothing more is
sent; and while something waits to be written and nothing is taken for `write_timeout`, the session is lost.

One thing is better here than on a real pipe: a message is taken whole or not at all. So a request that its caller stopped
waiting for before it was taken is withdrawn, and the cancellation that the SDK sends after it is dropped, as there is
nothing to cancel.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, final

import anyio
import mcp_types as types
import trio
from mcp.shared.message import SessionMessage

from .._groups import sole_error
from .._wire._link import Call, Link
from .._wire._streams import ReadStream, Stream
from ._gates import GateTable
from ._peer import Offer, Peer


@final
class _Reader(ReadStream):
    """What the client reads."""

    def __init__(self, peer: Peer, link: Link) -> None:
        self._peer = peer
        self._link = link

    async def receive(self) -> SessionMessage | Exception:
        try:
            message = await self._peer.from_server.receive()
        except trio.EndOfChannel:
            lose(self._link, self._peer)
            raise anyio.EndOfStream from None
        except trio.ClosedResourceError:
            raise anyio.ClosedResourceError from None
        self._link.heard()
        return SessionMessage(types.jsonrpc_message_adapter.validate_python(message, by_name=False))

    async def aclose(self) -> None:
        self._peer.from_server.close()
        await trio.lowlevel.checkpoint()


@final
class _Writer(Stream):
    """What the client writes to."""

    def __init__(self, peer: Peer, link: Link) -> None:
        self._peer = peer
        self._link = link
        self._closed = False
        self._withdrawn: set[Any] = set()
        self._settled = trio.lowlevel.ParkingLot()
        self.patience = trio.CancelScope()
        """Its deadline is the moment at which the server has taken nothing for too long."""
        peer.changed = self._changed

    def _changed(self) -> None:
        """Set the clock of the write timeout, and wake those whose message was taken."""
        peer, timeout = self._peer, self._link.write_timeout
        if not peer.offers:
            self.patience.deadline = math.inf
        elif math.isinf(self.patience.deadline) or peer.last_taken_at == trio.current_time():
            self.patience.deadline = trio.current_time() + timeout
        self._settled.unpark_all()

    async def watch(self) -> None:
        """Declare the session lost when a write waits for too long."""
        with self.patience:
            await trio.sleep_forever()
        self._link.lost(TimeoutError(f"no byte was accepted for {self._link.write_timeout:g} s"))
        self._peer.end()

    async def send(self, item: SessionMessage, /) -> None:
        peer, link = self._peer, self._link
        message: dict[str, Any] = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
        if message.get("method") == "notifications/cancelled":
            cancelled = (message.get("params") or {}).get("requestId")
            if cancelled in self._withdrawn:
                self._withdrawn.discard(cancelled)
                return
        if self._closed or link.is_lost or link.leaving:
            raise anyio.ClosedResourceError
        self._check()
        call = link.current_call() if isinstance(item.message, types.JSONRPCRequest) else None
        offer = Offer(message, lambda: _written(call))
        peer.offer(offer)
        if message.get("method") == "notifications/cancelled":
            # Nothing waits for this notice: the SDK would shield the wait, and hold its caller for up to 5 s.
            return
        try:
            while not offer.taken:
                self._check()
                await self._settled.park()
        except trio.Cancelled:
            if not offer.taken:
                peer.withdraw(offer)
                if "id" in message and "method" in message:
                    self._withdrawn.add(message["id"])
            raise

    def _check(self) -> None:
        if self._peer.ended:
            lose(self._link, self._peer)
            raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()


def _written(call: Call | None) -> None:
    if call is not None:
        call.written = True


def lose(link: Link, peer: Peer) -> None:
    """Report to the link that the session is gone, unless it is being left anyway."""
    if not link.leaving and peer.record.state != "closing":
        link.lost(peer.death)


@final
class ScriptedTransport:
    """Connects `mcp.Client` to one peer. Entered once."""

    def __init__(self, peer: Peer, link: Link, gates: GateTable) -> None:
        self._peer = peer
        self._link = link
        self._gates = gates
        self._writer = _Writer(peer, link)
        self._tasks = trio.open_nursery()

    async def __aenter__(self) -> tuple[_Reader, _Writer]:
        try:
            self._link.phase = "spawn"
            await self._gates._draw("spawn")._pass()
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self._gone()
            raise
        self._nursery = await self._tasks.__aenter__()
        self._nursery.start_soon(self._peer.run)
        self._nursery.start_soon(self._writer.watch)
        self._link.phase = "handshake"
        return _Reader(self._peer, self._link), self._writer

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._peer.record.opened_at is None and isinstance(exc_val, Exception):
            self._link.failing(sole_error(exc_val))
        self._peer.note(state="closing")
        try:
            self._peer.end()
            self._nursery.cancel_scope.cancel(reason="the transport is left")
            try:
                # The nursery does not see the body's exception: it would come out wrapped in a group.
                await self._tasks.__aexit__(None, None, None)
            finally:
                await self._gates._draw("close")._pass()
        finally:
            self._gone()

    def _gone(self) -> None:
        self._peer.end()
        self._peer.from_server.close()
        self._peer.note(state="closed", closed_at=trio.current_time())
