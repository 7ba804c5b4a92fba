"""The descriptions of servers as values: what they accept, when two are equal, and what a dial is given by them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import logging
import os
import pickle
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
import trio
from mcp.server import MCPServer

from trio_mcp_pool import CustomServer, Dial, HttpServer, InProcessServer, PoolPolicy, Server, StdioServer, _servers
from trio_mcp_pool._servers._per_dial import resolve
from trio_mcp_pool._wire._link import Link
from trio_mcp_pool._wire.http import _connect as _http
from trio_mcp_pool._wire.stdio import _connect
from trio_mcp_pool._wire.stdio._stderr import Stderr, StderrMode
from trio_mcp_pool.testing import ScriptedServer


async def configure(_: Any) -> None:
    raise AssertionError("only stored here")


def any_link(**changes: Any) -> Link:
    link = Link("files")
    for name, value in changes.items():
        setattr(link, name, value)
    return link


# Values.

SERVERS: list[Callable[[PoolPolicy | None], Server]] = [
    lambda policy: StdioServer("x", ["a"], env={"A": "1"}, policy=policy),
    lambda policy: HttpServer("http://h", headers={"A": "1"}, policy=policy),
    lambda policy: InProcessServer(IN_PROCESS, policy=policy),
    lambda policy: CustomServer(factory, policy=policy),
]
IN_PROCESS = MCPServer("s")


def factory() -> Any:
    raise AssertionError("never dialled here")


@pytest.mark.parametrize("make", SERVERS)
def test_servers_that_say_the_same_are_equal_and_may_differ_in_their_policy_alone(
    make: Callable[[PoolPolicy | None], Any],
) -> None:
    one, same, other = make(None), make(None), make(PoolPolicy(max_sessions=2))
    assert one == same
    assert one._same_but_policy(same)
    assert one != other
    assert one._same_but_policy(other)
    assert other._same_but_policy(one)
    assert not one._same_but_policy(dataclasses.replace(other, trusted=True))
    assert not one._same_but_policy(dataclasses.replace(other, configure=configure))
    assert not one._same_but_policy(ScriptedServer())
    assert dataclasses.replace(one) == copy.copy(one) == one


def test_a_scripted_server_is_the_same_as_itself_only() -> None:
    server = ScriptedServer(configure=configure)
    assert server._same_but_policy(server)
    assert not server._same_but_policy(ScriptedServer(configure=configure))
    assert server.configure is configure


def test_a_server_pickles() -> None:
    for server in (
        StdioServer("x", env={"A": "1"}, configure=configure),
        HttpServer("http://h", proxy="http://p"),
        CustomServer(factory),
    ):
        assert pickle.loads(pickle.dumps(server)) == server


@pytest.mark.parametrize("kind", [StdioServer, HttpServer, InProcessServer, CustomServer])
def test_a_server_shows_its_arguments_in_its_signature(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind) if field.name != "_"]
    assert sorted(inspect.signature(kind).parameters) == sorted(names)


def test_a_command_and_its_arguments_may_be_paths() -> None:
    server = StdioServer(Path("bin") / "server", [Path("a") / "b", "c"])
    assert server == StdioServer(os.path.join("bin", "server"), (os.path.join("a", "b"), "c"))
    assert server.command == os.path.join("bin", "server")


def test_a_whole_command_in_one_string_is_left_to_the_dial() -> None:
    assert StdioServer("python -m server").command == "python -m server"


def test_http_is_another_name_of_streamable_http() -> None:
    assert HttpServer("http://h", transport="http") == HttpServer("http://h")
    assert HttpServer("http://h", transport="http").transport == "streamable-http"


def test_an_ssl_context_compares_by_identity() -> None:
    one, other = ssl.create_default_context(), ssl.create_default_context()
    assert HttpServer("https://h", ssl_context=one) == HttpServer("https://h", ssl_context=one)
    assert HttpServer("https://h", ssl_context=one) != HttpServer("https://h", ssl_context=other)


def test_the_limits_have_the_same_defaults_on_both_transports() -> None:
    stdio, http = StdioServer("x"), HttpServer("http://h")
    assert (stdio.max_message, stdio.max_values) == (http.max_message, http.max_values) == (64 * 1024**2, 1_000_000)
    assert http.max_connections == 1000


# What a dial is given.


def nothing() -> dict[str, str]:
    return {"got": "nothing"}


def one_dial(dial: Dial) -> dict[str, str]:
    return {"got": f"{dial.server} {dial.scope} {dial.attempt} {dial.reason}"}


async def later(dial: Dial) -> dict[str, str]:
    await trio.lowlevel.checkpoint()
    return one_dial(dial)


class Holder:
    def method(self, dial: Dial, /) -> dict[str, str]:
        return one_dial(dial)

    def optional(self, dial: Dial | None = None) -> dict[str, str]:
        assert dial is None
        return nothing()

    def __call__(self, *dials: Dial) -> dict[str, str]:
        assert dials == ()
        return nothing()


TOLD = {"got": "files tenant 3 unauthorized"}


@pytest.mark.parametrize(
    ("function", "gives"),
    [
        (nothing, nothing()),
        (one_dial, TOLD),
        (later, TOLD),
        (Holder().method, TOLD),
        (Holder().optional, nothing()),
        (Holder(), nothing()),
        (functools.partial(later), TOLD),
        (functools.partial(one_dial, Dial("a", None, 1, "connect")), {"got": "a None 1 connect"}),
        (dict, {}),
        ({"got": "mapping"}, {"got": "mapping"}),
        (None, {}),
    ],
)
async def test_a_function_with_a_required_parameter_is_given_the_dial_and_another_nothing(
    function: Any, gives: dict[str, str]
) -> None:
    link = any_link(scope="tenant", attempt=3)
    assert await resolve("X.env", function, link, "unauthorized", lambda *_: None) == gives


@pytest.mark.parametrize("gives", [None, [("A", "1")], {"A": 1}, {1: "A"}, {"A": None}])
async def test_a_function_that_returns_no_mapping_of_str_to_str_gets_an_error(gives: Any) -> None:
    with pytest.raises(TypeError, match=r"X\.env must give a mapping of str to str"):
        await resolve("X.env", lambda: gives, any_link(), "connect", lambda *_: None)


class Client:
    """Stands in for the client of a wire, and records how it was called."""

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def __init__(self) -> None:
        self.calls = []

    @asynccontextmanager
    async def connect(self, *args: Any, **options: Any) -> AsyncIterator[None]:
        self.calls.append((args, options))
        yield


async def test_R16_an_http_server_resolves_its_headers_for_each_dial_and_masks_what_it_gets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, dials = Client(), []
    monkeypatch.setattr(_http, "connect_http", wire.connect)

    async def headers(dial: Dial) -> dict[str, str]:
        dials.append((dial, link.phase))
        return {"Authorization": f"Bearer token-{len(dials)}"}

    link = any_link(scope=("tenant", 1), attempt=2, phase="spawn")
    proxy = "socks5://user:proxy-secret@p:1"
    async with HttpServer("http://h?key=url-secret", headers=headers, proxy=proxy, max_message=7)._connect(link):
        options = wire.calls[0][1]
        assert (options["proxy"], options["max_message"], options["max_connections"]) == (proxy, 7, 1000)
        assert dials == []
        assert await options["resolve_headers"]("connect") == {"Authorization": "Bearer token-1"}
        assert link.phase == "connect"
        link.phase = "handshake"
        assert await options["resolve_headers"]("unauthorized") == {"Authorization": "Bearer token-2"}
        assert link.phase == "handshake"
    assert dials == [
        (Dial("files", ("tenant", 1), 2, "connect"), "configure"),
        (Dial("files", ("tenant", 1), 2, "unauthorized"), "handshake"),
    ]
    assert link.mask("token-1 token-2 url-secret proxy-secret Bearer") == "*** *** *** *** Bearer"


@pytest.mark.skipif(os.name != "posix", reason="the pool's own wire")
async def test_a_stdio_server_hands_its_options_to_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Client()
    monkeypatch.setattr(_connect, "connect_stdio", wire.connect)
    server = StdioServer(Path("x"), ["a"], env=one_dial, stderr="discard", max_message=5, max_values=6)
    async with server._connect(any_link()):
        pass
    ((link, *args), options) = wire.calls[0]
    assert args == ["x", ["a"], {"got": "files None 1 connect"}, None]
    assert {name: options[name] for name in ("stderr", "max_message", "max_values")} == {
        "stderr": "discard",
        "max_message": 5,
        "max_values": 6,
    }
    assert link.mask("files None 1 connect") == "***"


# The messages of a server.


async def test_the_link_gets_a_message_before_the_users_handler() -> None:
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        heard.append(("handler", message))

    link = any_link()
    for own in (handler, None):
        options = StdioServer("x", message_handler=own)._client_options(link)
        await options["message_handler"]("early")
        link.on_message = lambda message: heard.append(("link", message))
        await options["message_handler"]("late")
        link.on_message = None
    assert heard == [("handler", "early"), ("link", "late"), ("handler", "late"), ("link", "late")]


async def test_R16_what_is_no_message_is_a_warning_where_nobody_handles_it(caplog: pytest.LogCaptureFixture) -> None:
    link = any_link()
    link.keep_secret(["xyzzy-plugh"])
    await _servers.watch_messages(link, None)(ValueError("a line of noise: xyzzy-plugh"))
    assert caplog.record_tuples == [("trio_mcp_pool", logging.WARNING, "server 'files': a line of noise: ***")]


async def test_a_scripted_server_reports_its_messages_to_the_link(autojump_clock: Any) -> None:
    heard: list[Any] = []
    link, server = any_link(on_message=heard.append), ScriptedServer(mode="legacy")
    async with server._connect(link) as client:
        assert isinstance(client, mcp.Client)
        server.notify("notifications/tools/list_changed")
        await trio.sleep(1)
    assert [message.method for message in heard] == ["notifications/tools/list_changed"]


# What happens to stderr.


@pytest.mark.skipif(os.name != "posix", reason="pipes that can be waited for")
@pytest.mark.parametrize(
    ("mode", "logged", "copied"), [("log", True, False), ("inherit", False, True), ("discard", False, False)]
)
async def test_the_end_of_stderr_is_kept_whatever_else_happens_to_it(
    mode: StderrMode,
    logged: bool,
    copied: bool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, logger="trio_mcp_pool.stderr")
    link = any_link()
    reading, writing = os.pipe()
    os.write(writing, b"one line\n")
    os.close(writing)
    with trio.fail_after(10):
        stderr = Stderr(link, reading, mode)
        await stderr.run()
    await stderr.finish()
    assert link.stderr_tail == "one line\n"
    assert ("one line" in caplog.text) is logged
    assert (capfd.readouterr().err == "one line\n") is copied


@pytest.mark.skipif(os.name != "posix", reason="pipes that can be waited for")
async def test_a_child_does_not_suffer_from_a_stderr_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, data: Any) -> int:
        raise BrokenPipeError

    reading, writing = os.pipe()
    os.write(writing, b"one line\n")
    os.close(writing)
    link = any_link()
    stderr = Stderr(link, reading, "inherit")
    monkeypatch.setattr(os, "write", fail)
    stderr.read_now()
    await stderr.finish()
    assert link.stderr_tail == "one line\n"
