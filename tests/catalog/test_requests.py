"""What a model asked for is read from every shape in which it comes, as objects of the providers' packages and as dicts."""

from __future__ import annotations

import json

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest

from trio_mcp_pool.catalog import ToolRequest
from trio_mcp_pool.catalog._requests import read_requests

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t1", "name": "a__x", "input": {"q": 1}},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "tool_use", "id": "t2", "name": "a__y", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
CHAT_CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "a__x", "arguments": '{"q": 1}'}},
    {"id": "c2", "type": "custom", "custom": {"name": "mine", "input": "x"}},
    {"id": "c3", "type": "function", "function": {"name": "a__y", "arguments": ""}},
]
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "logprobs": None,
            "message": {"role": "assistant", "content": None, "refusal": None, "tool_calls": CHAT_CALLS},
        }
    ],
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": None,
    "temperature": 1,
    "top_p": 1,
    "output": [
        {"type": "reasoning", "id": "r1", "summary": []},
        {"type": "function_call", "id": "f1", "call_id": "c1", "name": "a__x", "arguments": '{"q": 1}'},
        {"type": "function_call", "id": "f2", "call_id": "c3", "name": "a__y", "arguments": ""},
    ],
}
ANTHROPIC = [ToolRequest("a__x", {"q": 1}, "t1", "anthropic"), ToolRequest("a__y", {}, "t2", "anthropic")]
CHAT = [ToolRequest("a__x", '{"q": 1}', "c1", "chat"), ToolRequest("a__y", "", "c3", "chat")]
RESPONSES = [ToolRequest("a__x", '{"q": 1}', "c1", "responses"), ToolRequest("a__y", "", "c3", "responses")]

message = anthropic.types.Message.model_validate(MESSAGE)
completion = openai.types.chat.ChatCompletion.model_validate(COMPLETION)
response = openai.types.responses.Response.model_validate(RESPONSE)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (MESSAGE, ANTHROPIC),
        (message, ANTHROPIC),
        (MESSAGE["content"], ANTHROPIC),
        (message.content, ANTHROPIC),
        (message.content[1], ANTHROPIC[:1]),
        ({"role": "assistant", "content": message.content}, ANTHROPIC),
        ({"role": "assistant", "content": "no calls"}, []),
        (COMPLETION, CHAT),
        (completion, CHAT),
        (completion.choices[0].message, CHAT),
        (CHAT_CALLS, CHAT),
        (completion.choices[0].message.tool_calls, CHAT),
        (openai.types.chat.ChatCompletionMessage(role="assistant", content="no calls"), []),
        (RESPONSE, RESPONSES),
        (response, RESPONSES),
        (response.output, RESPONSES),
        (RESPONSE["output"], RESPONSES),
        (response.output[1], RESPONSES[:1]),
        ([("a__x", {"q": 1})], [ToolRequest("a__x", {"q": 1})]),
        (("a__x", {"q": 1}), [ToolRequest("a__x", {"q": 1})]),
        ([], []),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_shape_is_read(given, expected) -> None:
    found = read_requests(given)
    assert found == expected
    assert json.dumps([request.arguments for request in found])


@pytest.mark.parametrize("given", [None, "text", b"text", 3, len, [3], [("a", 1, 2)], [(1, 2)]], ids=repr)
def test_what_is_no_response_is_refused_with_what_is_taken(given) -> None:
    with pytest.raises(TypeError, match="run|pair"):
        read_requests(given)


def test_a_request_does_not_show_its_arguments() -> None:
    assert "hunter2" not in repr(read_requests([("login", {"password": "hunter2"})]))
