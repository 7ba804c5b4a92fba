"""Dialling over HTTP as an owner task does, for the tests of the HTTP wire."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import mcp
import mcp_types as types
import pytest
import trio

from tests.servers import raw_http as raw
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call, Link, current_call
from trio_mcp_pool._wire.http._connect import connect_http

BOUND = 20
"""Seconds that no test may take."""


@dataclass
class Dialled:
    """A connection as its owner task holds it."""

    link: Link
    client: mcp.Client = field(init=False)
    lost_at: float = 0
    undecided: int = 0
    """How often the wire said that it cannot tell whether the session lives."""

    async def pooled(self, tool: str, call: Call | None = None, /, **arguments: Any) -> str:
        """The same by the wire's own way for tool calls, which a pool takes."""
        assert self.link.call_tool is not None
        call = call or Call(trio.CancelScope(), self.link)
        token = current_call.set(call)
        try:
            result = await self.link.call_tool(tool, arguments)
            assert isinstance(result.content[0], types.TextContent)
            return result.content[0].text
        finally:
            current_call.reset(token)

    async def call(self, tool: str, call: Call | None = None, /, **arguments: Any) -> str:
        """What a session handle does: the text of the result, or the error that the wire left on the call."""
        call = call or Call(trio.CancelScope(), self.link)
        token = current_call.set(call)
        try:
            with call.scope:
                result = await self.client.call_tool(tool, arguments)
                assert isinstance(result.content[0], types.TextContent)
                return result.content[0].text
        except mcp.MCPError as exc:
            if call.failure is not None:
                raise call.failure from exc
            raise
        finally:
            current_call.reset(token)
        raise call.failure or errors.PoolClosedError("its scope was cancelled")


@asynccontextmanager
async def dialled(
    url: str,
    *,
    mode: str = "legacy",
    transport: str = "streamable-http",
    auth: httpx2.Auth | None = None,
    headers: dict[str, str] | Callable[[str], Awaitable[dict[str, str]]] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | None = None,
    max_message: int = 1024 * 1024,
    max_values: int = 1_000_000,
    max_connections: int = 1000,
    close_timeout: float = 10,
    write_timeout: float = 10,
    failing: list[BaseException] | None = None,
    **options: Any,
) -> AsyncIterator[Dialled]:
    """Dial, and leave like an owner does, within a bound."""
    told: list[BaseException] = [] if failing is None else failing

    def lost() -> None:
        connection.lost_at = trio.current_time()

    def undecided() -> None:
        connection.undecided += 1

    async def resolve(reason: str) -> dict[str, str]:
        return await headers(reason) if callable(headers) else headers or {}

    link = Link(
        "srv",
        on_lost=lost,
        on_failing=told.append,
        on_undecided=undecided,
        close_timeout=close_timeout,
        write_timeout=write_timeout,
        probe_timeout=1,
    )
    connection = Dialled(link)
    with trio.fail_after(BOUND):
        async with connect_http(
            link,
            url=url,
            resolve_headers=resolve,
            auth=auth,
            transport=cast(Any, transport),
            ssl_context=ssl_context,
            proxy=proxy,
            max_message=max_message,
            max_values=max_values,
            max_connections=max_connections,
            client_options={"mode": mode, **options},
        ) as connection.client:
            yield connection
            link.close_by = trio.current_time() + close_timeout
            link.leaving = True


def transport_of(kind: str) -> str:
    return "sse" if kind == "sse" else "streamable-http"


async def swallow(connection: Dialled, tool: str, call: Call | None = None) -> None:
    """Call, whatever comes of it."""
    try:
        await connection.call(tool, call)
    except (errors.PoolError, mcp.MCPError):
        pass


BROKEN = [
    pytest.param(raw.reset, id="reset"),
    pytest.param(raw.truncated_json, id="truncated-json"),
    pytest.param(raw.truncated_events, id="truncated-events"),
    pytest.param(raw.ended_events, id="ended-events"),
]
"""What can become of the connection of one request."""
