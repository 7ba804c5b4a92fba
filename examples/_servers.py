"""How the examples start the servers that come with the package. Yours are started in the same way, with your command."""

from __future__ import annotations

import sys
from pathlib import Path

import trio_mcp_pool.cli

NOTEBOOK = str(Path(trio_mcp_pool.cli.__file__).parent / "_servers" / "notebook.py")
"""A server that remembers what is written to it, for as long as its process lives."""

notebook_command = (sys.executable, [NOTEBOOK])
"""The command of a `StdioServer`, and its arguments."""
