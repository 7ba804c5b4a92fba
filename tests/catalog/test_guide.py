"""Every block of the chapter on agents runs as it stands."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
import trio

from tests.catalog.test_requests import COMPLETION, MESSAGE, RESPONSE
from trio_mcp_pool import open_pool
from trio_mcp_pool.testing import ScriptedServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "agents.md"


class Told:
    """Stands for a provider's client: asks for a file once, and is then content."""

    def __init__(self, first: Any, last: Any) -> None:
        self._answers = [first, last]

    async def create(self, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return self._answers.pop(0)


class Provider:
    """The parts of `anthropic.AsyncAnthropic` and `openai.AsyncOpenAI` that the page uses."""

    def __init__(self) -> None:
        use = {"type": "tool_use", "id": "t1", "name": "files__read", "input": {"path": "/tmp/notes.txt"}}
        message = anthropic.types.Message.model_validate({**MESSAGE, "content": [use]})
        done = anthropic.types.Message.model_validate({**MESSAGE, "content": [{"type": "text", "text": "Milk."}]})
        self.messages = Told(message, done)
        completion = openai.types.chat.ChatCompletion.model_validate(COMPLETION)
        last = completion.model_copy(deep=True)
        last.choices[0].message.tool_calls = None
        self.chat = type("Chat", (), {"completions": Told(completion, last)})
        response = openai.types.responses.Response.model_validate(RESPONSE)
        self.responses = Told(response, response.model_copy(update={"output": []}))


@pytest.mark.filterwarnings("ignore")
async def test_every_block_runs(autojump_clock: Any, capsys: Any) -> None:
    def read(path: str) -> str:
        return "buy milk"

    def write(path: str, text: str) -> str:
        return "written"

    files = ScriptedServer([read, write], eras="legacy")
    git = ScriptedServer({"push": lambda: "pushed"})

    async def ask_a_person(question: str) -> bool:
        return True

    async def add_a_tool_to_the_server() -> None:
        files.tools["new"] = lambda: "x"
        files.notify("notifications/tools/list_changed")

    async def change_the_resource() -> None:
        files.notify("notifications/resources/updated", {"uri": "memo://hello"})

    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 18
    async with open_pool({"files": files, "git": git}) as pool:
        names: dict[str, Any] = {"pool": pool, "model": "m"}
        names |= {"ask_a_person": ask_a_person, "add_a_tool_to_the_server": add_a_tool_to_the_server}
        names |= {"change_the_resource": change_the_resource}
        for block in blocks:
            if "to_inspect_ai" in block and importlib.util.find_spec("inspect_ai") is None:
                continue  # `nox -s inspect_ai` has it
            names["client"] = names["openai"] = Provider()
            # A test of `names=` leaves tools without the server's name behind.
            names["tools"] = await pool.toolset()
            await_block = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            made = eval(await_block, names)
            if made is not None:
                await made
