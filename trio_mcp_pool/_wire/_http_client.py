"""The HTTP client of one connection, as the SDK's transports use it.

It is an ordinary client whose `send` is told which JSON-RPC message it carries and for which call. At that height the
authentication flow has had its say already: a 401 that it answers with a fresh token never arrives here.

What one request runs into stays with that request (`_http_flight.py`), and notices are sent in the background: the SDK
sends them one after the other, before anything else, so a slow one would hold up every caller.
"""

from __future__ import annotations

import logging
import math
from contextvars import ContextVar
from functools import partial
from typing import Any, final

import httpx2
import trio
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, RequestId

from .._errors import AuthenticationError
from ._http_answers import (
    LAST_EVENT_ID,
    PROTOCOL_VERSION,
    SESSION_ID,
    accepted,
    content_type,
    end_of_answer,
    error_answer,
    is_session_loss,
    nothing_to_delete,
    read_error,
    status_error,
)
from ._http_events import AnswerStream, Deliver
from ._http_flight import ABANDONED, CutOff, Flight, FlightBody, HeardStream
from ._http_verdict import decisive
from ._link import Call, Link, current_call

logger = logging.getLogger("trio_mcp_pool.http")

current_message: ContextVar[SessionMessage | None] = ContextVar("trio_mcp_pool_http_message", default=None)
"""The message that the SDK's current task sends."""

_CONNECT_TIMEOUT = 30.0
_NOTICE_TIMEOUT = 5.0
_GOODBYE_TIMEOUT = 2.0
# Cancel notices on their way at once; a thousand cancelled callers must not open a thousand connections.
_NOTICES = 8
# Shorter than the five seconds after which common servers close an idle connection: a request that crosses with that
# would be lost.
_KEEPALIVE = 4.0


