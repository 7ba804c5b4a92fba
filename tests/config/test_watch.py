"""`watch_config`: every change, once, in a form that `Pool.reconfigure` takes. Under a virtual clock; the files are real."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trio
import trio.testing

from trio_mcp_pool import open_pool
from trio_mcp_pool.config import ConfigChange, ConfigError, load_servers, watch_config


def put(path: Path, servers: object) -> None:
    """Replace the file whole, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(servers if isinstance(servers, str) else json.dumps({"mcpServers": servers}))
    os.replace(new, path)


def told(change: ConfigChange) -> tuple[list[str], list[str], list[str], list[str]]:
    return sorted(change.servers), sorted(change.added), sorted(change.removed), sorted(change.changed)


async def after(changes: AsyncIterator[ConfigChange]) -> ConfigChange:
    with trio.fail_after(20):
        return await anext(changes)


async def test_the_first_change_is_all_and_each_further_one_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    put(path, {"a": {"command": "a"}, "b": {"command": "b"}})
    changes = watch_config(path, interval=0.01)
    assert told(await after(changes)) == (["a", "b"], ["a", "b"], [], [])
    put(path, {"a": {"command": "other"}, "c": {"command": "c"}})
    assert told(await after(changes)) == (["a", "c"], ["c"], ["b"], ["a"])


async def test_a_broken_file_keeps_the_servers_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    put(path, {"a": {"command": "a"}})
    changes = watch_config(path, since=load_servers(path), interval=0.01)
    put(path, "{")
    change = await after(changes)
    assert told(change) == (["a"], [], [], [])
    assert isinstance(change.error, ConfigError)
    assert change.problems
    path.unlink()
    change = await after(changes)
    assert told(change) == (["a"], [], [], [])
    assert isinstance(change.error, OSError)
    assert "cannot be read" in str(change.problems[0])
    put(path, {"a": {"command": "a"}, "b": {"command": "b"}})
    change = await after(changes)
    assert told(change) == (["a", "b"], ["b"], [], [])
    assert change.error is None


async def test_nothing_is_told_of_what_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    put(path, {"a": {"command": "a"}})
    changes = watch_config(path, since=load_servers(path), interval=0.01)
    with trio.move_on_after(0.3) as scope:
        put(path, '{"mcpServers": {"a": {"command": "a"}}} // the same')
        await anext(changes)
    assert scope.cancelled_caught


async def test_an_env_file_is_watched_too(tmp_path: Path) -> None:
    path, env = tmp_path / "mcp.json", tmp_path / ".env"
    env.write_text("A=1")
    put(path, {"a": {"command": "a", "envFile": ".env"}})
    changes = watch_config(path, interval=0.01)
    await after(changes)
    env.write_text("A=2 # changed")
    assert told(await after(changes)) == (["a"], [], [], ["a"])


async def test_it_drives_reconfigure(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    echo = {"command": sys.executable, "args": ["-m", "tests.servers.echo_stdio"]}
    put(path, {"a": echo})
    with trio.fail_after(60):
        async with open_pool({}) as pool:
            changes = watch_config(path, interval=0.01)
            await pool.reconfigure((await anext(changes)).servers)
            first = await pool.call_tool("a", "pid")
            put(path, {"a": echo, "b": echo})
            await pool.reconfigure((await anext(changes)).servers)
            assert (await pool.call_tool("a", "pid")).content == first.content, "an equal server keeps its session"
            await pool.call_tool("b", "pid")
            put(path, {"b": echo})
            await pool.reconfigure((await anext(changes)).servers)
            assert list(pool.servers) == ["b"] if hasattr(pool, "servers") else True


async def test_a_step_that_was_cancelled_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    put(path, {"a": {"command": "a"}})
    changes = watch_config(path, since=load_servers(path), interval=0.05)
    for _ in range(3):
        with trio.move_on_after(0.06) as scope:
            await anext(changes)
        assert scope.cancelled_caught
    put(path, {"b": {"command": "b"}})
    with trio.move_on_after(0.01):
        await anext(changes)
    assert told(await after(changes)) == (["b"], ["b"], ["a"], [])
