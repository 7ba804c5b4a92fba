"""Tool sets in inspect_ai: its own types, its own errors, and a task that runs inside of a pool on Trio."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
import trio

from trio_mcp_pool import open_pool
from trio_mcp_pool.testing import ScriptedServer, tool

# `nox -s inspect_ai` installs it; it brings too much for the tests that everybody runs.
pytest.importorskip("inspect_ai")

pytestmark = pytest.mark.filterwarnings("ignore")

SCHEMA = {
    "type": "object",
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    "properties": {
        "at": {"$ref": "#/$defs/Point", "description": "where"},
        "how": {"oneOf": [{"const": "fast"}, {"type": "null"}], "title": "How"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["at"],
    "additionalProperties": False,
}


async def test_a_schema_is_inlined_and_every_parameter_described(autojump_clock) -> None:
    from inspect_ai.tool import ToolDef

    go = tool(lambda arguments: "went", name="go", input_schema=SCHEMA)
    async with open_pool({"s": ScriptedServer([go])}) as pool:
        tools = await pool.toolset()
        [made] = tools.to_inspect_ai()
        assert tools.to_inspect_ai()[0] is made
        assert isinstance(made, ToolDef)
        assert (made.name, made.description, made.parallel) == ("s__go", "go", True)
        assert made.parameters.model_dump(exclude_none=True, by_alias=True) == {
            "type": "object",
            "properties": {
                "at": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}},
                    "required": ["x"],
                    "description": "where",
                },
                "how": {"anyOf": [{"enum": ["fast"]}, {"type": "null"}], "description": "How"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "tags"},
            },
            "required": ["at"],
            "additionalProperties": False,
        }
        assert await made.tool(at={"x": 1}) == "went"


async def test_errors_are_its_tool_errors_and_pictures_its_content(autojump_clock) -> None:
    from inspect_ai.model import ContentImage
    from inspect_ai.tool import ToolError

    def fail() -> str:
        raise ValueError("no such file")

    def draw() -> types.CallToolResult:
        data = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
        return types.CallToolResult(content=[types.ImageContent(mime_type="image/png", data=data)])

    closed = tool(draw, input_schema={"type": "object", "properties": {}, "additionalProperties": False})
    async with open_pool({"s": ScriptedServer([fail, closed])}) as pool:
        made = {each.name: each.tool for each in (await pool.toolset()).to_inspect_ai()}
        with pytest.raises(ToolError, match="no such file"):
            await made["s__fail"]()
        with pytest.raises(ToolError, match="unexpected 'x'"):
            await made["s__draw"](x=1)
        [picture] = await made["s__draw"]()
        assert isinstance(picture, ContentImage)
        assert picture.image.startswith("data:image/png;base64,")


async def test_what_a_hook_raises_says_truly_whether_the_tool_ran(autojump_clock) -> None:
    from inspect_ai.tool import ToolError

    async def approve(call):
        raise ValueError("hunter2")

    async with open_pool({"s": ScriptedServer()}) as pool:
        echo, _ = (await pool.toolset(approve=approve)).to_inspect_ai()
        with pytest.raises(ToolError) as caught:
            await echo.tool(text="x")
    assert caught.value.message == "The call failed in the program itself (ValueError). Nothing ran."


def test_a_task_runs_inside_of_a_pool_on_trio_with_one_connection_for_two_samples(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from inspect_ai import Task, eval_async
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelAPI, ModelOutput, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")

    async def count(self: Any, text: str) -> int:
        return len(text)

    # It would fetch a table of tokens from the network.
    monkeypatch.setattr(ModelAPI, "count_text_tokens", count)
    server = ScriptedServer()

    async def main() -> Any:
        async with open_pool({"s": server}) as pool:
            tools = await pool.toolset()
            outputs = [
                ModelOutput.for_tool_call("mockllm/model", "s__echo", {"text": "forty-two"}),
                ModelOutput.from_content("mockllm/model", "The tool said forty-two."),
            ] * 2
            task = Task(
                dataset=[Sample(input="Ask the tool.", target="forty-two"), Sample(input="Again.", target="forty-two")],
                solver=[use_tools(*(each.as_tool() for each in tools.to_inspect_ai())), generate()],
                scorer=includes(),
            )
            model = get_model("mockllm/model", custom_outputs=outputs)
            return await eval_async(task, model=model, max_samples=1, log_dir=str(tmp_path))

    [log] = trio.run(main)
    assert log.status == "success", log.error
    assert [call.tool for call in server.calls] == ["echo", "echo"]
    assert len(server.connections) == 1
    assert log.results.scores[0].metrics["accuracy"].value == 1
