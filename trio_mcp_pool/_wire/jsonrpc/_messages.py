"""What a JSON-RPC message is: how one is encoded, and what the parts of one that arrived mean.

Ids are compared as the SDK compares them: `"7"` and `7` are one id, because some servers echo the one for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mcp
import outcome
from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, ProgressToken, RequestId
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from ..._errors import InvalidResultError
from ._long import Cut


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as JSON without any newline. Raises `ValueError` for what JSON cannot say."""
    return to_json(message, inf_nan_mode="null")


def decode(data: bytes | bytearray | str, cut: Cut | None = None) -> Any:
    """What a message's JSON says, read through `cut` if its long strings were cut out. Raises `ValueError` where it is none."""
    return from_json(data) if cut is None else cut.put_back(from_json(cut.rest))


def as_request_id(value: object) -> RequestId | None:
    """A value from the wire as a request id, or `None` where it is none.

    `True` would pass for the id 1. Some servers keep all numbers as floats and answer 1 with `1.0`.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def coerce_request_id(request_id: RequestId) -> RequestId:
    """The key under which an id is looked up: the number, for a number that came as a string."""
    if isinstance(request_id, str):
        try:
            return int(request_id)
        except ValueError:
            pass
    return request_id


def progress_token(params: Mapping[str, Any] | None) -> ProgressToken | None:
    """The progress token that a request brings along."""
    meta = params.get("_meta") if params else None
    return as_request_id(meta.get("progressToken")) if isinstance(meta, Mapping) else None


def read_answer(message: Mapping[str, Any], server: str) -> outcome.Outcome[dict[str, Any]]:
    """What a response of `server` says: a result, the server's error, or, where it says neither in a proper way,
    `InvalidResultError`."""
    result = message.get("result")
    if type(result) is dict:
        return outcome.Value(result)
    error = message.get("error")
    if type(error) is dict and type(error.get("code")) is int and type(error.get("message")) is str:
        return outcome.Error(mcp.MCPError(error["code"], error["message"], error.get("data")))
    return outcome.Error(
        invalid_answer(
            server, "with neither a result object nor a proper error", result if result is not None else error
        )
    )


def invalid_answer(server: str, how: str, result: Any = None) -> InvalidResultError:
    """What the caller gets whose answer is none by the protocol."""
    return InvalidResultError(f"server {server!r} sent an answer {how}", server=server, result=result)


def connection_closed() -> mcp.MCPError:
    """What a caller gets whose answer can come no more, as the SDK says it."""
    return mcp.MCPError(code=CONNECTION_CLOSED, message="Connection closed")


def error_of_handler(exc: Exception) -> tuple[int, str, Any] | None:
    """Code, message and data that the server is told for what a handler raised; `None` where the text is the user's own
    and not for the server."""
    if isinstance(exc, mcp.MCPError):
        return exc.code, exc.message, exc.data
    if isinstance(exc, ValidationError):
        return INVALID_PARAMS, "Invalid request parameters", ""
    return None
