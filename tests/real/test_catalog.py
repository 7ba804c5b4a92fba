"""The catalogue and tool sets against servers that nobody here wrote, and one of the SDK's that changes while it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.servers.install import RealServers
from trio_mcp_pool import HttpServer, Server, StdioServer, open_pool

ROOT = Path(__file__).resolve().parents[2]


async def test_the_tools_of_four_real_servers_are_one_list_with_a_dead_one_beside(
    real_servers: RealServers, tmp_path: Path
) -> None:
    files, memory, clock, calculator = (
        real_servers.filesystem,
        real_servers.memory,
        real_servers.time,
        real_servers.calculator,
    )
    servers: dict[str, Server] = {
        "files": StdioServer(files[0], [*files[1:], str(tmp_path)]),
        "memory": StdioServer(memory[0], memory[1:], env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}),
        "dead": StdioServer("/no/such/program"),
        "time": StdioServer(clock[0], clock[1:]),
        "calculator": StdioServer(calculator[0], calculator[1:]),
    }
    with trio.fail_after(60):
        async with open_pool(servers) as pool:
            tools = await pool.toolset(within=30)
            of = {name.partition("__")[0] for name in tools.names}
            assert of == {"files", "memory", "time", "calculator"}
            assert list(pool.catalog.problems) == ["dead"]
            assert tools.problems == {}
            (tmp_path / "a.txt").write_text("here")
            outcomes = await tools.run(
                [
                    ("files__read_text_file", {"path": str(tmp_path / "a.txt")}),
                    ("memory__read_graph", {}),
                    ("time__get_current_time", '{"timezone": "Europe/Paris"}'),
                    ("calculator__calculate", {"expression": "6*7"}),
                    ("files__read_text_file", {"pth": "x"}),
                ]
            )
            assert [outcome.is_error for outcome in outcomes] == [False, False, False, False, True]
            assert [outcomes[0].text, outcomes[3].text] == ["here", "42"]
            assert "missing 'path'" in outcomes[4].text
            strict = tools.to_openai(strict=True)
            assert sum(each["function"]["strict"] for each in strict) >= len(strict) // 2


@contextmanager
def serving() -> Iterator[int]:
    """The changing server over HTTP; gives its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers.changing", "http"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_server_that_changes_its_tools_is_known_within_one_round_trip(transport: str, mode: str) -> None:
    if transport == "stdio":
        server: Server = StdioServer(sys.executable, ["-m", "tests.servers.changing", "stdio"], cwd=ROOT, mode=mode)
        await change(server)
        return
    with serving() as port:
        await change(HttpServer(f"http://127.0.0.1:{port}/mcp", mode=mode))


async def change(server: Server) -> None:
    with trio.fail_after(30):
        async with open_pool({"s": server}) as pool:
            tools = await pool.toolset()
            assert tools.names == ("s__add", "s__remove")
            changes = pool.catalog.changes()
            for tool, name, names in [
                ("s__add", "new", ("s__add", "s__remove", "s__new")),
                ("s__remove", "new", ("s__add", "s__remove")),
            ]:
                await tools.call(tool, {"name": name})
                with trio.fail_after(5):
                    while tools.names != names:
                        await anext(changes)
            assert not any(entry.stale for entry in pool.catalog.tools)
