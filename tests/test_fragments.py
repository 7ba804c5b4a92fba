"""The blocks of these pages are parts of programs. They run one after the other in a program that has what they name."""

from __future__ import annotations

import ast
import dataclasses
import logging
import ssl
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import anyio
import mcp
import pytest
import trio
import trio.testing
import trustme
from mcp.server import MCPServer
from opentelemetry import trace

import trio_mcp_pool
from trio_mcp_pool import InProcessServer, open_pool

from .pages import DOCS, files, programs

FRAGMENTS = [
    "guide/errors.md",
    "guide/events.md",
    "guide/scopes.md",
    "guide/servers.md",
    "guide/sessions.md",
    "guide/sizing.md",
    "tutorial.md",
]
PROGRAMS = [("index.md", 0), ("guide/asyncio.md", 0), ("guide/threads.md", 0)]
PUBLIC = {name: getattr(trio_mcp_pool, name) for name in dir(trio_mcp_pool) if not name.startswith("_")}


def server_with_everything() -> InProcessServer:
    """The tools that the pages call."""
    server = MCPServer("everything")
    lines: list[str] = []

    @server.tool()
    def write(text: str) -> int:
        lines.append(text)
        return len(lines)

    @server.tool(structured_output=True)
    def read() -> dict[str, list[str]]:
        return {"lines": lines}

    @server.tool()
    async def look_up(text: str, seconds: float) -> str:
        await anyio.sleep(seconds)
        return text

    @server.tool()
    def order(item: int) -> str:
        return f"{item} ordered"

    for name in ("query", "search"):

        @server.tool(name=name)
        def find(text: str) -> str:
            return f"{text} found"

    @server.tool()
    def run(command: str) -> str:
        return f"{command}: done"

    @server.resource("memo://notes")
    def notes() -> str:
        return "notes"

    return InProcessServer(server)


async def run_block(page: str, line: int, code: str, names: dict[str, Any]) -> None:
    """Run one, awaiting where it stands at the top."""
    compiled = compile("\n" * line + code, str(DOCS / page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waits = FunctionType(compiled, names)()
    if waits is not None:
        with trio.move_on_after(100):  # a loop over changes has no end
            await waits


@pytest.mark.parametrize("page", FRAGMENTS)
async def test_the_blocks_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("our-authority.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path("our-client.pem")
    servers = {
        name: server_with_everything() for name in ("shop", "notebook", "files", "shell", "search", "office", "browser")
    }
    blocks = [block for block in programs(page) if not block.code.rstrip().endswith("trio.run(main)")]
    assert blocks
    async with open_pool(servers) as pool, trio.open_nursery() as nursery:
        names: dict[str, Any] = {
            **PUBLIC,
            **{module.__name__: module for module in (dataclasses, mcp, ssl, trio)},
            "ContextVar": ContextVar,
            "log": logging.getLogger("program"),
            "partial": partial,
            "trace": trace,
            "fresh_headers": dict,
            "nursery": nursery,
            "oauth": None,
            "pool": pool,
            "search": servers["search"],
            "servers": servers,
            "text": "x",
            "uri": "memo://notes",
            "url": "http://127.0.0.1:9/mcp",
            "user": SimpleNamespace(id="ada", folder=str(tmp_path)),
        }
        for block in blocks:
            kept = {name: names[name] for name in ("nursery", "pool", "servers")}
            await run_block(page, block.line, block.code, names)
            names.update(kept)  # what a block calls so is its own
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_a_program_of_a_page_runs_with_the_server_of_the_guide(
    page: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    for file in files("guide/servers.md"):
        Path(file.name).write_text(file.text)
    block = programs(page)[number]
    names: Mapping[str, Any] = {**PUBLIC, "__name__": "__main__", "trio": trio, "lines": ["milk", "bread"]}
    if block.code.startswith("async with"):

        async def main() -> None:
            with trio.fail_after(60):
                await run_block(page, block.line, block.code, {**names})

        trio.run(main)
    else:
        exec(compile("\n" * block.line + block.code, str(DOCS / page), "exec"), {**names})
