"""What the error of a dial says: how far it came, what the other side did, and what is usually wrong then."""

from __future__ import annotations

import logging
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trustme

from tests.servers.http import running
from tests.servers.raw_http import Plan, raw_server, status
from trio_mcp_pool import AuthenticationError, ConnectError, HttpServer, PoolPolicy, Server, StdioServer, open_pool

Transport = Literal["streamable-http", "sse"]
Wire = Literal["trio", "sdk"]

pytestmark = pytest.mark.parametrize("wire", ["trio", "sdk"])


async def failure(server: Server, connect_timeout: float = 20) -> ConnectError:
    """The error of a dial."""
    with trio.fail_after(30):
        async with open_pool(
            {"s": server}, policy=PoolPolicy(connect_timeout=connect_timeout, close_timeout=4)
        ) as pool:
            with pytest.raises(ConnectError) as caught:
                await pool.wait_ready("s")
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    return caught.value


async def dial(program: str, wire: Wire) -> ConnectError:
    """The error of a dial of this program. On the SDK's wire it runs once it is sent something: its pid is known then."""
    if wire == "sdk":
        program = f"input(); {program}"
    return await failure(StdioServer(sys.executable, ["-c", program], wire=wire))


async def test_the_exit_status_and_the_last_of_stderr_are_in_the_error_and_its_text(wire: Wire) -> None:
    error = await dial("import sys; sys.stderr.write('no database\\n'); sys.exit(3)", wire)
    assert (error.exit_status, error.stderr_tail.strip(), error.phase) == (3, "no database", "handshake")
    assert "(exit status 3)" in str(error)
    assert str(error).endswith("; the last of its stderr: no database")


async def test_a_child_that_wrote_nothing_is_not_said_to_have_written(wire: Wire) -> None:
    error = await dial("import sys; sys.exit(4)", wire)
    assert "(exit status 4)" in str(error)
    assert "stderr" not in str(error)


async def test_the_last_500_characters_of_stderr_are_shown(wire: Wire) -> None:
    error = await dial("import sys; sys.stderr.write('a' * 100 + 'b' * 500); sys.exit(3)", wire)
    assert str(error).endswith("; the last of its stderr: " + "b" * 500)
    assert error.stderr_tail == "a" * 100 + "b" * 500


# A command that cannot be started.


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


async def test_a_whole_command_in_one_string_is_told_where_arguments_go(wire: Wire) -> None:
    error = await failure(StdioServer(f"{sys.executable} -m tests.servers.features_stdio", wire=wire))
    assert error.phase == "spawn"
    assert isinstance(error.__cause__, FileNotFoundError)
    assert f"arguments go into args: StdioServer({sys.executable!r}, [...])" in str(error)
    error = await failure(StdioServer("no-such-command -y it", wire=wire))
    assert "arguments go into args: StdioServer('no-such-command', [...])" in str(error)


async def test_the_error_says_which_of_command_and_cwd_is_missing(wire: Wire, tmp_path: Path) -> None:
    error = await failure(StdioServer(sys.executable, cwd=tmp_path / "nowhere", wire=wire))
    assert str(error).endswith("; the working directory (cwd) does not exist")
    error = await failure(StdioServer(sys.executable, cwd=sys.executable, wire=wire))
    assert str(error).endswith("; the working directory (cwd) is not a directory")
    error = await failure(StdioServer("no-such-command", cwd=tmp_path, wire=wire))
    assert "; the command is not on the PATH that the server is given" in str(error)
    error = await failure(StdioServer(tmp_path / "no such server", wire=wire))
    assert str(error).endswith("; the command does not exist")
    error = await failure(StdioServer("./server", cwd=tmp_path, wire=wire))
    assert str(error).endswith("; the command does not exist, seen from cwd")


@pytest.mark.parametrize("field", ["command", "cwd"])
async def test_a_tilde_is_said_to_be_the_shells(wire: Wire, field: str) -> None:
    given: dict[str, Any] = {"command": sys.executable, field: "~/server"}
    error = await failure(StdioServer(**given, wire=wire))
    assert f"does not exist; '~' is for shells: write {field}=os.path.expanduser(...)" in str(error)


async def test_a_command_that_is_there_but_cannot_be_run_is_told_why(wire: Wire, tmp_path: Path) -> None:
    error = await failure(StdioServer(tmp_path, wire=wire))
    assert str(error).endswith("; the command is a directory")
    (plain := tmp_path / "server.py").write_text("")
    error = await failure(StdioServer(plain, wire=wire))
    assert "; the command may not be executed: make it executable, or run its interpreter" in str(error)
    error = await failure(StdioServer(executable(tmp_path / "script", "#!/no/such/interpreter\n"), wire=wire))
    assert str(error).endswith("; the command exists, so the interpreter that its first line names does not")


