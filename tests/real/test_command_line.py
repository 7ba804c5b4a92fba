"""The command line against servers that nobody here wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.driving import Cli
from tests.servers.install import RealServers


@pytest.fixture
def cli(tmp_path: Path, real_servers: RealServers) -> Cli:
    """A configuration with all of them."""
    made = Cli(tmp_path)
    commands = {
        "files": (*real_servers.filesystem, str(tmp_path)),
        "memory": real_servers.memory,
        "time": real_servers.time,
        "calculator": real_servers.calculator,
    }
    servers = {name: {"command": command[0], "args": list(command[1:])} for name, command in commands.items()}
    servers["memory"]["env"] = {"MEMORY_FILE_PATH": str(tmp_path / "graph-{run}.jsonl")}  # type: ignore[assignment]
    made.configure(servers)
    return made


def test_they_are_listed_and_called(cli: Cli) -> None:
    done = cli("list", "--format", "json")
    assert done.code == 0, done
    found = {server["server"]: (server["protocolVersion"], len(server["tools"]) > 0) for server in done.json}
    assert found == {
        "files": ("2025-11-25", True),
        "memory": ("2025-11-25", True),
        "time": ("2026-07-28", True),
        "calculator": ("2025-11-25", True),
    }
    assert cli("call", "calculator.calculate", "expression=2+3").out == "5\n"
    assert json.loads(cli("call", "time.get_current_time", "timezone=UTC").out)["timezone"] == "UTC"
    done = cli("call", "files.read_text_file", "path=/nope")
    assert done.code == 5
    assert "Access denied" in done.err


def test_the_hammer_finds_that_the_memory_loses_writes_and_that_its_advice_mends_it(cli: Cli) -> None:
    entities = 'entities:=[{"name": "e{i}", "entityType": "t", "observations": []}]'
    words = ("check", "--hammer", "memory.create_entities", "--arg", entities, "--then", "read_graph", "--calls", "30")
    done = cli(*words)
    assert done.code == 5, done
    assert "afterwards: different" in done.out
    path = cli.folder / "mcp.json"
    config = json.loads(path.read_text())
    config["mcpServers"]["memory"]["pool"] = {"max_in_flight": 1}
    path.write_text(json.dumps(config))
    for graph in cli.folder.glob("graph-*"):
        graph.unlink()
    done = cli(*words)
    assert done.code == 0, done
    assert "afterwards: the same" in done.out
