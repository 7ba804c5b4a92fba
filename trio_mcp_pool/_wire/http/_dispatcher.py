"""What both HTTP transports have in common: the SDK's `Dispatcher` protocol over HTTP requests.

A caller makes its own HTTP request, in its own task: there is no memory channel and no task per request. So a cancelled
call closes its connection in the same moment, and its errors are raised where it waits.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import anyio.abc
import mcp
import outcome
import trio
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from ..._errors import AuthenticationError, OutcomeUnknownError, PoolError, SessionLostError
from .._causes import shown_cause
from .._seam import TransportContext
from ..jsonrpc._inbound import Inbound
from ..jsonrpc._messages import connection_closed, encode
from ..jsonrpc._outbound import Outbound, Request
from ._auth import AuthenticationFailed
from ._client import HttpClient
from ._exchange import Exchange, NotSent
from ._failures import BodyTooLarge, CertificateRefused, ConnectFailed, HttpFailure
from ._messages import Answer, Messages, Observer
from ._notices import CANCEL_TIMEOUT, Notices
from ._status import is_odd, ran_not, status_error

if TYPE_CHECKING:
    from .._seam import CallOptions, OnNotify, OnNotifyIntercept, OnRequest

logger = logging.getLogger("trio_mcp_pool.wire")

_ERROR_BODY: Final = 1024 * 1024
"""The longest body of a refusal that is searched for a JSON-RPC error, in bytes."""

_PROBE: Final = "trio-mcp-pool-probe"
"""The id of the ping that asks whether a session lives: no number, so that it meets no other request's."""

# A server that says one of these has read the request, so it knows the session.
_NOT_THE_SESSION: Final = frozenset(
    {HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_PROTOCOL_VERSION}
)


