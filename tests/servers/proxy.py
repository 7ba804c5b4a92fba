"""An HTTP proxy on loopback: plain requests with a whole address, and tunnels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio


@dataclass
class Proxy:
    port: int = 0
    requests: list[str] = field(default_factory=list)
    """The request lines that it was given."""
    authorizations: list[str] = field(default_factory=list)
    refuse: int = 0
    """The status that it answers a tunnel with, if not 200."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive_some(65536)
                first, _, rest = head.partition(b"\r\n")
                method, target, _ = first.decode().split(" ")
                self.requests.append(f"{method} {target}")
                for line in rest.decode("latin-1").lower().split("\r\n"):
                    if line.startswith("proxy-authorization:"):
                        self.authorizations.append(line.partition(":")[2].strip())
                if self.refuse:
                    await stream.send_all(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self.refuse)
                    return
                if method == "CONNECT":
                    host, _, port = target.rpartition(":")
                    other = await trio.open_tcp_stream(host.strip("[]"), int(port))
                    await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
                else:
                    parts = urlsplit(target)
                    assert parts.hostname
                    other = await trio.open_tcp_stream(parts.hostname, parts.port or 80)
                    await other.send_all(b"%s %s HTTP/1.1\r\n%s" % (method.encode(), parts.path.encode(), rest))
                async with other, trio.open_nursery() as nursery:
                    nursery.start_soon(_copy, stream, other, nursery)
                    nursery.start_soon(_copy, other, stream, nursery)
            except (OSError, trio.BrokenResourceError):
                pass


async def _copy(one: trio.SocketStream, other: trio.SocketStream, nursery: trio.Nursery) -> None:
    try:
        async for data in one:
            # Requests behind the first on a plain connection have a whole address, too; a server of ours takes that.
            await other.send_all(data)
    except trio.BrokenResourceError:
        pass
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
