"""The servers that the tests install are there and start."""

from __future__ import annotations

import mcp
import pytest
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.servers.install import RealServers


@pytest.mark.parametrize("name", ["filesystem", "memory", "time", "calculator"])
async def test_an_installed_server_lists_its_tools(name: str, real_servers: RealServers, tmp_path: object) -> None:
    command, *args = getattr(real_servers, name)
    if name == "filesystem":
        args.append(str(tmp_path))
    with trio.fail_after(30):
        transport = stdio_client(StdioServerParameters(command=command, args=args))
        async with mcp.Client(transport) as client:
            listed = await client.list_tools()
    expected = {"filesystem": 14, "memory": 9, "time": 2, "calculator": 1}
    assert len(listed.tools) == expected[name]
