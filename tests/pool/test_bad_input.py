"""Every wrong argument gives one clear error that names the field, what is wrong, and what would be right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    CustomServer,
    HttpServer,
    InProcessServer,
    Pool,
    PoolPolicy,
    StdioServer,
    UnknownServerError,
    open_pool,
    serve_pool,
)
from trio_mcp_pool.testing import ScriptedServer

from .books import check_books

Case = tuple[Callable[[], Any], type[Exception], str]
GOOD = ScriptedServer()


def policy(**wrong: Any) -> Callable[[], Any]:
    return lambda: PoolPolicy(**wrong)


def backoff(**wrong: Any) -> Callable[[], Any]:
    return lambda: Backoff(**wrong)


def stdio(*args: Any, **wrong: Any) -> Callable[[], Any]:
    return lambda: StdioServer(*args, **wrong)


def http(*args: Any, **wrong: Any) -> Callable[[], Any]:
    return lambda: HttpServer(*args, **wrong)


VALUES: list[Case] = [
    *[
        (policy(**{name: "5"}), TypeError, rf"PoolPolicy\.{name} must be a number, not str")
        for name in (
            "idle_timeout",
            "max_lifetime",
            "connect_timeout",
            "acquire_timeout",
            "drain_timeout",
            "close_timeout",
            "write_timeout",
            "probe_interval",
            "probe_timeout",
        )
    ],
    *[
        (policy(**{name: -1}), ValueError, rf"PoolPolicy\.{name} must be (at least|greater than) 0.*, not -1")
        for name in (
            "idle_timeout",
            "max_lifetime",
            "connect_timeout",
            "drain_timeout",
            "close_timeout",
            "probe_timeout",
        )
    ],
    *[
        (policy(**{name: 0}), ValueError, rf"PoolPolicy\.{name} must be greater than 0, not 0")
        for name in ("max_lifetime", "connect_timeout", "write_timeout", "probe_timeout", "probe_interval")
    ],
    *[
        (
            policy(**{name: None}),
            TypeError,
            rf"PoolPolicy\.{name} must be a number, not None; use math\.inf for no limit",
        )
        for name in (
            "idle_timeout",
            "max_lifetime",
            "connect_timeout",
            "acquire_timeout",
            "drain_timeout",
            "write_timeout",
        )
    ],
    (policy(close_timeout=None), TypeError, r"PoolPolicy\.close_timeout must be a number, not None$"),
    (
        policy(close_timeout=10**400),
        ValueError,
        r"PoolPolicy\.close_timeout must .* fit a float, not an int of 1329 bits$",
    ),
    (policy(idle_timeout=10**5000), ValueError, r"PoolPolicy\.idle_timeout must .* bits; use math\.inf for no limit"),
    (policy(idle_timeout=-(10**5000)), ValueError, r"PoolPolicy\.idle_timeout must .* not an int of \d+ bits$"),
    (
        policy(max_sessions=10**5000),
        ValueError,
        r"PoolPolicy\.max_sessions must be at most \d+, not an int of \d+ bits",
    ),
    (
        policy(max_sessions=-(10**5000)),
        ValueError,
        r"PoolPolicy\.max_sessions must be at least 1, not an int of \d+ bits",
    ),
    (policy(max_sessions=None), TypeError, r"PoolPolicy\.max_sessions must be a whole number, not None"),
    (policy(max_overlap=-1), ValueError, r"PoolPolicy\.max_overlap must be at least 0, not -1"),
    (policy(max_overlap=None), TypeError, r"PoolPolicy\.max_overlap must be a whole number, not None"),
    (policy(timeout=5), TypeError, r"PoolPolicy takes no timeout: .* `with trio\.move_on_after\(5\): "),
    (
        policy(read_timeout="5 s"),
        TypeError,
        r"PoolPolicy takes no read_timeout: .* `with trio\.move_on_after\(seconds\): ",
    ),
    (backoff(timeout=2.5), TypeError, r"Backoff takes no timeout: .* `with trio\.move_on_after\(2\.5\): "),
    (backoff(cap=10**400), ValueError, r"Backoff\.cap must be greater than 0 and fit a float, not an int of 1329 bits"),
    (policy(idle_timeout=math.nan), ValueError, r"PoolPolicy\.idle_timeout must be at least 0, not nan"),
    (policy(idle_timeout=True), TypeError, r"PoolPolicy\.idle_timeout must be a number, not bool"),
    (policy(close_timeout=math.inf), ValueError, r"PoolPolicy\.close_timeout must be at least 0 and finite, not inf"),
    (policy(probe_timeout=math.inf), ValueError, r"PoolPolicy\.probe_timeout must be .* finite, not inf"),
    (policy(max_sessions=0), ValueError, r"PoolPolicy\.max_sessions must be at least 1, not 0"),
    (policy(max_sessions=1.5), TypeError, r"PoolPolicy\.max_sessions must be a whole number, not float"),
    (policy(max_in_flight=0), ValueError, r"PoolPolicy\.max_in_flight must be at least 1, not 0"),
    (policy(max_waiting=-1), ValueError, r"PoolPolicy\.max_waiting must be at least 0, not -1"),
    (policy(min_sessions=2), ValueError, r"PoolPolicy\.min_sessions must be at most max_sessions \(1\), not 2"),
    (policy(backoff=0.5), TypeError, r"PoolPolicy\.backoff must be a Backoff, not float"),
    (policy(when_unavailable="hang"), ValueError, r"PoolPolicy\.when_unavailable must be 'fail' or 'wait', not 'hang'"),
    (policy(idle_timout=3), TypeError, "idle_timout"),
    (backoff(first=0), ValueError, r"Backoff\.first must be greater than 0, not 0"),
    (backoff(factor=0.5), ValueError, r"Backoff\.factor must be at least 1, not 0.5"),
    (backoff(jitter=2), ValueError, r"Backoff\.jitter must be at most 1, not 2"),
    (backoff(first=9, cap=1), ValueError, r"Backoff\.cap must be at least first \(9\), not 1"),
    (stdio(["python"]), TypeError, r"StdioServer\.command must be a str or a path, not list"),
    (stdio(b"python"), TypeError, r"StdioServer\.command must be a str or a path, not bytes"),
    (stdio("x", ["-p", b"80"]), TypeError, r"StdioServer\.args\[1\] must be a str or a path, not bytes"),
    (stdio("x", env={"A=1": ""}), ValueError, r"StdioServer\.env: name number 1 must not be empty or contain '='"),
    (stdio("x", env={"A": "1\0"}), ValueError, r"StdioServer\.env\['A'\] must not contain a null character"),
    (stdio("x", env={1: "1"}), TypeError, r"StdioServer\.env\[1\] must be a str, not int for a name"),
    (stdio("x", env=lambda a, b: {}), TypeError, r"StdioServer\.env must be a function of nothing or of one .* Dial"),
    (stdio("x", stderr="quiet"), ValueError, r"StdioServer\.stderr must be 'log', 'inherit' or 'discard', not 'quiet'"),
    (stdio("x", max_values=0), ValueError, r"StdioServer\.max_values must be at least 1, not 0"),
    (stdio("x", max_message=1.5), TypeError, r"StdioServer\.max_message must be a number of bytes, not float"),
    (stdio("x", configure="now"), TypeError, r"StdioServer\.configure must be an async function .*, not str"),
    (stdio("x", timeout=5), TypeError, r"StdioServer takes no timeout: .* `with trio\.move_on_after\(5\): "),
    (stdio(""), ValueError, r"StdioServer\.command must not be empty"),
    (stdio("x", "-m server"), TypeError, r"StdioServer\.args must be a sequence of str such as .*, not str"),
    (stdio("x", ["-p", 80]), TypeError, r"StdioServer\.args\[1\] must be a str or a path, not int"),
    (stdio("x", env={"A": 1}), TypeError, r"StdioServer\.env\['A'\] must be a str, not int"),
    (stdio("x", env="A=1"), TypeError, r"StdioServer\.env must be a mapping of str to str, or a function .*, not str"),
    (stdio("x", cwd=3), TypeError, r"StdioServer\.cwd must be a path or None, not int"),
    (stdio("x", wire="asyncio"), ValueError, r"StdioServer\.wire must be 'trio' or 'sdk', not 'asyncio'"),
    (stdio("x", max_message=0), ValueError, r"StdioServer\.max_message must be at least 1, not 0"),
    (stdio("x", trusted="yes"), TypeError, r"StdioServer\.trusted must be a bool, not str"),
    (stdio("x", policy={"max_sessions": 2}), TypeError, r"StdioServer\.policy must be a PoolPolicy or None, not dict"),
    (http(80), TypeError, r"HttpServer\.url must be a str, not int"),
    (http("localhost:80/mcp"), ValueError, r"HttpServer\.url must be an http:// or https:// URL"),
    (http("http:///mcp"), ValueError, r"HttpServer\.url must be an http:// or https:// URL with a host"),
    (http("http://h/\n"), ValueError, r"HttpServer\.url must not contain white space, a newline or another control"),
    (
        http("http://h", headers={"A": "b\n"}),
        ValueError,
        r"HttpServer\.headers\['A'\] must not begin or end .*\.strip\(\)",
    ),
    (http("http://h", headers={"A": "b\nc"}), ValueError, r"HttpServer\.headers\['A'\] must not contain a newline"),
    (
        http("http://h", headers={"A": "\u00e9"}),
        ValueError,
        r"HttpServer\.headers\['A'\] must be ASCII; percent-encode",
    ),
    (http("http://h", headers={"A": "1", "B:": ""}), ValueError, r"HttpServer\.headers: name number 2 is not the name"),
    (http("http://h", timeout=5), TypeError, r"HttpServer takes no timeout: .* `with trio\.move_on_after\(5\): "),
    (
        http("http://h", ssl_context=True),
        TypeError,
        r"HttpServer\.ssl_context must be an ssl\.SSLContext or None, not bool",
    ),
    (http("http://h", proxy=80), TypeError, r"HttpServer\.proxy must be a str, not int"),
    (http("http://h", proxy="h:80"), ValueError, r"HttpServer\.proxy must be an http:// or .* URL with a host"),
    (http("http://h", wire="own"), ValueError, r"HttpServer\.wire must be 'trio' or 'sdk', not 'own'"),
    (http("http://h", max_message=0), ValueError, r"HttpServer\.max_message must be at least 1, not 0"),
    (http("http://h", max_values=0), ValueError, r"HttpServer\.max_values must be at least 1, not 0"),
    (
        http("http://h", max_connections=None),
        TypeError,
        r"HttpServer\.max_connections must be a number .*, not NoneType",
    ),
    (http("http://h", headers=["a"]), TypeError, r"HttpServer\.headers must be a mapping of str to str"),
    (http("http://h", auth=("a", "b")), TypeError, r"HttpServer\.auth must be an httpx2\.Auth or None, not tuple"),
    (
        http("http://h", transport="ws"),
        ValueError,
        r"HttpServer\.transport must be 'streamable-http' or 'sse', not 'ws'",
    ),
    (lambda: InProcessServer("server.py"), TypeError, r"InProcessServer\.server must be an mcp MCPServer .*, not str"),
    (
        lambda: CustomServer(print, configure=3),
        TypeError,
        r"CustomServer\.configure must be an async function .*, not int",
    ),  # type: ignore[arg-type]
    (lambda: ScriptedServer(timeout=5), TypeError, r"ScriptedServer takes no timeout: .*move_on_after\(5\)"),
    (
        lambda: ScriptedServer(configure=3),
        TypeError,
        r"ScriptedServer\.configure must be an async function .*, not int",
    ),  # type: ignore[arg-type]
    (lambda: CustomServer("client"), TypeError, r"CustomServer\.factory must be callable, not str"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "kind", "says"), VALUES, ids=lambda v: v if isinstance(v, str) else None)
def test_a_wrong_value_fails_where_it_is_written(make: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        make()
    assert type(caught.value) is kind


ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"servers": [GOOD]}, TypeError, r"servers must be a mapping of names to servers such as .*, not list"),
    ({"servers": GOOD}, TypeError, r"servers must be a mapping .*, not ScriptedServer"),
    ({"servers": {"s": "python"}}, TypeError, r"servers\['s'\] must be a StdioServer, .* not str"),
    ({"servers": {"s": ScriptedServer}}, TypeError, r"servers\['s'\] must be a StdioServer, .* not (type|ABCMeta)"),
    ({"servers": {1: GOOD}}, TypeError, r"a server's name must be a non-empty str, not 1"),
    ({"servers": {"": GOOD}}, TypeError, r"a server's name must be a non-empty str, not ''"),
    ({"policy": {"max_sessions": 2}}, TypeError, r"policy must be a PoolPolicy, not dict"),
    ({"policy": None}, TypeError, r"policy must be a PoolPolicy, not NoneType"),
    ({"max_connecting": 0}, ValueError, r"max_connecting must be at least 1, not 0"),
    ({"max_connecting": "8"}, TypeError, r"max_connecting must be a whole number, not str"),
    ({"max_connecting": True}, TypeError, r"max_connecting must be a whole number, not bool"),
    ({"observers": [print]}, TypeError, r"an observer must have a method event\(e\), which .* has not"),
    ({"observers": [object()]}, TypeError, r"an observer must have a method event\(e\), which object has not"),
    ({"observers": object()}, TypeError, r"observers must be .*, not object"),
]


@pytest.mark.parametrize(("wrong", "kind", "says"), ARGUMENTS, ids=[says for _, _, says in ARGUMENTS])
async def test_a_wrong_argument_fails_when_the_pool_is_opened(
    wrong: dict[str, Any], kind: type[Exception], says: str
) -> None:
    given: dict[str, Any] = {"servers": {"s": GOOD}, **wrong}
    servers = given.pop("servers")
    with pytest.raises(kind, match=says) as caught:
        async with open_pool(servers, **given):
            pytest.fail("it was opened")
    assert type(caught.value) is kind
    with pytest.raises(kind, match=says):
        await serve_pool(servers, **given)


CALLS: list[tuple[Callable[[Pool], Any], type[Exception], str]] = [
    (lambda p: p.acquire("sss"), UnknownServerError, r"the pool has no server 'sss'"),
    (lambda p: p.acquire("file"), UnknownServerError, r"no server 'file'; did you mean 'files'\?"),
    (lambda p: p.acquire("zzz"), UnknownServerError, r"no server 'zzz'; it has \['files', 's'\]"),
    (lambda p: p.acquire(GOOD), TypeError, r"server must be the name of a server in the pool, not ScriptedServer"),
    (lambda p: p.call_tool(GOOD, "echo"), TypeError, r"server must be the name of a server in the pool, not Scripted"),
    (lambda p: p.call_tool("x", "echo"), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.session("x").__aenter__(), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.session("s", scope=[]).__aenter__(), TypeError, r"a scope's key must be hashable, which list is not"),
    (lambda p: p.acquire("s", scope={}), TypeError, r"a scope's key must be hashable, which dict is not"),
    (lambda p: p.list_tools("s", scope=[1]), TypeError, r"a scope's key must be hashable, which list is not"),
    (lambda p: p.open_scope([]).__aenter__(), TypeError, r"a scope's key must be hashable, which list is not"),
    (lambda p: p.open_scope(servers=[GOOD]).__aenter__(), TypeError, r"servers must be a mapping"),
    (lambda p: p.open_scope(servers={"x": 3}).__aenter__(), TypeError, r"servers\['x'\] must be a StdioServer"),
    (lambda p: p.wait_ready("x"), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.wait_ready(["s"]), TypeError, r"server must be the name of a server in the pool, not list"),
    (lambda p: p.drain("x"), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.remove_server("x"), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.reconfigure({"s": 1}), TypeError, r"servers\['s'\] must be a StdioServer"),
    (lambda p: p.reconfigure("mcp.json"), TypeError, r"servers must be a mapping of names to servers"),
]
SYNC: list[tuple[Callable[[Pool], Any], type[Exception], str]] = [
    (lambda p: p.acquire_nowait("x"), UnknownServerError, r"the pool has no server 'x'"),
    (lambda p: p.acquire_nowait("s", scope=[]), TypeError, r"a scope's key must be hashable"),
    (lambda p: p.add_server("s", GOOD), ValueError, r"the pool has a server 's' already; use reconfigure to change it"),
    (lambda p: p.add_server("", GOOD), TypeError, r"a server's name must be a non-empty str"),
    (lambda p: p.add_server("t", "python"), TypeError, r"servers\['t'\] must be a StdioServer"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "kind", "says"), CALLS, ids=[says for _, _, says in CALLS])
async def test_a_wrong_call_fails_alone(
    call: Callable[[Pool], Any], kind: type[Exception], says: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pool({"s": ScriptedServer(), "files": ScriptedServer()}) as pool:
        with pytest.raises(kind, match=says) as caught:
            await call(pool)
        assert type(caught.value) is kind
        assert check_books(pool).connects == 0
        await pool.call_tool("s", "echo", {"text": "x"})


@pytest.mark.parametrize(("call", "kind", "says"), SYNC, ids=[says for _, _, says in SYNC])
async def test_a_wrong_synchronous_call_fails_alone(
    call: Callable[[Pool], Any], kind: type[Exception], says: str
) -> None:
    async with open_pool({"s": GOOD}) as pool:
        with pytest.raises(kind, match=says):
            call(pool)


async def test_an_unknown_server_is_a_KeyError_that_reads_like_a_sentence() -> None:
    async with open_pool({"files": GOOD}) as pool:
        with pytest.raises(KeyError) as caught:
            await pool.acquire("fles")
        assert str(caught.value) == "the pool has no server 'fles'; did you mean 'files'?"
        assert isinstance(caught.value, UnknownServerError)
        assert (caught.value.server, caught.value.suggestion) == ("fles", "files")
    async with open_pool({}) as pool:
        with pytest.raises(UnknownServerError, match="it has none"):
            await pool.acquire("files")


async def test_a_factory_that_returns_no_client_is_named_in_the_error() -> None:
    class Wrong:
        async def __aenter__(self) -> int:
            return 3

        async def __aexit__(self, *_: Any) -> None:
            pass

    async with open_pool({"s": CustomServer(Wrong)}) as pool:  # type: ignore[arg-type]
        with pytest.raises(ConnectError, match=r"CustomServer\.factory must give an mcp\.Client, not int") as caught:
            await pool.wait_ready()
        assert isinstance(caught.value.__cause__, TypeError)


async def test_a_lease_cannot_be_entered_twice(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool({"s": ScriptedServer()}) as pool:
        lease = pool.session("s")
        async with lease:
            with pytest.raises(RuntimeError, match=r"call session\(\) again"):
                await lease.__aenter__()
