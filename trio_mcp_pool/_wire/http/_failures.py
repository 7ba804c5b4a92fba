"""What can go wrong below a JSON-RPC message, in words that hold no secret (R16).

The errors of the libraries below quote what they stumbled over, which may be a header or a URL. So nothing of theirs is
chained to these, and the text is written here.
"""

from __future__ import annotations

import re
from typing import final


class HttpFailure(ConnectionError):
    """An HTTP exchange failed. The text names the address, not the query, and quotes nothing that was sent."""


@final
class ConnectFailed(HttpFailure):
    """No connection could be made: nothing was sent."""


@final
class ConnectionBroke(HttpFailure):
    """The connection ended or failed in the middle of an exchange."""


@final
class BadResponse(HttpFailure):
    """What came is no HTTP response, or one that this client refuses."""


@final
class CertificateRefused(HttpFailure):
    """The server refused this client's certificate. Under TLS 1.3 that shows only when its first answer is read."""


@final
class BodyTooLarge(Exception):
    """The body of a response exceeds the limit, after decompression."""


_KNOWN = (
    (re.compile("Only Transfer-Encoding: chunked"), "it uses a transfer coding other than chunked"),
    (re.compile("multiple Transfer-Encoding"), "it has several Transfer-Encoding headers"),
    (
        re.compile("illegal status line|illegal request line|no response line"),
        "it does not begin with an HTTP/1.1 status line",
    ),
    (re.compile("SWITCH"), "the server wants to change to another protocol, which nobody asked for"),
    (re.compile("Receive buffer too long"), "its headers are longer than 64 KiB"),
    (re.compile("chunk"), "its chunks are malformed"),
    (re.compile("Content-Length"), "its Content-Length is malformed"),
    (re.compile("header"), "a header line of it is malformed"),
    (re.compile("complete message body|unexpectedly closed"), "the connection closed in the middle of it"),
)


def refusal(error: Exception) -> str:
    """What the HTTP parser refused, by its message, without what the message quotes."""
    text = str(error)
    return next((words for pattern, words in _KNOWN if pattern.search(text)), "it breaks the rules of HTTP/1.1")
