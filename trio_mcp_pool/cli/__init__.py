"""The command line: `trio-mcp-pool`. It stands on the public surface of the package alone.

Results go to stdout, everything else to stderr. Commands are imported when they run: `--help` must not wait for the MCP SDK.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def _run_demo() -> int:
    from ._demo import run_demo

    return run_demo()


def _run_server(name: str, port: int) -> int:
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
    whole_program = arguments is None
    if whole_program:
        # While the SDK is imported, an interrupt would come out as a traceback through whatever module it hits.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ._parser import parse

    status = 130
    try:
        options = parse(list(sys.argv[1:] if arguments is None else arguments))
        if options.command == "completion":
            from ._completion import print_script

            return print_script(options.shell)
        if options.command == "__complete":
            from ._completion import print_words

            return print_words(options.words)
        if options.command in ("demo", "demo-server"):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return _run_demo() if options.command == "demo" else _run_server(options.name, options.port)
        from ._run import run_command

        status = run_command(options)
        if whole_program:
            # Nothing is left to be interrupted, and Python would complain of a signal that comes while it ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except* KeyboardInterrupt:  # out of a nursery of the SDK it comes in a group
        print("interrupted", file=sys.stderr)
    return status
