"""Which proxy a connection goes through, if any.

As `urllib` has it: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` from the environment. A server on this very
machine is never reached through a proxy from the environment, whatever `no_proxy` says: a proxy elsewhere would look
for it on its own loopback.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ._address import Origin
from ._failures import ConnectFailed


@final
@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """An HTTP proxy."""

    origin: Origin
    authorization: bytes | None
    """The value of `Proxy-Authorization`."""

    def __repr__(self) -> str:
        return f"<Proxy {self.origin}>"


def proxy_for(origin: Origin, given: str | None) -> Proxy | None:
    """The proxy to reach `origin` through: the one given, else the environment's.

    Raises `ConnectFailed` for a kind of proxy that this wire does not speak to.
    """
    if given is not None:
        return _parse(given, "proxy=")
    if origin.is_loopback:
        return None
    proxies = getproxies()
    url = proxies.get(origin.scheme) or proxies.get("all")
    if not url or proxy_bypass(origin.authority) or proxy_bypass(origin.host):
        return None
    return _parse(url if "://" in url else f"http://{url}", "the environment")


def _parse(url: str, where: str) -> Proxy:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = None
    if parts is None or not host:
        raise ConnectFailed(f"the proxy from {where} is no URL with a host")
    if parts.scheme != "http":
        raise ConnectFailed(
            f"the proxy from {where} is of the kind {parts.scheme!r}, which this wire does not speak; "
            'use an http:// proxy, or HttpServer(..., wire="sdk")'
        )
    authorization = None
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return Proxy(Origin("http", host, port or 80), authorization)