@final
class WireClient(httpx2.AsyncClient):
    """One connection's HTTP client. `soft_answers` is for the SSE transport, whose answers come over another stream."""

    def __init__(
        self, link: Link, dial: Call, *, headers: dict[str, str], auth: httpx2.Auth | None, soft_answers: bool
    ) -> None:
        super().__init__(
            headers=headers,
            auth=auth,
            # How long a call may take is for its caller to say, and callers of one session must not wait for each other.
            timeout=httpx2.Timeout(
                None,
                connect=min(link.connect_timeout, _CONNECT_TIMEOUT),
                write=link.write_timeout if link.write_timeout < math.inf else None,
            ),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=_KEEPALIVE),
        )
        self.ready = False
        """Whether the handshake is done. Until then every error is the dial's."""
        self.limit: int | None = None
        """The longest server-sent event in an answer, in bytes."""
        self._link = link
        self._dial = dial
        self._dial_trouble: Exception | None = None
        self._told = False
        self._initialized: trio.Event | None = None
        self._has_auth = auth is not None
        self._soft_answers = soft_answers
        self._background: trio.Nursery | None = None
        self._deliver: Deliver | None = None
        self._notices = trio.CapacityLimiter(_NOTICES)
        self._flights: dict[RequestId, Flight] = {}
        self._had_stream = False

    def work_in(self, nursery: trio.Nursery, deliver: Deliver) -> None:
        """Where to send notices from, and where to put what arrives. Whoever owns the nursery cancels it."""
        self._background = nursery
        self._deliver = deliver

    def verdict(self, exc: BaseException) -> BaseException:
        """What `exc`, as it came out of the SDK, is about."""
        found = decisive(exc)
        if self.ready or not isinstance(found, Exception):
            return found
        if self._dial.failure is not None:
            return self._dial.failure
        return self._dial_trouble or found

    def dial_failed(self, exc: BaseException) -> None:
        """Only cleaning up remains of the dial."""
        if not self.ready and not self._told and isinstance(verdict := self.verdict(exc), Exception):
            self._told = True
            self._link.failing(verdict)

    def expect_initialized(self) -> None:
        """The notice that ends the handshake was handed to the SDK."""
        self._initialized = trio.Event()

    async def wait_initialized(self) -> None:
        """Until the server has taken that notice. Raises what kept it from doing so."""
        if self._initialized is not None:
            await self._initialized.wait()
            if self._dial_trouble is not None:
                raise self._dial_trouble

    async def send(self, request: httpx2.Request, *args: Any, **kwargs: Any) -> httpx2.Response:
        """Send one request of the SDK's, or answer it in the server's stead."""
        try:
            return await self._send(request, kwargs)
        except Exception as exc:
            if not self.ready and (self._soft_answers or request.method == "POST"):
                self._dial_trouble = exc
                # The SDK comes to the same end, but by way of cancelling its tasks.
                self.dial_failed(exc)
            raise

    async def _send(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        carried = current_message.get()
        message = None if carried is None else carried.message
        if request.method == "DELETE":
            return await self._send_goodbye(request, kwargs)
        if request.method != "POST":
            return await self._send_listen(request, kwargs)
        if isinstance(message, JSONRPCRequest):
            flight = Flight(
                self._link, current_call.get() or Call(trio.CancelScope()), message.id, ready=lambda: self.ready
            )
            if self._soft_answers and self.ready:
                return self._send_later(flight, request)
            return await self._send_request(flight, request, kwargs)
        return await self._send_notice(request, message, kwargs)

    async def _plain(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        response = await super().send(request, **kwargs)
        self._heard()
        return response

    def _heard(self) -> None:
        self._link.heard()
        if self._link.phase == "connect":
            self._link.phase = "handshake"

    # Requests whose answer is the response.

    async def _send_request(self, flight: Flight, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        request.stream = FlightBody(request.stream, flight)
        self._flights[flight.request_id] = flight
        streaming = False
        try:
            with flight.scope:
                response = await self._plain(request, kwargs)
                flight.settle_written()
                try:
                    response = await self._judge(flight, request, response)
                except BaseException:
                    await self._discard(response)
                    raise
                streaming = isinstance(response.stream, AnswerStream)
                return response
            return error_answer(request, flight.request_id, ABANDONED)
        except CutOff:
            flight.settle_written()
            return error_answer(request, flight.request_id, "The call was cut off.")
        except Exception as exc:
            if not self.ready:
                flight.settle_written()
                raise
            self._broke(flight, exc)
            return error_answer(request, flight.request_id, "The request failed.")
        finally:
            if not streaming:
                self._land(flight)

    def _land(self, flight: Flight) -> None:
        flight.settle_written()
        if self._flights.get(flight.request_id) is flight:
            del self._flights[flight.request_id]
        if not self.ready and flight.trouble is not None:
            self._dial_trouble = flight.trouble

    def _broke(self, flight: Flight, exc: Exception) -> None:
        flight.settle_written()
        if self._has_auth and not flight.sent and not isinstance(exc, httpx2.TransportError):
            # Nothing else of a foreign make runs before the body.
            flight.fail_with(
                AuthenticationError(f"{self._link.server}: authentication failed", server=self._link.server), exc
            )
        else:
            flight.broke(f"the connection failed ({type(exc).__name__})", exc)
        logger.debug("%s: a request failed with %s", self._link.server, type(exc).__name__)

    async def _judge(self, flight: Flight, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """What the SDK gets to see of this response."""
        status = response.status_code
        if status >= 400:
            return await self._judge_refusal(flight, request, response)
        kind = content_type(response)
        if status < 300 and status != 202:
            if kind == "application/json":
                # Read here, where a connection that breaks costs no more than this request.
                await response.aread()
                return response
            if kind == "text/event-stream":
                return end_of_answer(response, self._answer_stream(flight, request, response))
        # The SDK follows some redirects, and then the flight begins anew; what else this is, it answers with an error.
        flight.fail_with(status_error(self._link.server, response))
        return response

    def _answer_stream(self, flight: Flight, request: httpx2.Request, response: httpx2.Response) -> AnswerStream:
        carried = current_message.get()
        metadata = None if carried is None else carried.metadata
        assert self._deliver is not None
        return AnswerStream(
            response,
            flight,
            self.limit,
            metadata=metadata if isinstance(metadata, ClientMessageMetadata) else None,
            deliver=self._deliver,
            resume=partial(self._resume, request),
            land=partial(self._land, flight),
        )

    async def _resume(self, request: httpx2.Request, last_id: str) -> httpx2.Response:
        """Take up the answer to `request` after the event with this id."""
        headers = {name: request.headers[name] for name in (SESSION_ID, PROTOCOL_VERSION) if name in request.headers}
        headers |= {"accept": "text/event-stream", LAST_EVENT_ID: last_id}
        response = await self._plain(self.build_request("GET", request.url, headers=headers), {"stream": True})
        if response.status_code == 200 and content_type(response) == "text/event-stream":
            return response
        await self._discard(response)
        if response.status_code == 404 and SESSION_ID in headers:
            self._session_lost()
        raise httpx2.RemoteProtocolError(f"HTTP {response.status_code}")

    async def _judge_refusal(
        self, flight: Flight, request: httpx2.Request, response: httpx2.Response
    ) -> httpx2.Response:
        said = await read_error(response)
        if self.ready and SESSION_ID in request.headers and is_session_loss(response.status_code, said):
            flight.refused()
            flight.fail_with(flight.failure("the server no longer knows the session"))
            self._session_lost()
        elif response.status_code == 401 or said is None or (response.status_code == 403 and not self.ready):
            flight.fail_with(status_error(self._link.server, response))
        else:
            return response
        if not self.ready:
            return response  # the SDK tells the eras apart by it
        await self._discard(response)
        return error_answer(request, flight.request_id, f"HTTP {response.status_code}")

    async def _discard(self, response: httpx2.Response) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await response.aclose()

    def _session_lost(self) -> None:
        self._link.lost(ConnectionResetError("the server no longer knows the session"))

    # Requests whose answer comes over another stream.

    def _send_later(self, flight: Flight, request: httpx2.Request) -> httpx2.Response:
        # Not awaited: the SDK sends one message after the other, and a slow one would hold up every caller.
        assert self._background is not None
        self._background.start_soon(self._post_in_background, flight, request)
        return accepted(request)

    async def _post_in_background(self, flight: Flight, request: httpx2.Request) -> None:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        request.stream = FlightBody(request.stream, flight)
        self._flights[flight.request_id] = flight
        try:
            with flight.scope:
                response = await self._plain(request, {})
                flight.settle_written()
                if response.status_code in (400, 404):
                    flight.refused()
                    flight.call.fail(flight.failure("the server no longer knows the session"))
                    self._session_lost()
                elif response.status_code >= 300:
                    flight.call.fail(status_error(self._link.server, response))
        except CutOff:
            pass
        except Exception as exc:
            self._broke(flight, exc)
            flight.call.fail(flight.failure("the connection failed"))
        finally:
            self._land(flight)

    # Notices, and answers to what the server asked.

    async def _send_notice(
        self, request: httpx2.Request, message: JSONRPCMessage | None, kwargs: dict[str, Any]
    ) -> httpx2.Response:
        timeout = math.inf
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            timeout = _NOTICE_TIMEOUT
            flight = self._flights.get((message.params or {}).get("requestId", ""))
            if flight is not None:
                flight.abandon()
                if not flight.sent:
                    return accepted(request)  # the server has not heard of the request
        elif not self.ready:
            try:
                return await self._plain(request, kwargs)
            finally:
                if self._initialized is not None:
                    self._initialized.set()
        assert self._background is not None
        self._background.start_soon(self._post_notice, request, timeout)
        return accepted(request)

    async def _post_notice(self, request: httpx2.Request, timeout: float) -> None:
        try:
            with trio.move_on_after(timeout) as scope:
                if timeout < math.inf:
                    async with self._notices:
                        response = await self._plain(request, {})
                else:
                    response = await self._plain(request, {})
                if response.status_code == 404 and SESSION_ID in request.headers:
                    self._session_lost()
                elif response.status_code >= 300:
                    logger.debug("%s: a notice was answered with HTTP %d", self._link.server, response.status_code)
            if scope.cancelled_caught:
                logger.debug("%s: a notice took longer than %g s", self._link.server, timeout)
        except Exception as exc:
            logger.debug("%s: a notice failed with %s", self._link.server, type(exc).__name__)

    # Streams held open, and the end.

    async def _send_listen(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        response = await self._plain(request, kwargs)
        if response.status_code >= 400:
            if not self.ready:
                self._refused_dial(response)
            elif response.status_code == 404 and SESSION_ID in request.headers and self._had_stream:
                # Without a stream before, it may as well be a server that has no streams.
                self._session_lost()
            return response
        self._had_stream = True
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = HeardStream(response.stream, self._link)
        return response

    def _refused_dial(self, response: httpx2.Response) -> None:
        if self._soft_answers and self._dial.failure is None:
            self._dial.failure = status_error(self._link.server, response)

    async def _send_goodbye(self, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        link = self._link
        patience = min(_GOODBYE_TIMEOUT, link.close_timeout / 2, link.close_by - trio.current_time())
        if link.is_lost or patience <= 0:
            return nothing_to_delete(request)
        with trio.move_on_after(patience):
            try:
                return await super().send(request, **kwargs)
            except Exception as exc:
                logger.debug("%s: the session could not be ended: %s", link.server, type(exc).__name__)
                return nothing_to_delete(request)
        logger.debug("%s: the server did not end the session within %g s", link.server, patience)
        return nothing_to_delete(request)
