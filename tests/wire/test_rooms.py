"""The rooms of the wire: `jsonrpc/` knows no bytes, the transports do not know each other, and the seam is in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import trio_mcp_pool

WIRE = Path(trio_mcp_pool.__file__).parent / "_wire"
UNDOCUMENTED = {"mcp.shared.dispatcher", "mcp.shared.jsonrpc_dispatcher"}


def imported(path: Path) -> set[str]:
    """The absolute names of the modules that a module imports, wherever in it."""
    here = ["trio_mcp_pool", "_wire", *path.relative_to(WIRE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            found.add(".".join(base + (node.module.split(".") if node.module else [])))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_a_transport_knows_json_rpc_and_not_the_other_way_round_nor_another_transport() -> None:
    forbidden = {"jsonrpc": ("stdio", "http"), "stdio": ("http",), "http": ("stdio",)}
    for room, others in forbidden.items():
        for path in (WIRE / room).glob("*.py"):
            for name in imported(path):
                assert not name.startswith(tuple(f"trio_mcp_pool._wire.{other}" for other in others)), (path, name)


def test_what_the_sdk_does_not_document_goes_through_the_seam() -> None:
    users = {path.name for path in WIRE.rglob("*.py") if imported(path) & UNDOCUMENTED}
    assert users == {"_seam.py"}
