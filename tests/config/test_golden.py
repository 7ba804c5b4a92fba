"""Every format, and hostile files: what is read from each of them, one row a file.

`REGENERATE=1 pytest tests/config/test_golden.py` writes the rows anew; look at the difference before it is committed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from trio_mcp_pool import HttpServer, PoolPolicy, StdioServer
from trio_mcp_pool.config import ConfigError, Servers, load_servers

GOLDEN = Path(__file__).parent / "golden"
ENVIRON = {"HOME": "/home/ada", "TOKEN": "t0ken-hunter2", "WHO": "ada", "LEVEL": "high"}
FILES = sorted(
    path for path in GOLDEN.rglob("*") if path.suffix in (".json", ".toml") and not path.name.endswith(".row.json")
)


def policy_of(policy: PoolPolicy | None) -> dict[str, Any] | None:
    """What differs from the default."""
    if policy is None:
        return None
    plain = PoolPolicy()
    names = [field.name for field in dataclasses.fields(PoolPolicy)]
    return {name: str(getattr(policy, name)) for name in names if getattr(policy, name) != getattr(plain, name)}


def shown(server: Any) -> dict[str, Any]:
    if isinstance(server, StdioServer):
        row: dict[str, Any] = {
            "command": server.command,
            "args": list(server.args),
            "env": server.env,
            "cwd": server.cwd,
        }
    else:
        assert isinstance(server, HttpServer)
        headers = server.headers if isinstance(server.headers, dict | None) else repr(server.headers)
        row = {"url": server.url, "transport": server.transport, "headers": headers}
    row |= {
        "policy": policy_of(server.policy),
        "read_timeout": server.read_timeout_seconds,
        "wire": getattr(server, "wire", "trio"),
    }
    return {**row, "trusted": server.trusted}


def row_of(path: Path) -> Any:
    try:
        servers = load_servers(path, environ=ENVIRON)
    except ConfigError as error:
        return {"error": str(error).replace(str(GOLDEN), "GOLDEN").splitlines()}
    row = {
        "servers": {name: shown(server) for name, server in servers.items()},
        "entries": {name: f"{entry.host}{'' if entry.enabled else ', off'}" for name, entry in servers.entries.items()},
        "tools": {
            name: [entry.include_tools, entry.exclude_tools, entry.approved_tools]
            for name, entry in servers.entries.items()
            if entry.include_tools or entry.exclude_tools or entry.approved_tools
        },
        "options": servers.options,
        "problems": [str(problem) for problem in servers.problems],
    }
    text = json.dumps(row, indent=1, ensure_ascii=False).replace(str(GOLDEN), "GOLDEN")
    return json.loads(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_each_file_gives_its_servers_and_its_problems(path: Path) -> None:
    expected = path.with_name(path.name + ".row.json")
    row = row_of(path)
    if "REGENERATE" in os.environ:
        expected.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    assert row == json.loads(expected.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_no_secret_is_in_a_problem_or_a_repr(path: Path) -> None:
    """R16."""
    try:
        servers = load_servers(path, environ=ENVIRON)
    except ConfigError as error:
        text = str(error) + repr(error.problems)
    else:
        text = repr((servers, *servers.values(), *servers.entries.values(), servers.problems, servers.inputs))
    assert "hunter2" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_strict_raises_all_problems_of_a_file_at_once(path: Path) -> None:
    try:
        servers = load_servers(path, environ=ENVIRON)
    except ConfigError:
        return
    if not servers.problems:
        assert load_servers(path, environ=ENVIRON, strict=True) == servers
        return
    with pytest.raises(ConfigError) as raised:
        load_servers(path, environ=ENVIRON, strict=True)
    assert raised.value.problems == servers.problems


def test_a_file_of_fifty_megabytes_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(b'{"mcpServers": {' + b" " * 50_000_000 + b"}}")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="larger than 4194304 bytes"):
        load_servers(path)
    assert time.monotonic() - began < 10
    assert load_servers(path, max_size=60_000_000) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", "[" * 1_000_000),
        ("objects.json", '{"mcpServers":' * 100_000),
        ("commas.json", ", " * 500_000),
        ("quotes.json", '"' * 1_000_001),
        ("comments.json", "/*" * 500_000),
        ("digits.json", '{"mcpServers": {"a": {"command": "s", "timeout": ' + "1" * 1_000_000 + "}}}"),
        ("deep.toml", "a=" + "[" * 1_000_000),
        ("dots.toml", "a." * 500_000 + "a=1"),
        ("table.toml", "x = {" + "a." * 500_000 + "a=1}"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_a_text_made_to_hang_the_reader_does_not(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    began = time.monotonic()
    try:
        servers = load_servers(path)
    except ConfigError:
        pass
    else:
        assert servers.problems
    assert time.monotonic() - began < 10


def test_a_million_wrong_fields_are_told_of_two_hundred_times(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    fields = ",".join(f'"x{n}": 1' for n in range(20_000))
    path.write_text('{"mcpServers": {"a": {"command": "s", ' + fields + "}}}")
    servers = load_servers(path)
    assert isinstance(servers, Servers)
    assert list(servers) == ["a"]
    assert len(servers.problems) == 200
