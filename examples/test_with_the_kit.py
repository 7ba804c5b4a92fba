"""Your own tests, on the testing kit: a scripted server, and a clock that jumps.

`summarise` is the program under test. The tests make its server slow, dead or absent, and take no time.

    pytest examples/test_with_the_kit.py

pytest-trio runs them, with `trio_mode = true` in the configuration of pytest.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import trio

from trio_mcp_pool import ConnectError, OutcomeUnknownError, Pool, open_pool, text_of
from trio_mcp_pool.testing import ScriptedServer, error, never, slow


async def summarise(pool: Pool, words: list[str]) -> dict[str, str]:
    """The program under test: look up words side by side; a word that takes over five seconds is left out."""
    found: dict[str, str] = {}

    async def look_up(word: str) -> None:
        with trio.move_on_after(5):
            result = await pool.call_tool("dictionary", "look_up", {"word": word})
            found[word] = text_of(result)

    async with trio.open_nursery() as nursery:
        for word in words:
            nursery.start_soon(look_up, word)
    return found


def look_up(word: str) -> str:
    """A tool of the scripted server."""
    return f"{word}: a word"


async def test_all_words_come_over_one_session(autojump_clock: Any) -> None:
    server = ScriptedServer({"look_up": look_up})
    async with open_pool({"dictionary": server}) as pool:
        assert await summarise(pool, ["a", "b"]) == {"a": "a: a word", "b": "b: a word"}
    assert len(server.connections) == 1
    assert {call.arguments["word"] for call in server.calls} == {"a", "b"}


async def test_a_slow_word_is_left_out_after_exactly_five_seconds(autojump_clock: Any) -> None:
    async def hesitate(word: str) -> str:
        await trio.sleep(60 if word == "slow" else 1)
        return word

    async with open_pool({"dictionary": ScriptedServer({"look_up": hesitate})}) as pool:
        assert await summarise(pool, ["quick", "slow"]) == {"quick": "quick"}
    assert trio.current_time() == 5


async def test_a_server_that_dies_is_replaced(autojump_clock: Any) -> None:
    server = ScriptedServer({"look_up": look_up})
    async with open_pool({"dictionary": server}) as pool:
        await summarise(pool, ["a"])
        server.kill()
        assert await summarise(pool, ["b"]) == {"b": "b: a word"}
    assert len(server.connections) == 2


async def test_a_crash_in_the_middle_of_a_call_is_told_apart(autojump_clock: Any) -> None:
    server = ScriptedServer({"look_up": look_up})
    server.gates["call"] = never
    async with open_pool({"dictionary": server}) as pool, trio.open_nursery() as nursery:

        async def crash() -> None:
            await trio.sleep(3)
            server.kill()

        nursery.start_soon(crash)
        with pytest.raises(OutcomeUnknownError):
            await pool.call_tool("dictionary", "look_up", {"word": "a"})


async def test_a_missing_program_is_told_at_once_and_a_slow_one_is_waited_for(autojump_clock: Any) -> None:
    missing = ScriptedServer()
    missing.gates["spawn"] = error(FileNotFoundError("no such program"))
    late = ScriptedServer({"look_up": look_up})
    late.gates["handshake"] = slow(3)
    async with open_pool({"missing": missing, "dictionary": late}) as pool:
        with pytest.raises(ConnectError, match="no such program"):
            await pool.call_tool("missing", "look_up", {"word": "a"})
        assert trio.current_time() == 0
        assert await summarise(pool, ["a"]) == {"a": "a: a word"}
        assert trio.current_time() == 3


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, "-q"]))
