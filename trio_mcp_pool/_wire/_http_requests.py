"""JSON-RPC requests over HTTP: what one of them runs into stays with it.

To the SDK a request is a task in one group, and an error in it ends the session. So once the handshake is done, no error
reaches the SDK: it gets a JSON-RPC error as the answer, and the error for the caller waits on the call.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, final

import httpx2
import trio
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import RequestId, jsonrpc_message_adapter

from .._errors import AuthenticationError
from ._http_answers import (
    LAST_EVENT_ID,
    PROTOCOL_VERSION,
    SESSION_ID,
    accepted,
    content_type,
    end_of_answer,
    error_answer,
    error_body,
    is_session_loss,
    read_error,
    status_error,
)
from ._http_events import AnswerStream
from ._http_flight import ABANDONED, CutOff, Flight, FlightBody, current_message
from ._link import Call

if TYPE_CHECKING:
    from ._http_client import WireClient

logger = logging.getLogger("trio_mcp_pool.http")


@final
class RequestSender:
    """Sends requests and judges what comes back."""

    def __init__(self, http: WireClient) -> None:
        self._http = http
        self._flights: dict[RequestId, Flight] = {}

    async def send(self, request: httpx2.Request, request_id: RequestId, kwargs: dict[str, Any]) -> httpx2.Response:
        """Send one, and give the SDK something that it can go on with."""
        http = self._http
        if not http.ready:
            http.dial_trouble = None
        flight = Flight(
            http.link,
            http.link.current_call() or Call(trio.CancelScope(), http.link),
            request_id,
            dialling=not http.ready,
        )
        request.stream = FlightBody(request, flight)
        self._flights[request_id] = flight
        if http.over_stream:
            # Not awaited: here the SDK sends one message after the other, and a slow one would hold up every caller.
            http.background.start_soon(self._post_over_stream, flight, request)
            return accepted(request)
        return await self._post(flight, request, kwargs)

    def abandon(self, request_id: Any) -> bool:
        """Nobody waits for that answer any more; whether the server need be told."""
        flight = self._flights.get(request_id) if isinstance(request_id, str | int) else None
        if flight is None:
            return True
        flight.abandon()
        return flight.sent

    def _land(self, flight: Flight) -> None:
        flight.settle_written()
        if self._flights.get(flight.request_id) is flight:
            del self._flights[flight.request_id]
        if not self._http.ready and flight.trouble is not None:
            self._http.dial_trouble = flight.trouble

    def _broke(self, flight: Flight, exc: Exception) -> None:
        server = self._http.link.server
        flight.settle_written()
        if self._http.has_auth and not isinstance(exc, httpx2.HTTPError):
            # Nothing else of a foreign make runs in there.
            flight.refused()
            flight.fail_with(AuthenticationError(f"{server}: authentication failed", server=server), exc)
            flight.trouble = exc
        else:
            flight.broke(f"the connection failed ({type(exc).__name__})", exc)
        logger.debug("%s: a request failed with %s", server, type(exc).__name__)

    # Streamable HTTP: the answer is the response.

    async def _post(self, flight: Flight, request: httpx2.Request, kwargs: dict[str, Any]) -> httpx2.Response:
        reading = False
        try:
            with flight.scope:
                response = await self._http.plain(request, kwargs)
                flight.settle_written()
                try:
                    response = await self._judge(flight, request, response)
                except BaseException:
                    await self._http.discard(response)
                    raise
                reading = isinstance(response.stream, AnswerStream)
                return response
            return error_answer(request, flight.request_id, ABANDONED)
        except CutOff:
            return error_answer(request, flight.request_id, "The call was cut off.")
        except Exception as exc:
            if not self._http.ready:
                raise
            self._broke(flight, exc)
            return error_answer(request, flight.request_id, "The request failed.")
        finally:
            if not reading:
                self._land(flight)

    async def _judge(self, flight: Flight, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """What the SDK gets to see of this response."""
        status = response.status_code
        if status >= 400:
            return await self._judge_refusal(flight, request, response)
        if status < 300 and status != 202:
            kind = content_type(response)
            if kind == "application/json":
                # Read here, where a connection that breaks costs no more than this request.
                await response.aread()
                return response
            if kind == "text/event-stream":
                return end_of_answer(response, self._answer_stream(flight, request, response))
        # The SDK follows some redirects, and then the flight begins anew; what else this is, it answers with an error.
        flight.fail_with(status_error(self._http.link.server, response))
        return response

    async def _judge_refusal(
        self, flight: Flight, request: httpx2.Request, response: httpx2.Response
    ) -> httpx2.Response:
        http = self._http
        said = await read_error(response)
        if http.ready and SESSION_ID in request.headers and is_session_loss(response.status_code, said):
            self._session_lost(flight)
        elif response.status_code == 401 or said is None or (response.status_code == 403 and not http.ready):
            flight.fail_with(status_error(http.link.server, response))
        else:
            return response
        if not http.ready:
            return response  # the SDK tells the eras apart by it
        await http.discard(response)
        return error_answer(request, flight.request_id, f"HTTP {response.status_code}")

    def _session_lost(self, flight: Flight) -> None:
        flight.refused()
        flight.fail_with(flight.failure("the server no longer knows the session"))
        self._http.session_lost()

    def _answer_stream(self, flight: Flight, request: httpx2.Request, response: httpx2.Response) -> AnswerStream:
        carried = current_message.get()
        metadata = None if carried is None else carried.metadata
        return AnswerStream(
            response,
            flight,
            self._http.limit,
            metadata=metadata if isinstance(metadata, ClientMessageMetadata) else None,
            deliver=self._http.deliver,
            resume=partial(self._resume, request),
            land=partial(self._land, flight),
        )

    async def _resume(self, request: httpx2.Request, last_id: str) -> httpx2.Response:
        """Take up the answer to `request` after the event with this id."""
        http = self._http
        headers = {name: request.headers[name] for name in (SESSION_ID, PROTOCOL_VERSION) if name in request.headers}
        headers |= {"accept": "text/event-stream", LAST_EVENT_ID: last_id}
        response = await http.plain(http.build_request("GET", request.url, headers=headers), {"stream": True})
        if response.status_code == 200 and content_type(response) == "text/event-stream":
            return response
        await http.discard(response)
        if response.status_code == 404 and SESSION_ID in headers and http.ready:
            http.session_lost()
        raise httpx2.RemoteProtocolError(f"HTTP {response.status_code}")

    # SSE: the response says only that the request was taken.

    async def _post_over_stream(self, flight: Flight, request: httpx2.Request) -> None:
        http = self._http
        taken = False
        try:
            with flight.scope:
                response = await http.plain(request, {})
                flight.settle_written()
                if response.status_code in (400, 404) and http.ready:
                    # Some servers say 400 to a session that they do not know, and would to every request from here on.
                    self._session_lost(flight)
                elif response.status_code >= 300:
                    flight.fail_with(status_error(http.link.server, response))
                else:
                    taken = True
        except CutOff:
            pass
        except Exception as exc:
            self._broke(flight, exc)
        finally:
            self._land(flight)
        if not taken:
            # The answer that will not come over the stream.
            answer = error_body(flight.request_id, "The request failed.")
            await http.deliver(SessionMessage(jsonrpc_message_adapter.validate_json(answer, by_name=False)))
