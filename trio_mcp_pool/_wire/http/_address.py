"""Where a request goes: the parts of a URL that HTTP needs, and the part of it that may be shown (R16)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import final

import httpx2

_PORTS = {"http": 80, "https": 443}


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what connections are made to and kept for."""

    scheme: str
    host: str
    """Without brackets, as it is resolved."""
    port: int

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine by its very name or address."""
        name = self.host.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name.partition("%")[0]).is_loopback
        except ValueError:
            return False

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, so that there is nothing to resolve and nothing to choose between."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True


@final
@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A URL, taken apart."""

    origin: Origin
    target: bytes
    """Path and query, as the request line has them."""
    host_header: bytes
    userinfo: bytes
    url: httpx2.URL
    """The URL as an object of the HTTP library, without user name and password."""
    shown: str
    """The URL without user name, password, query and fragment."""

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"


def parse_address(url: httpx2.URL | str) -> Address:
    """Take a URL apart. Raises `ValueError`, which quotes nothing of it."""
    try:
        parsed = httpx2.URL(url)
    except Exception:
        raise ValueError("not a URL that can be read") from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise ValueError("not an http:// or https:// URL with a host")
    host = parsed.raw_host.decode("ascii")
    origin = Origin(parsed.scheme, host, parsed.port or _PORTS[parsed.scheme])
    # The host as the URL spells it, with brackets, and the port only where it is not the scheme's own.
    path = parsed.raw_path.partition(b"?")[0].decode("ascii", "replace")
    shown = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}{path}"
    bare = parsed.copy_with(userinfo=b"", fragment=None) if parsed.userinfo or parsed.fragment else parsed
    return Address(origin, parsed.raw_path, parsed.netloc, parsed.userinfo, bare, shown)
