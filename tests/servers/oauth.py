"""A small authorization server on loopback, an MCP server that it guards, and a person who logs in at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.servers.raw_http import Exchange, Plan, RawServer, raw_server


class Storage:
    """Where the provider keeps its tokens."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Guarded:
    """The two servers, and what happened at them."""

    mcp: RawServer
    authority: RawServer
    storage: Storage = field(default_factory=Storage)
    issued: list[str] = field(default_factory=list)
    """The grants by which tokens were issued."""
    valid: set[str] = field(default_factory=set)
    refused: int = 0
    logins: int = 0
    login_fails: bool = False
    login_takes: float = 0
    scope: str = "basic"
    """What a token must allow."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.mcp.port}"

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.authority.port}"

    def auth(self) -> OAuthClientProvider:
        """The SDK's provider, with the person behind it."""
        answers: list[str] = []

        async def redirect(url: str) -> None:
            self.logins += 1
            answers.append(parse_qs(urlsplit(url).query)["state"][0])

        async def callback() -> AuthorizationCodeResult:
            await trio.sleep(self.login_takes)
            return AuthorizationCodeResult(code="a-code", state=answers.pop())

        return OAuthClientProvider(
            self.mcp.url,
            OAuthClientMetadata(redirect_uris=["http://localhost:1/callback"], client_name="test"),  # type: ignore[list-item]
            self.storage,
            redirect,
            callback,
        )

    async def guard(self, exchange: Exchange) -> bool:
        token = exchange.headers.get("authorization", "").removeprefix("Bearer ")
        where = f'resource_metadata="{self.origin}/.well-known/oauth-protected-resource/mcp"'
        if token not in self.valid:
            self.refused += 1
            await exchange.reply(401, b"", f"www-authenticate: Bearer {where}")
        elif self.scope not in token:
            await exchange.reply(
                403, b"", f'www-authenticate: Bearer error="insufficient_scope", scope="{self.scope}", {where}'
            )
        else:
            return False
        return True

    async def token(self, exchange: Exchange) -> None:
        form = {name: values[0] for name, values in parse_qs(exchange.body.decode()).items()}
        grant = form["grant_type"]
        if self.login_fails:
            await exchange.reply_json({"error": "invalid_grant"}, 400)
            return
        self.issued.append(grant)
        token = f"{self.scope}-{len(self.issued)}"
        self.valid.add(token)
        await exchange.reply_json(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": f"refresh-{len(self.issued)}",
                "scope": self.scope,
            }
        )


def _document(make: Any) -> Plan:
    async def plan(exchange: Exchange) -> None:
        await exchange.reply_json(make())

    return plan


async def _register(exchange: Exchange) -> None:
    await exchange.reply_json({**json.loads(exchange.body), "client_id": "the-client"}, 201)


@asynccontextmanager
async def guarded(plans: dict[str, Plan] | None = None) -> AsyncIterator[Guarded]:
    """An MCP server behind an authorization server, each on a port of its own."""
    async with raw_server(plans) as server, raw_server() as authority:
        both = Guarded(server, authority)
        server.guard = both.guard
        server.routes["/.well-known/oauth-protected-resource/mcp"] = _document(
            lambda: {"resource": both.mcp.url, "authorization_servers": [both.issuer]}
        )
        authority.routes["/.well-known/oauth-authorization-server"] = _document(
            lambda: {
                "issuer": both.issuer,
                "authorization_endpoint": f"{both.issuer}/authorize",
                "token_endpoint": f"{both.issuer}/token",
                "registration_endpoint": f"{both.issuer}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
        )
        authority.routes["/register"] = _register
        authority.routes["/token"] = both.token
        yield both
