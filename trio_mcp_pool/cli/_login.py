"""`login` and `logout`: OAuth in the browser, with a redirect to a port of this machine."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import trio
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull

from .. import HttpServer, PoolPolicy, Server, open_pool
from ..config import OAuth
from ._context import Context
from ._failures import AUTHENTICATION, Failed, Usage
from ._targets import Targets
from ._tokens import Store, metadata

PATIENCE = 300.0
"""How long a person has to log in, in seconds."""
_MAX_REQUEST = 16 * 1024
_PAGE = b"HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


@dataclass(frozen=True)
class Plan:
    """Where to log in."""

    name: str
    server: HttpServer
    oauth: OAuth | None


def prepare(context: Context) -> Plan | int:
    """The server; `logout` is done here."""
    if len(context.options.words) != 1:
        raise Usage("name one server, or a URL")
    wanted: list[OAuth] = []
    servers = _with_oauth(context.targets, context.options.words, wanted)
    (name, server), *more = servers.items()
    if more or not isinstance(server, HttpServer):
        raise Usage(f"{context.options.words[0]!r} is not one server over HTTP; only those have logins")
    if context.options.command == "logout":
        known = Store(server.url).forget()
        context.out.note(f"{name}: {'logged out' if known else 'there was no login'}")
        return 0
    return Plan(name, server, next((oauth for oauth in wanted if oauth.server == name), None))


def _with_oauth(targets: Targets, words: list[str], wanted: list[OAuth]) -> Mapping[str, Server]:
    """The servers, while everything that their file says about logging in is kept in `wanted`."""
    targets.auth = lambda oauth: wanted.append(oauth)
    return targets.many(words)


class Redirect:
    """Waits on a port of this machine for the browser to come back."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        host, port = listener.socket.getsockname()[:2]
        self.url = f"http://{host}:{port}/callback"

    async def result(self) -> AuthorizationCodeResult:
        """What the authorization server said. Other requests, such as for an icon, get a 404."""
        while True:
            stream = await self._listener.accept()
            async with stream:
                found = await self._serve(stream)
            if found is not None:
                return found

    async def _serve(self, stream: trio.SocketStream) -> AuthorizationCodeResult | None:
        request = b""
        with trio.move_on_after(10):
            request = piece = await stream.receive_some(4096)
            while piece and b"\r\n" not in request and len(request) < _MAX_REQUEST:
                piece = await stream.receive_some(4096)
                request += piece
        words = request.split(b"\r\n", 1)[0].decode("ascii", "replace").split(" ")
        parts = urlsplit(words[1]) if len(words) == 3 else urlsplit("")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answers = parts.path == "/callback" and ("code" in query or "error" in query)
        text = b"Logged in. This window can be closed." if "code" in query else b"The login was refused."
        status, text = (b"200 OK", text) if answers else (b"404 Not Found", b"not here")
        try:
            await stream.send_all(_PAGE % (status, len(text), text))
        except trio.BrokenResourceError:
            pass
        if not answers:
            return None
        if "code" not in query:
            raise Failed(AUTHENTICATION, "the login was refused")
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))


async def run(context: Context, plan: Plan) -> int:
    """Log in; gives the exit status."""
    port = plan.oauth.callback_port if plan.oauth is not None else None
    (listener,) = await trio.open_tcp_listeners(port or 0, host="127.0.0.1")
    store = Store(plan.server.url)
    store.data = {}
    async with listener:
        redirect = Redirect(listener)
        store.data["redirect"] = redirect.url
        if plan.oauth is not None and plan.oauth.client_id is not None:
            store.data["client"] = _registered(plan.oauth, redirect.url)
        scopes = plan.oauth.scopes if plan.oauth is not None else ()

        async def show(url: str) -> None:
            opened = not context.options.no_browser and await trio.to_thread.run_sync(webbrowser.open, url)
            if opened:
                context.out.note("waiting for the login in the browser; if no window came up, open this address:")
            context.out.note(url)

        provider = OAuthClientProvider(plan.server.url, metadata(redirect.url, scopes), store, show, redirect.result)
        # A person needs longer than a dial may take.
        policy = replace(plan.server.policy or PoolPolicy(), connect_timeout=PATIENCE)
        server = replace(plan.server, auth=provider, policy=policy)
        async with open_pool({plan.name: server}) as pool:
            await pool.wait_ready(plan.name)
    if provider.context.current_tokens is None:
        context.out.note(f"{plan.name}: the server asks for no login")
        return 0
    if provider.context.oauth_metadata is not None:
        store.data["metadata"] = provider.context.oauth_metadata.model_dump(mode="json", exclude_none=True)
        store.save()
    kept = "the system's keyring" if store.where == "keyring" else "a file that only you can read"
    context.out.note(f"{plan.name}: logged in; the tokens are kept in {kept}")
    return 0


def _registered(oauth: OAuth, redirect: str) -> dict[str, object]:
    info = OAuthClientInformationFull.model_validate(
        {"client_id": oauth.client_id, "client_secret": oauth.client_secret, "redirect_uris": [redirect]}
    )
    return info.model_dump(mode="json", exclude_none=True)
