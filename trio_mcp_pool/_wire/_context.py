"""What a handler of an inbound request or notification is given to talk back with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import anyio
import trio
from mcp.shared.dispatcher import CallOptions, Outbound
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.transport_context import TransportContext
from mcp_types import ProgressToken, RequestId

_TRANSPORT: Final = TransportContext(kind="stdio", can_send_request=True)


@final
class InboundContext:
    """The SDK's `DispatchContext` protocol for one inbound message."""

    def __init__(self, back: Outbound, request_id: RequestId | None, progress_token: ProgressToken | None) -> None:
        self.scope = trio.CancelScope()
        """Cancelled when the server takes its request back."""
        self._back = back
        self._request_id = request_id
        self._progress_token = progress_token
        self._closed = False
        self._cancel_requested: anyio.Event | None = None

    @property
    def transport(self) -> TransportContext:
        return _TRANSPORT

    @property
    def can_send_request(self) -> bool:
        return not self._closed

    @property
    def request_id(self) -> RequestId | None:
        return self._request_id

    @property
    def message_metadata(self) -> None:
        """A stdio message carries none."""
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
        if self._closed:
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
