"""What can stand in an HTTP request: the checks of headers and URLs.

The HTTP library would find out too, but only when it sends, and its errors quote what it stumbled over: half a password, or
a token with the newline that came with it from a file. So each part is refused here by its name, and never shown (R16).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token, RFC 9110, section 5.6.2."""


def check_headers(field: str, headers: Mapping[str, str]) -> None:
    """Raise `ValueError` for a header that HTTP cannot carry. Its value, and a name that is none, are not shown."""
    for position, (name, value) in enumerate(headers.items(), 1):
        if _NAME.fullmatch(name) is None:
            # A whole header in one string, with its credentials, is a likely way to get here.
            raise ValueError(
                f"{field}: name number {position} is not the name of a header; write the name and its value as two strings, "
                "such as {'Authorization': 'Bearer ...'}"
            )
        if value != value.strip():
            raise ValueError(
                f"{field}[{name!r}] must not begin or end with white space or a newline; use .strip() where it is read, "
                "such as from a file"
            )
        if any(character != "\t" and not character.isprintable() and character.isascii() for character in value):
            raise ValueError(f"{field}[{name!r}] must not contain a newline or another control character")
        if not value.isascii():
            raise ValueError(f"{field}[{name!r}] must be ASCII; percent-encode or base64-encode other characters")


def check_url(field: str, url: object, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of an absolute URL. Raises `TypeError` or `ValueError` without showing more than its scheme."""
    if not isinstance(url, str):
        raise TypeError(f"{field} must be a str, not {type(url).__name__}")
    if any(character.isspace() or not character.isprintable() for character in url):
        # `urlsplit` drops some of them in silence, the HTTP library does not.
        raise ValueError(f"{field} must not contain white space, a newline or another control character")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (read lazily, and so would fail much later)
    except ValueError:
        # What it says quotes the part that it stumbled over, which may be half a password.
        raise ValueError(f"{field} is not a URL: its host or its port cannot be read") from None
    if parts.scheme not in schemes or not parts.hostname:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        # The URL itself may hold credentials, so only its scheme is shown.
        raise ValueError(f"{field} must be an {wanted} URL with a host; its scheme is {parts.scheme!r}")
    return parts
