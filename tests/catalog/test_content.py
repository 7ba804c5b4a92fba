"""Results of every kind in every format: accepted by the providers' own types, and nothing dropped in silence."""

from __future__ import annotations

import base64
from typing import Any

import anthropic.types
import mcp_types as types
import openai.types.chat
import openai.types.responses.response_input_item_param as items
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool.catalog import Outcome, Outcomes, ToolRequest

HEADS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP",
    "application/pdf": b"%PDF-1.7\n",
}


ANTHROPIC_MESSAGE = pydantic.TypeAdapter[Any](anthropic.types.MessageParam)
ANTHROPIC_RESULT = pydantic.TypeAdapter[Any](anthropic.types.ToolResultBlockParam)
OPENAI_MESSAGE = pydantic.TypeAdapter[Any](openai.types.chat.ChatCompletionToolMessageParam)
OPENAI_OUTPUT = pydantic.TypeAdapter[Any](items.FunctionCallOutput)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def outcome(*content: Any, shape: Any = "anthropic", max_chars: int | None = None, **result: Any) -> Outcome:
    return Outcome(
        ToolRequest("a__x", {}, "id1", shape),
        server="a",
        tool="x",
        result=types.CallToolResult(content=list(content), **result),
        error=None,
        outcome="answered",
        seconds=0.0,
        max_chars=max_chars,
    )


def eager(value: Any) -> Any:
    """Both packages type some lists as lazy iterables, which pydantic would not look into: look into what came out."""
    if isinstance(value, dict):
        return {key: eager(each) for key, each in value.items()}
    return [eager(each) for each in value] if not isinstance(value, str | bytes | int | float | bool | None) else value


def check_anthropic(message: dict[str, Any]) -> None:
    """By the provider's own type, to the leaves, and by what its server refuses although the type would take it."""
    assert eager(ANTHROPIC_MESSAGE.validate_python(message)) == message
    for result in message["content"]:
        assert eager(ANTHROPIC_RESULT.validate_python(result)) == result
        assert result["content"]
        for part in result["content"]:
            if part["type"] == "text":
                assert part["text"].strip()
            elif result["is_error"]:
                raise AssertionError("an error may hold nothing but text")
            else:
                data = base64.b64decode(part["source"]["data"], validate=True)
                assert data.startswith(HEADS[part["source"]["media_type"]][:3])


def check_openai(message: dict[str, Any]) -> None:
    if "role" in message:
        adapter = OPENAI_MESSAGE
        assert isinstance(message["content"], str)
        assert message["content"].strip()
    else:
        adapter = OPENAI_OUTPUT
        if isinstance(message["output"], str):
            assert message["output"].strip()
        else:
            for part in message["output"]:
                url = part.get("image_url") or part.get("file_data")
                assert (url is None) == (part["type"] == "input_text")
                assert url is None or base64.b64decode(url.partition(";base64,")[2], validate=True)
    assert eager(adapter.validate_python(message)) == message


TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", " \n"]))
MIMES = st.sampled_from(
    [*HEADS, "image/svg+xml", "audio/wav", "text/plain", "application/octet-stream", "", "IMAGE/PNG"]
)
DATA = st.one_of(
    st.sampled_from(list(HEADS.values())).map(lambda head: b64(head + b"rest")),
    st.binary(max_size=10).map(b64),
    st.sampled_from(["", "not base64!", "aGk", "aGk=\n"]),
)
CONTENT = st.one_of(
    TEXTS.map(lambda text: types.TextContent(text=text)),
    st.builds(lambda mime, data: types.ImageContent(mime_type=mime, data=data), MIMES, DATA),
    st.builds(lambda mime, data: types.AudioContent(mime_type=mime, data=data), MIMES, DATA),
    TEXTS.map(lambda text: types.EmbeddedResource(resource=types.TextResourceContents(uri="memo://x", text=text))),
    st.builds(
        lambda mime, data: types.EmbeddedResource(
            resource=types.BlobResourceContents(uri="memo://x", mime_type=mime or None, blob=data)
        ),
        MIMES,
        DATA,
    ),
    TEXTS.map(lambda text: types.ResourceLink(uri="memo://x", name=text, description=text or None, size=3)),
)


