"""R16: what must stay secret stays out of reprs, errors, events, statistics and log lines."""

from __future__ import annotations

import logging
import os
import traceback
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    ConnectError,
    HttpServer,
    OutcomeUnknownError,
    Pool,
    PoolError,
    ServerUnavailableError,
    SessionLostError,
    StdioServer,
)
from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire.stdio._stderr import KEPT, Stderr
from trio_mcp_pool.testing import ScriptedServer, error, never

from .books import Ledger, settle, watched_pool

SECRET = "xyzzy-plugh"


def shown(*things: Any) -> str:
    """Everything that a careless program would print of these."""
    return "\n".join(f"{thing!r} {thing!s} {getattr(thing, '__dict__', '')}" for thing in things)


def env() -> dict[str, str]:
    return {"TOKEN": SECRET}


async def headers() -> dict[str, str]:
    await trio.lowlevel.checkpoint()
    return {"Authorization": f"Bearer {SECRET}"}


SERVERS = {
    "arguments": StdioServer("no-such-command-here", ["--token", SECRET]),
    "env": StdioServer("no-such-command-here", env={"TOKEN": SECRET}),
    "env function": StdioServer("no-such-command-here", env=env),
    "url": HttpServer(f"http://user:{SECRET}@127.0.0.1:9/mcp?key={SECRET}"),
    "headers": HttpServer("http://127.0.0.1:9/mcp", headers={"Authorization": f"Bearer {SECRET}"}),
    "headers function": HttpServer("http://127.0.0.1:9/mcp", headers=headers),
    "proxy": HttpServer("http://127.0.0.1:9/mcp", proxy=f"http://user:{SECRET}@127.0.0.1:9"),
}


def test_R16_a_server_does_not_show_its_secrets() -> None:
    assert SECRET not in shown(*(repr(server) for server in SERVERS.values()))


@pytest.mark.parametrize("name", ["arguments", "env", "env function"])
async def test_R16_a_failed_dial_shows_no_secret_anywhere(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_mcp_pool")
    ledger = Ledger()
    with trio.fail_after(10):
        async with watched_pool({"s": SERVERS[name]}, ledger=ledger) as pool:
            for kind in (ConnectError, ServerUnavailableError):
                with pytest.raises(kind) as caught:
                    await pool.wait_ready()
                assert SECRET not in shown(caught.value, *ledger.events, pool, pool.statistics())
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        {"TOKEN": 5, "SECRET": SECRET},
        [SECRET],
        SECRET,
    ],
)
async def test_R16_the_error_for_a_function_that_returns_a_wrong_value_does_not_show_it(bad: Any) -> None:
    async with watched_pool({"s": StdioServer("no-such-command-here", env=lambda: bad)}) as pool:
        with pytest.raises(ConnectError, match=r"StdioServer\.env must give a mapping of str to str") as caught:
            await pool.wait_ready()
        assert caught.value.phase == "configure"
        assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(repr(SECRET), "")


@pytest.mark.parametrize(
    "bad", [f"Bearer {SECRET}\n", f" {SECRET}", f"{SECRET}\r\nX: y", f"{SECRET}\0", f"{SECRET}\u20ac"]
)
async def test_R16_a_header_that_HTTP_cannot_carry_is_refused_by_its_name_in_the_dial(bad: str) -> None:
    server = HttpServer("http://127.0.0.1:9/mcp", headers=lambda: {"Authorization": bad})
    async with watched_pool({"s": server}) as pool:
        with pytest.raises(ConnectError, match=r"HttpServer\.headers\['Authorization'\] must ") as caught:
            await pool.wait_ready()
        assert caught.value.phase == "configure"
        assert isinstance(caught.value.__cause__, ValueError)
        assert SECRET not in shown(caught.value, caught.value.__cause__)


@pytest.mark.parametrize("how", ["written", "unwritten", "result"])
async def test_R16_no_argument_value_shows_up_in_an_error_an_event_or_a_log_line(
    how: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_mcp_pool")
    server, ledger = ScriptedServer(), Ledger()
    told: list[PoolError] = []
    async with watched_pool({"s": server}, ledger=ledger) as pool:
        await pool.list_tools("s")

        async def call(session_of: Pool) -> None:
            async with session_of.session("s") as session:
                try:
                    await session.call_tool("echo", {"text": SECRET})
                except (OutcomeUnknownError, SessionLostError) as why:
                    told.append(why)

        if how == "written":
            server.gates["stream"] = [error(OSError)]
        elif how == "unwritten":
            server.gates["stream"] = [never]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, pool)
            await settle()
            if how == "unwritten":
                server.kill()
        assert SECRET not in shown(pool, pool.statistics(), *told, *ledger.events)
        assert len(told) == (how != "result")
    assert SECRET not in caplog.text


def test_R16_wrong_values_are_refused_by_their_type_and_not_shown() -> None:
    for make in (
        lambda: StdioServer("x", env={"TOKEN": SECRET.encode()}),  # type: ignore[dict-item]
        lambda: StdioServer("x", [SECRET, SECRET.encode()]),  # type: ignore[list-item]
        lambda: HttpServer("http://h", headers={"Authorization": SECRET.encode()}),  # type: ignore[dict-item]
        lambda: HttpServer(f"ftp://user:{SECRET}@h"),
        lambda: HttpServer(f"http://user:{SECRET}/more@h"),  # a slash ends the host, and half a password is the port
        lambda: HttpServer(f"http://user:{SECRET}\u2100@h"),
        lambda: HttpServer(f"http://user:{SECRET}@h\n"),
        lambda: HttpServer("http://h", proxy=f"ftp://user:{SECRET}@h"),
        lambda: HttpServer("http://h", proxy=f"http://user:{SECRET}/more@h"),
        lambda: HttpServer("http://h", headers={"Authorization": f"Bearer {SECRET}\n"}),
        lambda: HttpServer("http://h", headers={"Authorization": f"Bearer\0{SECRET}"}),
        lambda: HttpServer("http://h", headers={"Authorization": f"Bearer {SECRET}\u00e9"}),
        lambda: HttpServer("http://h", headers={f"Authorization: Bearer {SECRET}": ""}),
        lambda: StdioServer("x", env={f"TOKEN={SECRET}": ""}),
        lambda: StdioServer("x", env={"TOKEN": f"{SECRET}\0"}),
        lambda: HttpServer("http://h", auth=("user", SECRET)),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            make()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "said", [f"no such key: {SECRET}", f"one\n{SECRET}\n", "x" * 100_000 + SECRET + "y" * (KEPT - len(SECRET) // 2)]
)
@pytest.mark.parametrize("secret", [SECRET, f"-- begin --\n{SECRET}\n-- end --\n"])
async def test_R16_a_secret_is_masked_in_a_tail_of_stderr_however_it_is_cut(
    secret: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trio_mcp_pool.stderr")
    link = Link("s")
    link.keep_secret([secret])
    reading, writing = os.pipe()
    stderr = Stderr(link, reading)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stderr.run)
            while said:
                with open(os.dup(writing), "w") as pipe:
                    pipe.write(said[:5000])
                said = said[5000:]
                await settle()
            os.close(writing)
    await stderr.finish()
    assert SECRET[-4:] not in link.stderr_tail
    assert SECRET[-4:] not in caplog.text
