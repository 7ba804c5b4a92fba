"""What workflow code calls: `mcp_server` and `mcp_scope`.

    files = mcp_server("files", start_to_close_timeout=timedelta(minutes=1))
    tools = await files.list_tools()
    result = await files.call_tool("read_text_file", {"path": "notes.txt"})

    async with mcp_scope("browser") as mine:
        await mine.call_tool("navigate", {"url": url})

Each call is an activity, on a worker that has a `PoolPlugin` with that server. Results are the protocol's own objects. A call
that has not run is tried again as the retry policy says; one that may have run is not, unless running it twice does no harm.
The obvious way, an activity with Temporal's own retries, runs tools twice whenever a worker is lost.
"""

from __future__ import annotations

from ._scope_handle import McpScope as McpScope
from ._scope_handle import mcp_scope as mcp_scope
from ._server_handle import McpServer as McpServer
from ._server_handle import mcp_server as mcp_server
