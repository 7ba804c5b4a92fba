"""Three agents, each with a scope of its own, over the filesystem, memory and time servers that everybody knows.

What an agent program needs beside its model is here in full: one list of the tools of all servers in the model's format, and
`run` for what the model asks for. The model is scripted, so that the program needs no key and says the same every time; it
speaks the shapes of Anthropic's messages, of OpenAI's chat completions and of OpenAI's Responses API, one for each agent.

    python examples/agents.py                      # starts the servers by npx and uvx
    python examples/agents.py files.js memory.js mcp-server-time
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from trio_mcp_pool import Pool, StdioServer, open_pool

Calls = list[tuple[str, dict[str, Any]]]


def servers(folder: Path) -> dict[str, StdioServer]:
    """The three servers: by npx and uvx, or by the programs named on the command line."""
    package = "@modelcontextprotocol/server-"
    files, memory, clock = (
        ["npx", "-y", f"{package}filesystem"],
        ["npx", "-y", f"{package}memory"],
        ["uvx", "mcp-server-time"],
    )
    if sys.argv[1:]:
        files, memory, clock = ["node", sys.argv[1]], ["node", sys.argv[2]], [sys.argv[3]]
    return {
        "files": StdioServer(files[0], [*files[1:], str(folder)]),
        "memory": StdioServer(memory[0], memory[1:], env={"MEMORY_FILE_PATH": str(folder / "memory.json")}),
        "time": StdioServer(clock[0], clock[1:]),
    }


async def with_anthropic(pool: Pool, model: ScriptedModel) -> str:
    """The loop of an agent on Anthropic's messages."""
    async with pool.open_scope("anthropic") as scope:
        tools = await scope.toolset("files", "time", deny=["files__move_file"])
        messages: list[Any] = [{"role": "user", "content": "Write two files."}]
        while True:
            message = await model.anthropic(messages=messages, tools=tools.to_anthropic())
            messages.append({"role": "assistant", "content": message["content"]})
            outcomes = await tools.run(message)
            if not outcomes:
                return str(message["content"][0]["text"])
            messages.append(outcomes.to_anthropic())


async def with_chat(pool: Pool, model: ScriptedModel) -> str:
    """The loop of an agent on chat completions."""
    async with pool.open_scope("chat") as scope:
        tools = await scope.toolset("memory", "time")
        messages: list[Any] = [{"role": "user", "content": "Remember Ada."}]
        while True:
            completion = await model.chat(messages=messages, tools=tools.to_openai())
            messages.append(completion["choices"][0]["message"])
            outcomes = await tools.run(completion)
            if not outcomes:
                return str(messages[-1]["content"])
            messages += outcomes.to_openai()


async def with_responses(pool: Pool, model: ScriptedModel) -> str:
    """The loop of an agent on the Responses API."""
    async with pool.open_scope("responses") as scope:
        tools = await scope.toolset("files")
        items: list[Any] = [{"role": "user", "content": "Look around, for ever."}]
        while True:
            response = await model.responses(input=items, tools=tools.to_openai(style="responses"))
            items += response["output"]
            outcomes = await tools.run(response)
            if not outcomes:
                return str(response["output"][0]["content"][0]["text"])
            items += outcomes.to_openai()


class ScriptedModel:
    """Stands for a model: asks for the calls of its script, turn by turn, and then says its last word."""

    def __init__(self, turns: list[Calls], last_word: str = "", *, again: bool = False) -> None:
        self.turns = turns
        self.last_word = last_word
        self.again = again
        self.seen: list[str] = []
        """What it was told of the calls, for us to look at."""
        self._turn = 0

    def _next(self, told: list[Any]) -> Calls:
        self.seen += [json.dumps(item) for item in told]
        self._turn += 1
        if self.again:
            return self.turns[0]
        return self.turns[self._turn - 1] if self._turn <= len(self.turns) else []

    async def anthropic(self, messages: list[Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
        """As `client.messages.create`."""
        await trio.lowlevel.checkpoint()
        calls = self._next(messages[-1]["content"] if self._turn else [])
        asked = [
            {"type": "tool_use", "id": f"{name}-{n}", "name": name, "input": args}
            for n, (name, args) in enumerate(calls)
        ]
        return {"role": "assistant", "content": asked or [{"type": "text", "text": self.last_word}]}

    async def chat(self, messages: list[Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
        """As `client.chat.completions.create`."""
        await trio.lowlevel.checkpoint()
        calls = self._next([message for message in messages if message["role"] == "tool"])
        asked = [
            {"id": f"call-{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
            for n, (name, args) in enumerate(calls)
        ]
        message = {"role": "assistant", "content": None if asked else self.last_word, "tool_calls": asked}
        return {"choices": [{"index": 0, "message": message}]}

    async def responses(self, input: list[Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
        """As `client.responses.create`."""
        await trio.lowlevel.checkpoint()
        calls = self._next([])
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": self.last_word}]}
        asked = [
            {"type": "function_call", "call_id": f"call-{self._turn}-{n}", "name": name, "arguments": json.dumps(args)}
            for n, (name, args) in enumerate(calls)
        ]
        return {"output": asked or [said]}


def main() -> None:
    """Run the three in a fresh folder, and look at what is in it afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        trio.run(agents, folder)
        print("the files:", sorted(path.read_text() for path in folder.glob("*.txt")))


async def agents(folder: Path) -> None:
    """Run the three side by side, and stop the last one in the middle."""
    writer = ScriptedModel(
        [
            [
                ("files__write_file", {"path": f"{folder}/one.txt", "content": "one"}),
                ("files__write_file", {"path": f"{folder}/two.txt", "content": "two"}),
                ("time__get_current_time", {"timezone": "Europe/Paris"}),
            ],
            [("files__read_text_file", {"path": f"{folder}/{name}.txt"}) for name in ("one", "two")],
        ],
        "I wrote two files.",
    )
    ada = {"name": "Ada", "entityType": "person", "observations": ["likes engines"]}
    keeper = ScriptedModel(
        [
            [("memory__create_entities", {"entities": "Ada"})],  # it learns from the error what was expected
            [("memory__create_entities", {"entities": [ada]})],
            [("memory__read_graph", {}), ("time__get_current_time", {"timezone": "Asia/Tokyo"})],
        ],
        "I shall remember Ada.",
    )
    wanderer = ScriptedModel([[("files__list_directory", {"path": str(folder)})] * 4], again=True)

    async with open_pool(servers(folder)) as pool, trio.open_nursery() as nursery:
        stop = trio.CancelScope()

        async def wander() -> None:
            with stop:
                await with_responses(pool, wanderer)
            print("responses: stopped in the middle, as intended:", stop.cancelled_caught)

        async def finish() -> None:
            async def one() -> None:
                print("anthropic:", await with_anthropic(pool, writer))

            async def two() -> None:
                print("chat:", await with_chat(pool, keeper))

            async with trio.open_nursery() as both:
                both.start_soon(one)
                both.start_soon(two)
            while wanderer._turn < 3:
                await trio.sleep(0.01)
            stop.cancel()

        nursery.start_soon(wander)
        nursery.start_soon(finish)

    print("what the keeper was told of its mistake:", keeper.seen[0])


if __name__ == "__main__":
    main()