@given(
    st.lists(CONTENT, max_size=4),
    st.none() | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
    st.booleans(),
    st.none() | st.integers(1, 30),
)
def test_results_of_every_kind_are_taken_in_every_format(content, structured, is_error, max_chars) -> None:
    def made(shape):
        return outcome(*content, shape=shape, structured_content=structured, is_error=is_error, max_chars=max_chars)

    check_anthropic(Outcomes([made("anthropic"), made("anthropic")]).to_anthropic())
    for shape in ("chat", "responses"):
        for message in Outcomes([made(shape)]).to_openai():
            check_openai(message)
            text = message.get("content", message.get("output"))
            if is_error and isinstance(text, str):
                assert text.startswith("Error: ")


@pytest.mark.parametrize("mime", [mime for mime in HEADS if mime != "application/pdf"])
def test_a_picture_is_shown_to_anthropic_and_the_responses_api_and_described_in_a_chat(mime) -> None:
    data = b64(HEADS[mime] + b"1234")
    picture = types.ImageContent(mime_type=mime, data=data)
    source = {"type": "base64", "media_type": mime, "data": data}
    assert outcome(picture).to_anthropic()["content"] == [{"type": "image", "source": source}]
    assert outcome(picture, shape="responses").to_openai()["output"] == [
        {"type": "input_image", "image_url": f"data:{mime};base64,{data}", "detail": "auto"}
    ]
    size = len(HEADS[mime]) + 4
    words = f"[image, {mime}, {size} bytes: it cannot be shown here]"
    assert outcome(picture, shape="chat").to_openai()["content"] == words


def test_a_pdf_is_a_document_and_a_file() -> None:
    data = b64(b"%PDF-1.7")
    resource = types.EmbeddedResource(
        resource=types.BlobResourceContents(uri="file:///a.pdf", mime_type="application/pdf", blob=data)
    )
    [block] = outcome(resource).to_anthropic()["content"]
    assert (block["type"], block["source"]["media_type"]) == ("document", "application/pdf")
    [item] = outcome(resource, shape="responses").to_openai()["output"]
    assert (item["type"], item["filename"]) == ("input_file", "document-1.pdf")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            types.ImageContent(mime_type="image/svg+xml", data=b64(b"<svg/>")),
            "[image, image/svg+xml, 6 bytes: it cannot be",
        ),
        (
            types.AudioContent(mime_type="audio/wav", data=b64(b"RIFF")),
            "[audio, audio/wav, 4 bytes: it cannot be shown here]",
        ),
        (types.ImageContent(mime_type="image/png", data="%%%"), "its data is not valid base64"),
        (
            types.ImageContent(mime_type="image/png", data=b64(b"no png")),
            "[image, image/png, 6 bytes: it cannot be shown",
        ),
        (types.ImageContent(mime_type="image/png", data=b64(HEADS["image/png"] + b"x" * 5_000_000)), "it is too large"),
        (types.ResourceLink(uri="memo://x", name="x", size=7), "[link to resource memo://x (x, 7 bytes)]"),
    ],
)
def test_what_cannot_be_shown_is_described_with_its_type_and_size(content, words) -> None:
    [block] = outcome(content).to_anthropic()["content"]
    assert block["type"] == "text"
    assert words in block["text"]


def test_a_picture_under_the_name_of_another_kind_is_shown_as_what_it_is() -> None:
    picture = types.ImageContent(mime_type="image/png", data=b64(HEADS["image/jpeg"]))
    assert outcome(picture).to_anthropic()["content"][0]["source"]["media_type"] == "image/jpeg"


def test_structured_content_is_shown_as_json_where_there_is_no_text() -> None:
    assert outcome(structured_content={"a": 1}).text == '{"a": 1}'
    assert outcome(types.TextContent(text="one"), structured_content={"a": 1}).text == "one"


def test_nothing_is_said_to_be_nothing() -> None:
    assert outcome().text == "(no content)"
    assert outcome(types.TextContent(text=" \n")).text == "(no content)"


def test_a_long_text_is_cut_with_a_note_of_how_much_there_was() -> None:
    texts = [types.TextContent(text="a" * 30), types.TextContent(text="b" * 30), types.TextContent(text="c" * 30)]
    shown = outcome(*texts, max_chars=40).text
    assert shown == "\n".join(["a" * 30, "b" * 10, "[cut here: the first 40 of 90 characters are shown]"])


def test_a_pair_has_no_id_to_answer() -> None:
    made = Outcome(
        ToolRequest("a", {}), server=None, tool=None, result=None, error=ValueError(), outcome="not run", seconds=0
    )
    with pytest.raises(ValueError, match="has no id"):
        made.to_anthropic()
