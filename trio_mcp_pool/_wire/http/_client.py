"""The HTTP client of one session: headers, credentials, redirects, on connections to as many origins as it takes.

A redirect is followed only within its origin and only where method and body stay the same, so that neither credentials
nor a tool's arguments go where nobody meant them to.
"""

from __future__ import annotations

from typing import Final, final
from urllib.parse import urljoin

import httpx2
import trio

from .._link import Link
from ._address import Address, Origin, parse_address
from ._auth import AuthFlow
from ._connection import Head, RawHeaders
from ._connections import Connections
from ._credentials import Credentials
from ._decoding import ACCEPT_ENCODING
from ._dialling import Dialler
from ._exchange import Exchange, Sending, exchange
from ._failures import BadResponse
from ._secrets import WatchedAuth

_REDIRECTS: Final = 5
_REFUSALS: Final = 3
"""How many times one request is sent with newer credentials."""
_OWN: Final = frozenset(
    {
        "accept", "connection", "content-length", "content-type", "last-event-id", "mcp-method", "mcp-name",
        "mcp-protocol-version", "mcp-session-id", "transfer-encoding",
    }
)  # fmt: skip
"""Headers that the wire sets itself, whatever the user's say."""


@final
class HttpClient:
    """Sends requests to one server, and to whomever its authentication needs."""

    def __init__(
        self,
        link: Link,
        address: Address,
        dialler: Dialler,
        credentials: Credentials,
        auth: httpx2.Auth | None,
        *,
        max_connections: int,
        max_message: int,
        basic: bytes | None,
    ) -> None:
        self.link: Final = link
        self.address: Final = address
        self._dialler = dialler
        self._credentials = credentials
        self._max = max_connections
        self._basic = basic
        self._pools: dict[Origin, Connections] = {}
        self._nursery: trio.Nursery | None = None
        self._flow = (
            None
            if auth is None
            else AuthFlow(WatchedAuth(auth, link), self._send_once, self._fetch, max_message=max_message)
        )
        self._common: RawHeaders = []
        self._common_number = -1
        self._names: frozenset[bytes] = frozenset()

    # Life.

    def start(self, nursery: trio.Nursery) -> None:
        """From now on close idle connections in time, in tasks of this nursery, whose owner cancels them."""
        self._nursery = nursery
        for pool in self._pools.values():
            nursery.start_soon(pool.reap)

    def close(self) -> None:
        """Close every connection at once. Synchronous, idempotent."""
        for pool in self._pools.values():
            pool.close()

    def connections(self, origin: Origin) -> Connections:
        """The connections to this origin."""
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Connections(origin, self._dialler, max_connections=self._max)
            if self._nursery is not None:
                self._nursery.start_soon(pool.reap)
        return pool

    # Sending.

    async def send(
        self,
        method: bytes,
        address: Address,
        headers: RawHeaders,
        body: bytes = b"",
        *,
        sending: Sending | None = None,
        standing: bool = False,
    ) -> Exchange:
        """Send a request with the server's credentials; gives its response, which may be of any status.

        Raises `HttpFailure`, `AuthenticationFailed`, and what the user's `headers` function raises.
        """
        for attempt in range(_REFUSALS):
            number = self._credentials.number
            message = self._frame(headers, body)
            if self._flow is None:
                response = await self._send_once(method, address, message, body, sending, standing)
            else:
                response = await self._flow.send(method, address, message, body, sending, standing)
            if response.status != 401 or attempt == _REFUSALS - 1:
                return response
            if sending is not None:
                sending.refused()
            try:
                renewed = await self._credentials.renew(number)
            except BaseException:
                response.abort()
                raise
            if not renewed:
                return response
            await response.discard()
        raise AssertionError("unreachable")

    def _frame(self, headers: RawHeaders, body: bytes) -> RawHeaders:
        """All headers of a request: the common ones, then its own, which win."""
        if self._common_number != self._credentials.number:
            self._renew_common()
        common = self._common
        if not self._names.isdisjoint([name for name, _ in headers]):
            own = {name for name, _ in headers}
            common = [pair for pair in common if pair[0].lower() not in own]
        if body:
            return [*common, *headers, (b"content-length", b"%d" % len(body))]
        return [*common, *headers]

    def _renew_common(self) -> None:
        common: RawHeaders = []
        given = {name.lower(): (name, value) for name, value in self._credentials.headers.items()}
        if "host" not in given:
            common.append((b"host", self.address.host_header))
        if "user-agent" not in given:
            common.append((b"user-agent", b"trio-mcp-pool"))
        if "accept-encoding" not in given:
            common.append((b"accept-encoding", ACCEPT_ENCODING))
        if self._basic is not None and "authorization" not in given:
            common.append((b"authorization", self._basic))
        for lower, (name, value) in given.items():
            if lower not in _OWN:
                common.append((name.encode("ascii"), value.encode("latin-1")))
        self._common = common
        self._common_number = self._credentials.number
        self._names = frozenset(name.lower() for name, _ in common)

    async def _send_once(
        self,
        method: bytes,
        address: Address,
        headers: RawHeaders,
        body: bytes,
        sending: Sending | None,
        standing: bool,
    ) -> Exchange:
        """Send a request as it is, and again wherever its server redirects it to within its origin."""
        pool = self.connections(address.origin)
        proxy = pool.proxy
        for _ in range(_REDIRECTS + 1):
            target = address.target
            sent = headers
            if proxy is not None and address.origin.scheme == "http":
                # A plain proxy is told the whole address.
                target = str(address.origin).encode("ascii") + target
                if proxy.authorization is not None:
                    sent = [*headers, (b"proxy-authorization", proxy.authorization)]
            response = await exchange(
                pool,
                method,
                target,
                sent,
                body,
                sending=sending,
                write_timeout=self.link.write_timeout,
                standing=standing,
            )
            self.link.heard()
            if self.link.phase == "connect":
                self.link.phase = "handshake"
            if not 300 <= response.status < 400:
                return response
            location = redirect_within_origin(method, address, response)
            if location is None:
                return response
            await response.discard()
            address = location
        raise BadResponse(f"{address.shown} redirects in a circle")

    async def _fetch(self, request: httpx2.Request) -> Exchange:
        """Send a request of the authentication's own: as it is, to wherever it says."""
        address = parse_address(request.url)
        body = await request.aread()
        return await exchange(
            self.connections(address.origin),
            request.method.encode("ascii"),
            address.target,
            list(request.headers.raw),
            body,
            write_timeout=self.link.write_timeout,
        )


def redirect_target(address: Address, head: Head) -> Address | None:
    """Where a response redirects to, or `None` where it does not, or where that cannot be read."""
    location = head.get(b"location")
    if not location or head.status not in (301, 302, 303, 307, 308):
        return None
    base = str(address.origin) + address.target.decode("ascii", "replace")
    try:
        return parse_address(urljoin(base, location))
    except ValueError:
        return None


def redirect_within_origin(method: bytes, address: Address, response: Exchange) -> Address | None:
    """Where a redirect is followed to: within the origin, with the method and the body that were sent."""
    location = redirect_target(address, response.head)
    if location is None or location.origin != address.origin or location.userinfo:
        return None
    if response.status not in (307, 308) and method != b"GET":
        return None
    return location
