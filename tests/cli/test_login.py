"""`login` against an authorization server on this machine: the browser's part is played by the test."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.driving import Cli


class Guarded(http.server.ThreadingHTTPServer):
    """An MCP server that wants a token, and the authorization server that gives one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.challenges: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.lifetime = 3600
        self.refreshed = 0
        self.refuse = False


class Handler(http.server.BaseHTTPRequestHandler):
    server: Guarded
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, data: Any = None, **headers: str) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        base, parts = self.server.base, urlsplit(self.path)
        if "oauth-protected-resource" in parts.path:
            self.answer(200, {"resource": f"{base}/mcp", "authorization_servers": [base]})
        elif "oauth-authorization-server" in parts.path or "openid-configuration" in parts.path:
            self.answer(
                200,
                {
                    "issuer": base,
                    "authorization_endpoint": f"{base}/authorize",
                    "token_endpoint": f"{base}/strange/token",
                    "registration_endpoint": f"{base}/register",
                    "response_types_supported": ["code"],
                    "code_challenge_methods_supported": ["S256"],
                },
            )
        elif parts.path == "/authorize":
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.server.challenges["the-code"] = query["code_challenge"]
            result = "error=access_denied" if self.server.refuse else "code=the-code"
            self.answer(302, Location=f"{query['redirect_uri']}?{result}&state={query['state']}")
        else:
            self.answer(405)

    def do_DELETE(self) -> None:
        self.answer(405)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/register":
            self.answer(201, {**json.loads(body), "client_id": "client-7"})
        elif self.path == "/strange/token":
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            if form["grant_type"] == "authorization_code":
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                assert self.server.challenges[form["code"]] == challenge
            else:
                assert form["refresh_token"] == "refresh-hunter2"
                self.server.refreshed += 1
            token = f"access-hunter2-{len(self.server.tokens)}"
            self.server.tokens.add(token)
            self.answer(
                200,
                {
                    "access_token": token,
                    "token_type": "Bearer",
                    "expires_in": self.server.lifetime,
                    "refresh_token": "refresh-hunter2",
                },
            )
        else:
            self._mcp(json.loads(body))

    def _mcp(self, message: dict[str, Any]) -> None:
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.server.tokens:
            where = f'Bearer resource_metadata="{self.server.base}/.well-known/oauth-protected-resource/mcp"'
            self.answer(401, {"error": "unauthorized"}, WWW_Authenticate=where)
        elif "id" not in message:
            self.answer(202)
        else:
            results: dict[str, Any] = {
                "initialize": {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "guarded", "version": "1"},
                },
                "tools/list": {"tools": [{"name": "secret", "inputSchema": {"type": "object"}}]},
            }
            found = results.get(message["method"])
            part = {"result": found} if found is not None else {"error": {"code": -32601, "message": "no such method"}}
            self.answer(200, {"jsonrpc": "2.0", "id": message["id"], **part})


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with Guarded() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def log_in(cli: Cli, target: str) -> tuple[int, str]:
    """Log in as a person with a browser would; gives the exit status and what was said."""
    process = cli.start("login", target, "--no-browser")
    with process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "/authorize?" in line:
                break
        parts = urlsplit(line.strip())
        if parts.path == "/authorize":
            location = get(parts.netloc, f"{parts.path}?{parts.query}")
            back = urlsplit(location)
            get(back.netloc, "/favicon.ico")
            get(back.netloc, f"{back.path}?{back.query}")
        said += process.stderr.read()
        process.wait(timeout=30)
    assert "Traceback" not in said, said
    return process.returncode, said


def get(netloc: str, path: str) -> str:
    connection = http.client.HTTPConnection(netloc, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.getheader("Location", "")


def test_login_keeps_the_tokens_for_the_commands_and_logout_forgets_them(cli: Cli, guarded: Guarded) -> None:
    url = f"{guarded.base}/mcp"
    assert cli("list", url).code == 3
    code, said = log_in(cli, url)
    assert code == 0, said
    assert "logged in" in said
    assert "hunter2" not in said, "R16"
    done = cli("list", url)
    assert done.code == 0, done
    assert "secret()" in done.out
    kept = cli.folder / "home" / ".local" / "share" / "trio-mcp-pool"
    assert (kept / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in (kept / "logins.json").read_text()
    assert cli("logout", url).err == "127.0.0.1: logged out\n"
    assert "hunter2" not in (kept / "tokens.json").read_text()
    assert cli("logout", url).err == "127.0.0.1: there was no login\n"
    assert cli("list", url).code == 3


def test_a_token_that_has_expired_is_refreshed_where_the_server_said(cli: Cli, guarded: Guarded) -> None:
    guarded.lifetime = 1
    cli.configure({"guarded": {"url": f"{guarded.base}/mcp", "oauth": True}})
    code, said = log_in(cli, "guarded")
    assert code == 0, said
    guarded.tokens.clear()
    time.sleep(guarded.lifetime + 0.1)  # the shortest that can be said of a token is one second
    done = cli("list", "guarded")
    assert done.code == 0, done
    assert guarded.refreshed >= 1


def test_a_refused_login_is_an_authentication_failure(cli: Cli, guarded: Guarded) -> None:
    guarded.refuse = True
    code, said = log_in(cli, f"{guarded.base}/mcp")
    assert code == 3, said


def test_only_a_server_over_http_has_a_login(cli: Cli, url: str) -> None:
    assert "only those have logins" in cli("login", "echo").err
    assert "name one server" in cli("login").err
    done = cli("login", url)
    assert (done.code, done.err) == (0, "127.0.0.1: the server asks for no login\n")
