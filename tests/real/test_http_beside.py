"""Where neither an answer nor a probe tells whether the server still knows a session, a handshake beside it decides (R11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
import trio

from tests.pool.books import Ledger, check_books, text, watched_pool
from tests.servers import raw_http as raw
from tests.servers.raw_http import RawServer, raw_server
from trio_mcp_pool import (
    Backoff,
    DialFailed,
    HttpServer,
    HttpStatusError,
    Pool,
    PoolPolicy,
    SessionClosed,
    SessionOpened,
)

BOUND = 20
"""Seconds that no test may take."""


@asynccontextmanager
async def used_session(backoff: float) -> AsyncIterator[tuple[RawServer, Pool, Ledger]]:
    """A server of the handshake era, a pool with one session of it that has answered a call, and its events."""
    ledger = Ledger()
    policy = PoolPolicy(backoff=Backoff(first=backoff, cap=backoff, jitter=0), max_sessions=1)
    async with (
        raw_server() as server,
        watched_pool({"s": HttpServer(server.url, mode="legacy")}, policy=policy, ledger=ledger) as pool,
    ):
        assert text(await pool.call_tool("s", "good")) == "ok"
        opened = [(e.address, e.port) for e in ledger.events if isinstance(e, SessionOpened)]
        assert opened == [("127.0.0.1", urlsplit(server.url).port)]
        yield server, pool, ledger


async def confuse(server: RawServer, pool: Pool) -> None:
    """A call and a probe that get the same odd status."""
    server.plans |= {"good": raw.status(400), "ping": raw.status(400)}
    with pytest.raises(HttpStatusError):
        await pool.call_tool("s", "good")


async def until_calls_work(server: RawServer, pool: Pool) -> None:
    """The server is well again; wait until a call gets through."""
    for name in ("good", "ping", "initialize"):
        server.plans.pop(name, None)
    with trio.fail_after(BOUND):
        while True:
            with suppress(HttpStatusError):
                assert text(await pool.call_tool("s", "good")) == "ok"
                return
            await trio.sleep(0.01)


async def test_R11_where_the_handshake_works_the_session_is_replaced() -> None:
    async with used_session(0.01) as (server, pool, ledger):
        await confuse(server, pool)
        with trio.fail_after(BOUND):
            while not ledger.count(SessionClosed):
                await trio.sleep(0.01)
        await until_calls_work(server, pool)
        closed = [e for e in ledger.events if isinstance(e, SessionClosed)]
        assert [(e.connection, e.reason) for e in closed] == [(1, "broken")]
        assert server.seen.count("initialize") == 2


async def test_R11_where_it_fails_the_session_stays_and_is_like_any_other() -> None:
    async with used_session(0.01) as (server, pool, ledger):
        server.plans["initialize"] = raw.status(500)
        await confuse(server, pool)
        with trio.fail_after(BOUND):
            while not ledger.count(DialFailed):
                await trio.sleep(0.01)
        await until_calls_work(server, pool)
        stats = check_books(pool)
        assert (stats.size, stats.closed_broken, stats.connects_failed) == (1, 0, stats.connects - 1)
        with trio.fail_after(BOUND):
            await pool.drain("s")
        closed = [e for e in ledger.events if isinstance(e, SessionClosed) and e.reason != "failed"]
        assert [(e.connection, e.reason) for e in closed] == [(1, "drained")]
        assert text(await pool.call_tool("s", "good")) == "ok"


async def test_R11_another_doubt_within_the_backoff_has_its_handshake_when_that_is_over() -> None:
    async with used_session(0.5) as (server, pool, ledger):
        server.plans["initialize"] = raw.status(500)
        for failures in (1, 2):
            await confuse(server, pool)
            with trio.fail_after(BOUND):
                while ledger.count(DialFailed) < failures:
                    await trio.sleep(0.01)
        await until_calls_work(server, pool)
        assert check_books(pool).closed_broken == 0
