"""The servers that the programs of docs/guide/credentials.md call: one behind OAuth, one with a private
certificate, and a proxy.

They run in a thread of their own, because those programs start Trio themselves.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
import trustme

from tests.servers.oauth import guarded
from tests.servers.proxy import running_proxy
from tests.servers.raw_http import Exchange, raw_server, tool_result

KEY = "basic-key"
"""A key that is always let in."""
USES = 8
"""Requests after which every other token has expired."""


async def _found(exchange: Exchange) -> None:
    await exchange.reply_json({"jsonrpc": "2.0", "id": exchange.message["id"], "result": tool_result("found")})


async def _serve(folder: Path, started: Queue[Any]) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "our-authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(guarded({"search": _found}))
        intranet = await stack.enter_async_context(raw_server({"search": _found}, ssl_context=context))
        proxy = await stack.enter_async_context(running_proxy())
        requests = 0

        async def guard(exchange: Exchange) -> bool:
            nonlocal requests
            requests += 1
            if requests % USES == 0:
                office.valid.clear()
            office.valid.add(KEY)
            return await office.guard(exchange)

        office.mcp.guard = guard
        with trio.CancelScope() as scope:
            addresses = {
                "https://mcp.example.org": office.origin,
                "https://login.example.org": office.issuer,
                "https://mcp.internal:8443": f"https://localhost:{intranet.port}",
                "http://proxy.internal:3128": proxy.url,
            }
            started.put((addresses, trio.lowlevel.current_trio_token(), scope))
            await trio.sleep_forever()


@contextmanager
def running_office(folder: Path) -> Iterator[dict[str, str]]:
    """Run them; gives the real address for each of the page's. `folder` receives the authority's certificate."""
    started: Queue[Any] = Queue()
    thread = threading.Thread(target=trio.run, args=(_serve, folder, started), daemon=True)
    thread.start()
    addresses, token, scope = started.get(timeout=30)
    try:
        yield addresses
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join(30)


class Person:
    """Logs in as soon as a browser is opened, and pastes the address where that ended."""

    def __init__(self) -> None:
        self._url = ""

    def open(self, url: str) -> bool:
        """Stands for `webbrowser.open`."""
        self._url = url
        return True

    def paste(self, prompt: str) -> str:
        """Stands for `input`."""
        asked = parse_qs(urlsplit(self._url).query)
        return f"{asked['redirect_uri'][0]}?code=a-code&state={asked['state'][0]}"