async def test_a_silent_server_is_warned_of_at_a_third_of_the_time_with_its_stderr(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trio_mcp_pool")
    # A shell, which has written long before the time of the warning.
    server = StdioServer("sh", ["-c", "echo 'Ok to proceed? (y)' >&2; exec sleep 60"], wire=wire)
    error = await failure(server, connect_timeout=3)
    assert str(error) == (
        "server 's' gave no session within connect_timeout (3 s), in phase 'handshake'; "
        "the last of its stderr: Ok to proceed? (y)"
    )
    (warned,) = [record.message for record in caplog.records if "has given no session" in record.message]
    assert re.sub(r"for \S+ s,", "for N s,", warned) == (
        "server 's' has given no session for N s, in phase 'handshake'; connect_timeout is 3 s; "
        "its stderr so far: Ok to proceed? (y)"
    )


# Over HTTP. A query may hold a key, so it is nowhere shown.


@pytest.fixture(params=["streamable-http", "sse"])
def transport(request: pytest.FixtureRequest) -> Transport:
    name: Transport = request.param
    return name


async def test_https_on_a_port_for_http_names_tls_and_what_came_instead(wire: Wire, transport: Transport) -> None:
    async with raw_server() as server:
        url = f"https://127.0.0.1:{server.port}/mcp?key=secret"
        error = await failure(HttpServer(url, transport=transport, wire=wire))
    assert f"https://127.0.0.1:{server.port}: TLS failed: the other side " in str(error)
    assert str(error).endswith("; is it an http:// address?")


async def test_an_unknown_authority_is_told_where_it_is_given(wire: Wire, transport: Transport) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with raw_server(ssl_context=context) as server:
        error = await failure(HttpServer(server.url, transport=transport, wire=wire))
    assert f"https://localhost:{server.port}: TLS failed: its certificate was not accepted (" in str(error)
    assert str(error).endswith("; a private authority is given as ssl_context=")


async def test_an_unknown_host_and_a_refused_port_are_named(wire: Wire, transport: Transport) -> None:
    error = await failure(HttpServer("http://no-such-host.invalid/mcp?key=secret", transport=transport, wire=wire))
    assert "the host of no-such-host.invalid:80 is not known (" in str(error)
    error = await failure(HttpServer("http://127.0.0.1:1/mcp?key=secret", transport=transport, wire=wire))
    assert "127.0.0.1:1 refused the connection" in str(error)


HTML = b"<html><body>Welcome</body></html>"
PLACES: dict[str, tuple[Plan, str]] = {
    "404": (status(404), "answered 404 and no MCP message; is the path {path}?"),
    "404 page": (status(404, "content-type: text/html", body=HTML), "answered 404 with text/html; is the path {path}?"),
    "page": (
        status(200, "content-type: text/html; charset=utf-8", body=HTML),
        "answered 200 with text/html; is the path {path}?",
    ),
    "405": (status(405), "answered 405 and no MCP message; does it speak the other transport? Try transport='{other}'"),
    "503": (status(503, "content-type: text/plain", body=b"down"), "answered 503 with text/plain"),
    "401": (
        status(401, 'www-authenticate: Bearer scope="read"'),
        'answered 401: it wants credentials, which HttpServer takes as headers= or auth=; it asks for: Bearer scope="read"',
    ),
    "403": (status(403), "answered 403: it refuses the credentials that it was given, or this request with them"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_an_answer_that_is_no_mcp_names_url_status_and_what_to_try(
    wire: Wire, transport: Transport, place: str
) -> None:
    plan, told = PLACES[place]
    async with raw_server() as server:
        server.routes["/here"] = plan
        url = f"http://127.0.0.1:{server.port}/here"
        error = await failure(HttpServer(f"{url}?key=secret", transport=transport, wire=wire))
    ours, other = ("/sse", "streamable-http") if transport == "sse" else ("/mcp", "sse")
    assert str(error).endswith(f"{url} {told.format(path=ours, other=other)}")
    assert isinstance(error, AuthenticationError) == (place in ("401", "403"))


@pytest.fixture(scope="module", params=["streamable-http", "sse"])
def mistaken(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, str]]:
    """The URL of a server of the SDK's, the transport that it speaks, and the other one."""
    speaks = request.param
    with running("plain" if speaks == "streamable-http" else "sse") as url:
        yield url, speaks, "sse" if speaks == "streamable-http" else "streamable-http"


async def test_the_other_transport_is_named_where_that_is_what_the_server_speaks(
    wire: Wire, mistaken: tuple[str, Transport, Transport]
) -> None:
    url, speaks, other = mistaken
    error = await failure(HttpServer(url, transport=other, wire=wire))
    assert f"{url} answered 40" in str(error)
    assert str(error).endswith(f"; does it speak the other transport? Try transport='{speaks}'")
