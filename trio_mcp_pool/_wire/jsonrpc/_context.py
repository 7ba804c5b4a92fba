"""What a handler of an inbound request or notification is given to talk back with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, final

import anyio
import trio
from mcp_types import ProgressToken, RequestId

from .._seam import NoBackChannelError

if TYPE_CHECKING:
    from .._seam import CallOptions, TransportContext


class Back(Protocol):
    """The way back to the server for one message of its own."""

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request that belongs to the message."""
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification that belongs to the message. Dropped in silence where there is no connection any more."""
        ...

    async def reply(self, data: bytes) -> None:
        """Send the answer to the message, an encoded JSON-RPC response without a newline. Dropped in silence where there is
        no connection any more."""
        ...


@final
class InboundContext:
    """The SDK's `DispatchContext` protocol for one inbound message."""

    def __init__(
        self,
        back: Back,
        transport: TransportContext,
        request_id: RequestId | None,
        progress_token: ProgressToken | None,
    ) -> None:
        self.scope = trio.CancelScope()
        """Cancelled when the server takes its request back."""
        self.transport = transport
        self._back = back
        self._request_id = request_id
        self._progress_token = progress_token
        self._closed = False
        self._cancel_requested: anyio.Event | None = None

    @property
    def can_send_request(self) -> bool:
        return self.transport.can_send_request and not self._closed

    @property
    def request_id(self) -> RequestId | None:
        return self._request_id

    @property
    def message_metadata(self) -> None:
        """A message carries none on the client's side."""
        return None

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    @property
    def was_cancelled(self) -> bool:
        return self._cancel_requested is not None and self._cancel_requested.is_set()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request:
            await trio.lowlevel.checkpoint()
            raise NoBackChannelError(method)
        return await self._back.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        await self._back.notify(method, params, opts)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._progress_token is None:
            await trio.lowlevel.checkpoint()
            return
        params: dict[str, Any] = {"progressToken": self._progress_token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)

    def close(self) -> None:
        """The handler has returned: what it left running may not talk back any more."""
        self._closed = True
