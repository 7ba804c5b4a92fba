"""A server of FastMCP, the Python framework, for the tests: it is run by an environment that has that framework and not this
package.

python fastmcp_server.py stdio
python fastmcp_server.py http PORT
"""

import sys

from fastmcp import Context, FastMCP  # type: ignore[import-not-found]

server = FastMCP("framed")


@server.tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool
async def count(to: int, context: Context) -> str:
    """Report progress up to a number."""
    for number in range(1, to + 1):
        await context.report_progress(number, to)
    return "counted"


@server.tool
def fail() -> str:
    """Fail."""
    raise ValueError("as it should")


if sys.argv[1] == "stdio":
    server.run(show_banner=False)
else:
    server.run(transport="http", host="127.0.0.1", port=int(sys.argv[2]), show_banner=False)
