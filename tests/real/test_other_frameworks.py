"""Servers of two other frameworks, FastMCP in Python and in TypeScript, over stdio and over their own HTTP servers."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from tests.servers.install import InstallError, install_frameworks
from trio_mcp_pool import Caller, HttpServer, Server, StdioServer, open_pool, text_of

# Installing them takes as long as a tenth of the quick tests.
pytestmark = pytest.mark.exhaustive

FRAMEWORKS = ("FastMCP in Python", "FastMCP in TypeScript")


@pytest.fixture(scope="session")
def commands() -> dict[str, tuple[str, ...]]:
    try:
        return install_frameworks()
    except InstallError as error:
        pytest.fail(f"the frameworks could not be installed: {error}", pytrace=False)


@contextmanager
def serving(command: tuple[str, ...]) -> Iterator[str]:
    """The server over HTTP, in a process of its own; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [*command, "http", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


async def use(server: Server) -> None:
    """List, call, progress, an error, arguments that do not fit; fifty at once; nothing is left on either side."""
    heard: list[float] = []

    async def progress(caller: Caller, done: float, total: float | None, message: str | None) -> None:
        assert caller.tool == "count"
        heard.append(done)

    with trio.fail_after(90):
        async with open_pool({"framed": server}) as pool:
            while True:  # the one over HTTP takes a moment to listen
                tools = await pool.toolset()
                if not pool.catalog.problems:
                    break
                await trio.sleep(0.1)
                await pool.drain("framed")
                await pool.catalog.refresh()
            assert {"framed__add", "framed__count", "framed__fail"} <= set(tools.names)
            assert len(tools.to_anthropic()) == len(tools.to_openai()) == len(tools.names)
            assert text_of(await tools.call("framed__count", {"to": 3}, on_progress=progress)) == "counted"
            assert heard == [1, 2, 3]
            outcomes = await tools.run(
                [
                    ("framed__add", {"a": 1, "b": 2}),
                    ("framed__add", {"a": 1}),
                    ("framed__fail", {}),
                    ("framed__add", {"a": "x"}),
                ]
            )
            assert [outcome.is_error for outcome in outcomes] == [False, False, True, True]
            assert [outcomes[0].text, outcomes[1].text] == ["3", "2"]
            assert "as it should" in outcomes[2].text or "fail" in outcomes[2].text
            assert outcomes[3].outcome == "not run"
            sums: list[str] = []

            async def add(number: int) -> None:
                assert text_of(await pool.call_tool("framed", "add", {"a": number, "b": 1})) == str(number + 1)
                sums.append(str(number))

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(add, number)
            assert len(sums) == 50
            assert pool.statistics().size == 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_server_of_another_framework_over_stdio(framework: str, commands: dict[str, tuple[str, ...]]) -> None:
    command, *arguments = commands[framework]
    await use(StdioServer(command, [*arguments, "stdio"]))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_server_of_another_framework_over_http(
    framework: str, mode: str, commands: dict[str, tuple[str, ...]]
) -> None:
    with serving(commands[framework]) as url:
        await use(HttpServer(url, mode=mode))
