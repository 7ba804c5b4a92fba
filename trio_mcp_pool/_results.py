"""Reading a tool's result in a way that a type checker follows."""

from __future__ import annotations

import mcp_types as types


def text_of(result: types.CallToolResult) -> str:
    """The text of a tool's result: its text parts, and the text resources embedded in it, each beginning a line of its own.

    Empty where there is none. Images, audio and links are left out; `result.content` has them. Says nothing of
    `result.is_error`: what a tool says of its own failure is text, too.
    """
    texts = []
    for part in result.content:
        if isinstance(part, types.TextContent):
            texts.append(part.text)
        elif isinstance(part, types.EmbeddedResource) and isinstance(part.resource, types.TextResourceContents):
            texts.append(part.resource.text)
    return "\n".join(texts)
