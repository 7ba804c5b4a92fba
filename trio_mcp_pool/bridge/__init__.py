"""The pool for programs that do not run Trio: `BlockingPool` for threads, `AsyncioPool` for asyncio.

    with BlockingPool({"notes": StdioServer("python", ["notes_server.py"])}) as pool:
        result = pool.call_tool("notes", "add", {"text": "milk"})

    async with AsyncioPool({"notes": StdioServer("python", ["notes_server.py"])}) as pool:
        result = await pool.call_tool("notes", "add", {"text": "milk"})

The pool runs as ever, on a Trio thread of its own, so every rule of it holds; the bridge carries calls, cancellations,
context variables and errors across. It stands on the public surface of `trio_mcp_pool` alone.
"""

from __future__ import annotations

from ._asyncio import AsyncioPool as AsyncioPool
from ._asyncio_handles import AsyncioProxy as AsyncioProxy
from ._asyncio_handles import AsyncioScopedPool as AsyncioScopedPool
from ._asyncio_handles import AsyncioSession as AsyncioSession
from ._blocking import BlockingPool as BlockingPool
from ._blocking_handles import BlockingProxy as BlockingProxy
from ._blocking_handles import BlockingScopedPool as BlockingScopedPool
from ._blocking_handles import BlockingSession as BlockingSession
