"""Answers that stand in for the server's, and what an HTTP status means.

The SDK is kept going by answers: a request whose connection broke is answered with a JSON-RPC error, a notice that is
still on its way with 202. The error that the caller gets is another one; it waits on the call, see `_link.py`.
"""

from __future__ import annotations

import email.utils
import json
import time

import httpx2
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    JSONRPCError,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from .._errors import AuthenticationError, HttpStatusError, PoolError

SESSION_ID = "mcp-session-id"
PROTOCOL_VERSION = "mcp-protocol-version"
LAST_EVENT_ID = "last-event-id"

DONE = "notifications/trio_mcp_pool/done"
"""A notice that never leaves the wire: the answer was delivered already."""
DONE_BODY = json.dumps({"jsonrpc": "2.0", "method": DONE}).encode()

# The SDK's code for a connection that closed.
_CLOSED = -32000

# A server that says one of these has read the request, so it knows the session.
_NOT_THE_SESSION = frozenset(
    {HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_PROTOCOL_VERSION}
)

_LONGEST_ERROR_BODY = 1024 * 1024


def accepted(request: httpx2.Request) -> httpx2.Response:
    """What a server says to a notice."""
    return httpx2.Response(202, request=request)


def nothing_to_delete(request: httpx2.Request) -> httpx2.Response:
    """What a server says that has no sessions to delete. The SDK passes over it in silence."""
    return httpx2.Response(405, request=request)


def error_body(request_id: RequestId, message: str) -> bytes:
    """A JSON-RPC error as the answer to one request."""
    error = {"code": _CLOSED, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()


def error_answer(request: httpx2.Request, request_id: RequestId, message: str) -> httpx2.Response:
    """The response that holds `error_body`."""
    return httpx2.Response(
        200,
        headers={"content-type": "application/json"},
        content=error_body(request_id, message),
        request=request,
    )


def end_of_answer(answer: httpx2.Response, stream: httpx2.AsyncByteStream) -> httpx2.Response:
    """What the SDK sees of an answer that `stream` delivers past it: the headers, and a body that is one `DONE`."""
    headers = [(name, value) for name, value in answer.headers.multi_items() if not name.startswith("content-")]
    headers.append(("content-type", "application/json"))
    return httpx2.Response(answer.status_code, headers=headers, stream=stream, request=answer.request)


def content_type(response: httpx2.Response) -> str:
    """The media type, without its parameters."""
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower()


async def read_error(response: httpx2.Response) -> JSONRPCError | None:
    """The JSON-RPC error in the body of a response that is none of the 2xx, if there is one. Reads the body."""
    if content_type(response) != "application/json":
        return None
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > _LONGEST_ERROR_BODY:
        return None
    try:
        message = jsonrpc_message_adapter.validate_json(await response.aread(), by_name=False)
    except (httpx2.TransportError, httpx2.DecodingError, ValidationError):
        return None
    return message if isinstance(message, JSONRPCError) else None


def is_session_loss(status: int, said: JSONRPCError | None) -> bool:
    """Whether this answer to a request that named its session means that the server no longer knows the session.

    Servers say it in many ways, some with the code of a timeout, so the status decides. Only an error that is plainly
    about the request itself is taken as that.
    """
    return status in (400, 404) and (said is None or said.error.code not in _NOT_THE_SESSION)


def retry_after(response: httpx2.Response) -> float | None:
    """The seconds that the `Retry-After` header asks for, which may be given as a number or as a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, when.timestamp() - time.time())


def status_error(server: str, response: httpx2.Response) -> PoolError:
    """The error for an HTTP status with no JSON-RPC message beside it."""
    status = response.status_code
    if status in (401, 403):
        return AuthenticationError(
            f"{server}: refused for want of valid credentials (HTTP {status})",
            server=server,
            status=status,
            retry_after=retry_after(response) or 0.0,
        )
    return HttpStatusError(
        f"{server}: answered with HTTP {status} and no MCP message",
        server=server,
        status=status,
        retry_after=retry_after(response),
    )
