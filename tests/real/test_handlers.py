"""R4 on real wires: a handler that calls its own exclusive server is told so, in both protocol eras."""

from __future__ import annotations

import sys
from typing import Any

import mcp_types as types
import pytest
import trio

from trio_mcp_pool import PoolPolicy, StdioServer, open_pool


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("wire", ["trio", "sdk"])
@pytest.mark.parametrize("tool", ["sample", "elicit", "roots"])
async def test_R4_a_handler_that_calls_its_own_exclusive_process_is_told_and_does_not_hang(
    tool: str, wire: Any, mode: Any
) -> None:
    told: list[str] = []

    async def handle(*_: Any) -> Any:
        try:
            await pool.list_tools("s")
        except RuntimeError as why:
            told.append(str(why))
        if tool == "sample":
            return types.CreateMessageResult(role="assistant", content=types.TextContent(text="well"), model="m")
        return types.ElicitResult(action="decline") if tool == "elicit" else types.ListRootsResult(roots=[])

    server = StdioServer(
        sys.executable,
        ["-m", "tests.servers.features_stdio"],
        mode=mode,
        wire=wire,
        sampling_callback=handle,
        elicitation_callback=handle,
        list_roots_callback=handle,
    )
    with trio.fail_after(60):
        async with open_pool({"s": server}, policy=PoolPolicy(max_in_flight=1)) as pool:
            with trio.fail_after(30):
                await pool.call_tool("s", tool, {})
            (what,) = told
            assert what.startswith("this task already holds every session of server 's'")
