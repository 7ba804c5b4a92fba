"""What an error says of a child that could not be dialled: how far the dial came, how the child ended, what it wrote."""

from __future__ import annotations

import sys

import pytest
import trio

from trio_mcp_pool import ConnectError, PoolPolicy, StdioServer, open_pool


async def dial(program: str) -> ConnectError:
    """The error of a dial of this program."""
    server = StdioServer(sys.executable, ["-c", program], policy=PoolPolicy(connect_timeout=20))
    with trio.fail_after(30):
        async with open_pool({"s": server}) as pool:
            with pytest.raises(ConnectError) as caught:
                await pool.wait_ready("s")
    return caught.value


async def test_the_exit_status_and_the_last_of_stderr_are_in_the_error_and_its_text() -> None:
    error = await dial("import sys; sys.stderr.write('no database\\n'); sys.exit(3)")
    assert (error.exit_status, error.stderr_tail.strip(), error.phase) == (3, "no database", "handshake")
    assert "(exit status 3)" in str(error)
    assert str(error).endswith("; the last of its stderr: no database")


async def test_a_child_that_wrote_nothing_is_not_said_to_have_written() -> None:
    error = await dial("import sys; sys.exit(4)")
    assert "(exit status 4)" in str(error)
    assert "stderr" not in str(error)
