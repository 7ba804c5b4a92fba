"""Making a connection: TCP, a proxy's tunnel, TLS.

An IP address needs no happy eyeballs, which cost more than the rest of a dial on loopback. Whatever fails is said in
one sentence that names the address and what the other side did.
"""

from __future__ import annotations

import os
import socket
import ssl
from functools import lru_cache
from typing import final

import h11
import httpx2
import trio

from ._address import Origin
from ._failures import ConnectFailed, refusal
from ._proxies import Proxy, proxy_for
from ._tcp import TcpStream

_LONGEST_TUNNEL_ANSWER = 65536
_PLAIN = "the other side answered in plain HTTP; is it an http:// address?"
_NO_TLS = frozenset({"wrong version number", "packet length too long", "record layer failure"})
"""What TLS libraries say of an answer that is no TLS."""


@final
class Dialler:
    """How connections of one server are made."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None, proxy: str | None, timeout: float) -> None:
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._timeout = timeout

    def proxy(self, origin: Origin) -> Proxy | None:
        """The proxy that connections to this origin go through."""
        return proxy_for(origin, self._proxy)

    async def connect(self, origin: Origin, proxy: Proxy | None) -> tuple[TcpStream, trio.SSLStream[TcpStream] | None]:
        """Connect. Raises `ConnectFailed`. Gives the TCP connection, and TLS on it for https."""
        with trio.move_on_after(self._timeout):
            tcp = await _connect_tcp(proxy.origin if proxy is not None else origin, proxy is not None)
            try:
                if origin.scheme != "https":
                    return tcp, None
                if proxy is not None:
                    await _open_tunnel(tcp, origin, proxy)
                return tcp, await self._start_tls(tcp, origin)
            except BaseException:
                tcp.close()
                raise
        raise ConnectFailed(f"{origin} could not be reached within {self._timeout:g} s")

    async def _start_tls(self, tcp: TcpStream, origin: Origin) -> trio.SSLStream[TcpStream]:
        context = self._ssl_context or await _load_default_context()
        tcp.first_bytes = b""
        tls = trio.SSLStream(tcp, context, server_hostname=origin.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as exc:
            plain = tcp.first_bytes.startswith(b"HTTP/")
            raise ConnectFailed(f"{origin}: TLS failed: {_PLAIN if plain else tls_trouble(exc.__cause__)}") from None
        return tls


async def _load_default_context() -> ssl.SSLContext:
    """The context that `httpx2` would use. To load the authorities takes tens of milliseconds: in a thread, and once
    for each setting of what it reads from the environment."""
    settings = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    return await trio.to_thread.run_sync(_default_context, settings)


@lru_cache(maxsize=4)
def _default_context(_settings: tuple[str | None, ...]) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_trouble(cause: BaseException | None) -> str:
    """Why the handshake failed, by what the TLS library raised."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate was not accepted ({cause.verify_message}); a private authority is given as ssl_context="
        )
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return tls_reason(cause)
    return "the other side closed the connection in the handshake"


def is_certificate_refusal(error: ssl.SSLError) -> bool:
    """Whether the other side has refused this side's certificate, or its lack of one."""
    reason = error.reason or ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def tls_reason(error: ssl.SSLError) -> str:
    """What a TLS library said, in its own word for it."""
    reason = (error.reason or "protocol error").replace("_", " ").lower()
    if reason.endswith("alert handshake failure"):
        return f"the server refused the handshake ({reason}); does it want a client certificate, by ssl_context?"
    if reason in _NO_TLS:
        return f"the other side does not speak TLS ({reason}); is it an http:// address?"
    if is_certificate_refusal(error):
        return f"the server refused this client's certificate ({reason}); does ssl_context hold the right one?"
    return reason


async def _connect_tcp(origin: Origin, is_proxy: bool) -> TcpStream:
    what = f"the proxy {origin.authority}" if is_proxy else origin.authority
    try:
        if origin.is_literal:
            family = socket.AF_INET6 if ":" in origin.host else socket.AF_INET
            sock = trio.socket.socket(family, socket.SOCK_STREAM)
            try:
                await sock.connect((origin.host, origin.port))
            except BaseException:
                sock.close()
                raise
        else:
            stream = await trio.open_tcp_stream(origin.host, origin.port)
            sock = stream.socket
    except OSError as exc:
        raise ConnectFailed(tcp_trouble(what, exc)) from None
    plain = socket.socket(fileno=sock.detach())
    plain.setblocking(False)
    return TcpStream(plain)


def tcp_trouble(what: str, exc: OSError) -> str:
    """What happened to a connection to `what`, also where several addresses were tried."""
    if isinstance(exc, socket.gaierror):
        return f"the host of {what} is not known ({exc.strerror})"
    cause = exc.__cause__
    errors = [exc] if not isinstance(cause, BaseExceptionGroup) else list(cause.exceptions)
    if all(isinstance(error, ConnectionRefusedError) for error in errors):
        return f"{what} refused the connection"
    one = errors[0]
    return f"{what} could not be reached ({one.strerror if isinstance(one, OSError) and one.strerror else type(one).__name__})"


async def _open_tunnel(tcp: TcpStream, origin: Origin, proxy: Proxy) -> None:
    """Ask the proxy for a tunnel. What it sends beyond its answer would be the other side's, which speaks first in no
    TLS."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_TUNNEL_ANSWER)
    authority = origin.authority.encode("ascii")
    headers = [(b"host", authority)]
    if proxy.authorization is not None:
        headers.append((b"proxy-authorization", proxy.authorization))
    request = connection.send(h11.Request(method=b"CONNECT", target=authority, headers=headers))
    connection.send(h11.EndOfMessage())
    shown = f"the proxy {proxy.origin.authority}"
    try:
        await tcp.send_all(request)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await tcp.receive())
            elif isinstance(event, h11.Response):
                break
    except h11.RemoteProtocolError as exc:
        raise ConnectFailed(f"{shown} gave no proper answer: {refusal(exc)}") from None
    except (OSError, trio.BrokenResourceError):
        raise ConnectFailed(f"{shown} broke the connection") from None
    if not 200 <= event.status_code < 300:
        why = "; it wants credentials in its URL" if event.status_code == 407 else ""
        raise ConnectFailed(f"{shown} refused a tunnel to {origin.authority} (HTTP {event.status_code}){why}")