class HttpDispatcher(ABC):
    """The SDK's `Dispatcher` protocol. Runs once."""

    transport: Literal["streamable-http", "sse"]

    def __init__(self, client: HttpClient, *, max_message: int, max_values: int, observer: Observer | None) -> None:
        self.client: Final = client
        self.link: Final = client.link
        self.ready = False
        """Whether the handshake is done. Until then every error is the dial's."""
        self.outbound: Final = Outbound(self.link, self)
        self.inbound: Final = Inbound(
            self.link,
            TransportContext(kind=self.transport, can_send_request=True),
            self.outbound.pending.get,
            max_message,
        )
        self.messages: Final = Messages(
            self.link, self.inbound, max_message=max_message, max_values=max_values, observer=observer
        )
        self.notices: Final = Notices(self.link, self._post_notice)
        self.nursery: trio.Nursery | None = None
        self._probing = False
        self._context = copy_context()

    def __repr__(self) -> str:
        out, in_ = len(self.outbound.pending), len(self.inbound.in_flight)
        return f"<{type(self).__name__} of {self.link.server!r}: {out} out, {in_} in>"

    # What a transport does in its own way.

    @abstractmethod
    async def carry(self, request: Request) -> dict[str, Any]:
        """Send a request in its caller's task and give its result (`Carrier`)."""

    @abstractmethod
    async def post(self, data: bytes) -> Exchange:
        """Send what has no answer."""

    @abstractmethod
    async def listen(self, nursery: trio.Nursery) -> None:
        """What runs for as long as the session does."""

    def note_era(self, options: CallOptions | None) -> None:  # noqa: B027 (a transport may know no eras)
        """What is sent says by its headers which era it belongs to."""

    @property
    @abstractmethod
    def has_session(self) -> bool:
        """Whether there is a session that the server may forget."""

    @property
    def cancels_by_notice(self) -> bool:
        """Whether the server is told of a cancelled request by a notice; otherwise the closed connection says it."""
        return True

    # Out.

    def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> CoroutineType[Any, Any, dict[str, Any]]:
        """Send a request and wait for its result; see `Outbound.send_raw_request`.

        Raises also the pool's errors: what became of a request is known here better than anywhere above.
        """
        return self.outbound.send_raw_request(method, params, opts)  # type: ignore[return-value]

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification and wait until the server has taken it, or does not in time. Checkpoints."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self.note_era(opts)
        if method == "notifications/initialized" and not self.ready:
            await self._initialized(encode(message))
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self.notices.send(encode(message))
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def reply(self, data: bytes) -> None:
        """Send the answer to something that the server asked (`Back`)."""
        await trio.lowlevel.checkpoint()
        self.notices.put(data)

    def abandoned(self, request: Request, why: str) -> None:
        """Tell the server that nobody waits any more (`Carrier`). The connection is closed already."""
        if self.cancels_by_notice:
            notice = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": request.id, "reason": why},
            }
            self.notices.put(encode(notice), CANCEL_TIMEOUT)

    async def _initialized(self, data: bytes) -> None:
        """Send the notification that ends the handshake. Only when the server has taken it is there a session."""
        response = await self.post(data)
        try:
            if not 200 <= response.status < 300:
                raise self.status_error(response, written_before=False)
            await response.discard()
        finally:
            response.abort()

    async def _post_notice(self, data: bytes) -> None:
        response = await self.post(data)
        try:
            if response.status == 404 and self.has_session and self.ready:
                self.session_lost()
            elif response.status >= 300:
                logger.debug("server %s: a notice was answered with HTTP %d", self.link.server, response.status)
            await response.discard()
        finally:
            response.abort()

    # Answers.

    async def give(self, request: Request, answer: Answer) -> dict[str, Any]:
        """Hand an answer to its caller, after the callbacks have begun whose messages came before it."""
        given = False

        def give() -> None:
            nonlocal given
            given = True
            self.outbound.resolve(request.key, answer)

        self.inbound.turns.answer(give)
        if given:
            return answer.unwrap()
        return await self.outbound.park(request, lambda _: False)

    async def judge(self, request: Request, response: Exchange, written_before: bool) -> Answer:
        """What the caller is told of a response that is no success."""
        said, named = None, False
        if response.head.media_type == b"application/json":
            try:
                body = await response.read(_ERROR_BODY)
            except (BodyTooLarge, HttpFailure):
                pass
            else:
                said, named = self.messages.read_refusal(body, request.key)
        status = response.status
        if self.ready and self.has_session:
            if status == 404 and not _is_about_the_request(said):
                self.unwritten(request, written_before)
                self.session_lost()
                return outcome.Error(self.lost_error("the server no longer knows the session", written_before))
            if is_odd(status) and not named:
                self.suspect(status)
        if ran_not(status):
            self.unwritten(request, written_before)
        if said is None or status == 401 or (status == 403 and not self.ready) or (request.id == _PROBE and not named):
            return outcome.Error(self.status_error(response, written_before=written_before))
        return said

    def unwritten(self, request: Request, written_before: bool) -> None:
        """The server has refused the request: nothing of it ran."""
        if request.call is not None:
            request.call.written = written_before

    def status_error(self, response: Exchange, *, written_before: bool) -> PoolError:
        """The error for a status with no message beside it."""
        return status_error(
            self.link,
            self.client.address,
            response.head,
            transport=self.transport,
            dialling=not self.ready,
            written_before=written_before,
        )

    def failure(self, exc: Exception, written_before: bool) -> Exception:
        """What a call is told of what broke its exchange. A dial tells it as it is."""
        server = self.link.server
        if isinstance(exc, BodyTooLarge):
            return self.messages.too_large(self.messages.max_message, "bytes")
        if isinstance(exc, AuthenticationFailed | CertificateRefused):
            error = AuthenticationError(
                f"server {server!r}: {exc}", server=server, outcome="unknown" if written_before else "not run"
            )
            error.__cause__ = shown_cause(exc.__cause__, self.link)
            return error
        if self.outbound.closed:
            # The session is over, and whoever has ended it says how.
            return connection_closed()
        if not isinstance(exc, HttpFailure):
            return exc
        if not self.ready:
            # The errors of a connection that was never made name the address already.
            return exc if isinstance(exc, ConnectFailed) else type(exc)(f"{self.client.address.shown}: {exc}")
        if isinstance(exc, ConnectFailed | NotSent):
            return self.lost_error(str(exc), written_before)
        return self.lost_error(str(exc), True)

    def lost_error(self, why: str, written: bool) -> PoolError:
        """The error for a request to which no answer will come."""
        server = self.link.server
        if written:
            return OutcomeUnknownError(
                f"server {server!r}: the request was sent and may have run, but {why}", server=server
            )
        return SessionLostError(f"server {server!r}: the request did not run: {why}", server=server)

    # The session's health (R11).

    def session_lost(self) -> None:
        """The server said that it does not know the session."""
        self.link.lost(ConnectionResetError("the server no longer knows the session"))
        self.inbound.stop()
        self.outbound.close()

    def suspect(self, status: int) -> None:
        """A status came that a server may give to a session which it has forgotten. Ask it once, beside the calls."""
        if self._probing or self.nursery is None or self.link.is_lost or self.link.leaving:
            return
        self._probing = True
        # In a context of its own: what it runs into is not the call's whose status was odd.
        self._context.run(self.nursery.start_soon, self._probe, status)

    async def _probe(self, status: int) -> None:
        link = self.link
        try:
            with trio.move_on_after(link.probe_timeout):
                await self.outbound.send_raw_request("ping", None, {"request_id": _PROBE})
        except mcp.MCPError:
            pass  # an answer all the same
        except PoolError as exc:
            found = getattr(exc, "status", None)
            if found is not None and is_odd(found) and not link.is_lost:
                logger.info("server %s: it answers %d to a call and %d to a ping", link.server, status, found)
                link.undecided()
        except Exception as exc:
            logger.debug("server %s: the probe failed with %s", link.server, type(exc).__name__)
        finally:
            self._probing = False

    # Life.

    @abstractmethod
    async def end_session(self, timeout: float) -> None:
        """Ask the server to forget the session, in that many seconds and not more. Raises nothing but a cancellation."""

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve callers until the task is cancelled. Handlers that still run then are cancelled, and connections closed."""
        if self.nursery is not None:
            raise RuntimeError("a dispatcher runs only once")
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                self._context = copy_context()
                self.inbound.start(nursery, on_request, on_notify, on_notify_intercept)
                self.notices.start(nursery)
                self.client.start(nursery)
                await self.listen(nursery)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.inbound.stop()
            self.outbound.close()
            self.client.close()

    def check_running(self) -> None:
        """Raise where there is nobody to send for."""
        if self.nursery is None:
            raise RuntimeError("send_raw_request was called before run()")
        if self.link.is_lost:
            raise connection_closed()


def _is_about_the_request(said: Answer | None) -> bool:
    """Whether the server has read the request, so that its 404 does not mean the session.

    Servers say that in many ways, some with the code of a timeout, so only an error that is plainly about the request
    counts.
    """
    if not isinstance(said, outcome.Error):
        return False
    error = said.error
    return isinstance(error, mcp.MCPError) and error.code in _NOT_THE_SESSION
