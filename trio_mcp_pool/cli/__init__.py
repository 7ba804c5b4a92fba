"""The command line: `trio-mcp-pool`. It stands on the public surface of the package alone.

Results go to stdout, what went wrong to stderr. The exit status is 0 when all went well, 1 when something that should have
happened did not, 2 for a wrong command line, and 130 after control-C.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trio-mcp-pool", description="A pool of MCP sessions for Trio programs.")
    version = importlib.metadata.version("trio-mcp-pool")
    parser.add_argument("--version", action="version", version=f"trio-mcp-pool {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "demo",
        help="show on real servers what the pool does, in under twenty seconds",
        description="Starts two small servers and shows what a session per call costs and what the pool does instead. "
        "Exits with 1, naming what failed, if anything it shows did not happen.",
    )
    serve = commands.add_parser(
        "demo-server",
        help="run one of the demo's servers, to try a client on",
        description="Runs one of the demo's servers until its stdin ends.",
    )
    serve.add_argument(
        "name",
        choices=["notebook", "board"],
        help="notebook speaks over stdin and stdout; board over HTTP, and prints its port",
    )
    serve.add_argument("--port", type=int, default=0, help="board only: the port on 127.0.0.1; 0, the default, is any")
    return parser


def _show() -> int:
    from ._demo import run_demo

    return run_demo()


def _serve(name: str, port: int) -> int:
    # Imported by name here so that the demo itself does not pay for a web server it runs in another process.
    if name == "notebook":
        from ._servers import notebook

        notebook.main()
    else:
        from ._servers import board

        board.main(["--port", str(port)])
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, by default the program's own; gives the exit status."""
    options = _parser().parse_args(arguments)
    status = 130
    try:
        status = _show() if options.command == "demo" else _serve(options.name, options.port)
    except* KeyboardInterrupt:  # out of a nursery of the SDK it comes in a group
        print("interrupted", file=sys.stderr)
    return status
