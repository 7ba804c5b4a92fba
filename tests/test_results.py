"""`text_of`: the text of a result, whatever else is in it."""

from __future__ import annotations

import mcp_types as types
import pytest

from trio_mcp_pool import text_of

HELLO = types.TextContent(text="hello")
IMAGE = types.ImageContent(data="AA==", mime_type="image/png")
LINK = types.ResourceLink(name="x", uri="file:///x")
NOTE = types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///n", text="a note"))
BLOB = types.EmbeddedResource(resource=types.BlobResourceContents(uri="file:///b", blob="AA=="))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], ""),
        ([HELLO], "hello"),
        ([IMAGE, LINK, BLOB], ""),
        ([HELLO, IMAGE, NOTE], "hello\na note"),
        ([HELLO, HELLO], "hello\nhello"),
    ],
)
def test_the_text_parts_and_nothing_else(content: list[types.ContentBlock], text: str) -> None:
    assert text_of(types.CallToolResult(content=content)) == text


def test_an_error_is_text_too() -> None:
    assert text_of(types.CallToolResult(content=[HELLO], is_error=True)) == "hello"
