"""What an HTTP status means for the call that got it (R11, R18)."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Final

from ..._errors import AuthenticationError, HttpStatusError, PoolError
from .._link import Link
from ._address import Address
from ._client import redirect_target
from ._connection import Head
from ._exchange import REFUSED

OUTAGE: Final = frozenset({429, 502, 503, 504})
"""Statuses that say nothing about what the server speaks, only that it does not at the moment."""
ODD: Final = frozenset({400, 401, 403, 410})
"""Statuses, beside 5xx, that servers give to a session which they have forgotten, and to much else."""

_OTHER: Final[Mapping[str, str]] = {"streamable-http": "sse", "sse": "streamable-http"}
_SHOWN: Final = 200


def is_odd(status: int) -> bool:
    """Whether it leaves open if the session still lives, so that it is followed by a probe (R11)."""
    return status in ODD or status >= 500


def retry_after(head: Head) -> float | None:
    """The seconds that the `Retry-After` header asks for, which may be given as a number or as a date."""
    value = head.get(b"retry-after").strip()
    if value.isdecimal() and value.isascii():
        return float(value) if len(value) < 10 else None
    try:
        when = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return max(0.0, when - time.time())


def status_error(
    link: Link, address: Address, head: Head, *, transport: str, dialling: bool, written_before: bool
) -> PoolError:
    """The error for a response with no JSON-RPC message in it.

    `written_before`: an earlier request of the same call was sent, so that this one's refusal does not settle the call.
    """
    status = head.status
    # A call of several rounds may have run, whatever becomes of the last one.
    known: dict[str, object] = {"server": link.server}
    if written_before:
        known["outcome"] = "unknown"
    if status in (401, 403):
        return AuthenticationError(
            f"server {link.server!r}: {address.shown} answered {status}: {_wanted(link, head)}",
            status=status,
            retry_after=retry_after(head) or 0.0,
            **known,  # type: ignore[arg-type]
        )
    return HttpStatusError(
        f"server {link.server!r}: {address.shown} answered {status}{_content(head)}"
        f"{_advice(address, head, transport, dialling)}",
        status=status,
        retry_after=retry_after(head),
        **known,  # type: ignore[arg-type]
    )


def ran_not(status: int) -> bool:
    """Whether the status says that the request did not run."""
    return status in REFUSED


def _wanted(link: Link, head: Head) -> str:
    asked = link.mask(head.get(b"www-authenticate"))[:_SHOWN]
    if head.status == 403:
        text = "it refuses the credentials that it was given, or this request with them"
    else:
        text = "it wants credentials, which HttpServer takes as headers= or auth="
    return f"{text}; it asks for: {asked}" if asked else text


def _content(head: Head) -> str:
    kind = head.media_type.decode("latin-1")[:64]
    return f" with {kind}" if kind else " and no MCP message"


def _advice(address: Address, head: Head, transport: str, dialling: bool) -> str:
    """What is usually wrong then."""
    status = head.status
    if 300 <= status < 400:
        location = redirect_target(address, head)
        if location is None:
            return ""
        return f", a redirect to {location.shown}, which is not followed; if that is the server, use its URL"
    if not dialling:
        return ""
    if status == 405 or (transport == "sse" and status in (400, 406)):
        return f"; does it speak the other transport? Try transport={_OTHER[transport]!r}"
    if status == 404 or (status < 300 and head.media_type == b"text/html"):
        return f"; is the path {'/sse' if transport == 'sse' else '/mcp'}?"
    if transport == "sse" and status < 300:
        return f"; does it speak the other transport? Try transport={_OTHER[transport]!r}"
    return ""
