"""A scripted MCP server for tests: ours and yours.

    import trio
    from trio_mcp_pool import open_pool
    from trio_mcp_pool.testing import ScriptedServer, error, never, ok, slow

    async def test_my_agent_survives_a_crash(autojump_clock):
        server = ScriptedServer({"lookup": lambda word: f"{word}: a word"})
        async with open_pool({"dictionary": server}) as pool:
            assert await ask_my_agent(pool) == "a word"
            server.kill()
            assert await ask_my_agent(pool) == "a word"
        assert len(server.connections) == 2

`ScriptedServer` lives in the test's own process and on Trio's clock: use it with the `autojump_clock` fixture of pytest-trio
and tests about minutes of waiting take milliseconds. `scripted_stdio_server` is the same script as a real child process.
"""

from __future__ import annotations

from ._gates import Gate as Gate
from ._gates import GateTable as GateTable
from ._gates import Hold as Hold
from ._gates import Stage as Stage
from ._gates import error as error
from ._gates import hold as hold
from ._gates import never as never
from ._gates import ok as ok
from ._gates import slow as slow
from ._records import CallRecord as CallRecord
from ._records import ConnectionRecord as ConnectionRecord
from ._server import ScriptedServer as ScriptedServer
from ._stdio import read_log as read_log
from ._stdio import scripted_stdio_server as scripted_stdio_server
from ._tools import Tool as Tool
from ._tools import ToolContext as ToolContext
from ._tools import tool as tool
