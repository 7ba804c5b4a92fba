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
FUNCTION_CALL = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "a__x", "arguments": '{"q": 1}'}
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
        FUNCTION_CALL,
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
        # What servers make of the formats that are not their own: something is missing, or null.
        ([{"type": "tool_use", "name": "a__x"}], [ToolRequest("a__x", None, None, "anthropic")]),
        ([{"type": "tool_use", "name": None, "id": 3, "input": None}], [ToolRequest("", None, None, "anthropic")]),
        ([{"function": {"name": "a__x"}, "id": "c1"}], [ToolRequest("a__x", None, "c1", "chat")]),
        (
            {"tool_calls": [{"function": {"name": "a__x", "arguments": None}}]},
            [ToolRequest("a__x", None, None, "chat")],
        ),
        ({"tool_calls": [{"function": None}, {"id": "c1"}, None]}, []),
        ({"tool_calls": None, "content": None}, []),
        ({"output": [{"type": "function_call", "name": "a__x"}]}, [ToolRequest("a__x", None, None, "responses")]),
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


CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [{"index": 0, "id": "c1"}]}}],
}
EVENT = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "tool_use", "id": "t1", "name": "a__x", "input": {}},
}
RESPONSE_EVENT = {
    "type": "response.output_item.done",
    "output_index": 0,
    "sequence_number": 1,
    "item": FUNCTION_CALL,
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (CHUNK, "a chunk of a completion: collect the whole message first"),
        (openai.types.chat.ChatCompletionChunk.model_validate(CHUNK), "a chunk of a completion: collect the whole"),
        (EVENT, "an event of a stream, 'content_block_start': collect the whole message first"),
        (
            anthropic.types.RawContentBlockStartEvent.model_validate(EVENT),
            "an event of a stream, 'content_block_start'",
        ),
        ([{"type": "message_start", "message": {}}], "an event of a stream, 'message_start'"),
        (
            openai.types.responses.ResponseOutputItemDoneEvent.model_validate(RESPONSE_EVENT),
            "'response.output_item.done'",
        ),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "the provider's error instead of a response"),
        ({"choices": [{"message": None}]}, "a completion whose first choice has no message"),
        ({"choices": [None]}, "a completion whose first choice has no message"),
        ({"choices": None}, "run takes a message"),
        ({"output": None}, "run takes a message"),
        ({"tool_calls": {"id": "c1"}}, "whose tool_calls are no list, but dict"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_would_be_taken_for_a_response_without_calls_is_refused(given, said) -> None:
    with pytest.raises(TypeError, match=said):
        read_requests(given)


def test_a_request_does_not_show_its_arguments() -> None:
    assert "hunter2" not in repr(read_requests([("login", {"password": "hunter2"})]))
