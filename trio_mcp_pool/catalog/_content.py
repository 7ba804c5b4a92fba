"""A tool's result as the content that each provider takes.

The rule: nothing is dropped in silence. What a provider cannot take is described in words, with its type and size, and so is
what it would refuse: a picture that is none, a text that is blank. The obvious way, to pass on what the server calls an
image, makes the provider refuse the whole conversation over one wrong byte.

    |                      | Anthropic  | Responses     | Chat  |
    | png, jpeg, gif, webp | image      | `input_image` | words |
    | pdf                  | document   | `input_file`  | words |
    | svg, audio, other    | words      | words         | words |
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import mcp_types as types

MOST_IMAGE_BYTES: Final = 5_000_000
MOST_PDF_BYTES: Final = 20_000_000
NOTHING: Final = "(no content)"
_SHOWN: Final[Mapping[str, Literal["image", "pdf"]]] = {
    "image/png": "image",
    "image/jpeg": "image",
    "image/jpg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "application/pdf": "pdf",
}


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a result: text, or a picture or document with the words that stand for it where it cannot be shown."""

    text: str
    media: Literal["", "image", "pdf"] = ""
    mime: str = ""
    data: str = ""
    """Base64, checked and without line breaks."""


def _kind_of(data: bytes) -> str:
    """What the bytes are, by how they begin: the providers look, too, and refuse what was called something else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/pdf" if data.startswith(b"%PDF-") else ""


def _size(count: int) -> str:
    return f"{count:,} bytes"


def _media(what: str, mime: str | None, encoded: str) -> Part:
    named = f"{what}, {mime[:100] if mime else 'of unknown type'}"
    if len(encoded) > MOST_PDF_BYTES * 3 // 2:
        return Part(f"[{named}, about {_size(len(encoded) * 3 // 4)}: it is too large to be shown]")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        return Part(f"[{named}: its data is not valid base64, {len(encoded):,} characters]")
    words = f"[{named}, {_size(len(data))}: it cannot be shown here]"
    shown = _SHOWN.get((mime or "").partition(";")[0].strip().lower())
    kind = _kind_of(data)
    if shown is None or not kind or (kind == "application/pdf") != (shown == "pdf"):
        return Part(words)
    if len(data) > (MOST_PDF_BYTES if shown == "pdf" else MOST_IMAGE_BYTES):
        return Part(f"[{named}, {_size(len(data))}: it is too large to be shown]")
    return Part(words, shown, kind, base64.b64encode(data).decode())


def _block(block: Any) -> Part:
    if isinstance(block, types.TextContent):
        return Part(block.text)
    if isinstance(block, types.ImageContent):
        return _media("image", block.mime_type, block.data)
    if isinstance(block, types.AudioContent):
        return _media("audio", block.mime_type, block.data)
    if isinstance(block, types.EmbeddedResource):
        resource = block.resource
        if isinstance(resource, types.TextResourceContents):
            return Part(f"[resource {resource.uri}]\n{resource.text}")
        return _media(f"resource {resource.uri}", resource.mime_type, resource.blob)
    if isinstance(block, types.ResourceLink):
        details = [block.name, block.mime_type, _size(block.size) if block.size is not None else None]
        about = f": {block.description}" if block.description else ""
        return Part(f"[link to resource {block.uri} ({', '.join(filter(None, details))}){about}]")
    return Part(f"[content of an unknown kind, {type(block).__name__}]")


def parts_of(result: types.CallToolResult, max_chars: int | None) -> list[Part]:
    """The result in pieces; at least one, none of them blank, the text cut to `max_chars` in all."""
    parts = [_block(block) for block in result.content]
    if result.structured_content is not None and not any(isinstance(b, types.TextContent) for b in result.content):
        parts.append(Part(json.dumps(result.structured_content, ensure_ascii=False, default=str)))
    parts = [part for part in parts if part.media or part.text.strip()]
    return _cut(parts, max_chars) or [Part(NOTHING)]


def cut_text(text: str, max_chars: int | None) -> str:
    """One text, cut as a result's would be."""
    return "".join(part.text for part in _cut([Part(text)], max_chars))


def _cut(parts: list[Part], max_chars: int | None) -> list[Part]:
    total = sum(len(part.text) for part in parts if not part.media)
    if max_chars is None or total <= max_chars:
        return parts
    left, kept = max_chars, []
    for part in parts:
        if part.media:
            kept.append(part)
            continue
        if left > 0:
            kept.append(Part(part.text[:left]))
        left -= len(part.text)
    # The note comes last and is never cut itself, so that the model knows there is more, and how much.
    kept.append(Part(f"[cut here: the first {max_chars:,} of {total:,} characters are shown]"))
    return [part for part in kept if part.media or part.text.strip()]


# Each provider's form.


def plain_text(parts: Iterable[Part]) -> str:
    """Everything in words."""
    return "\n".join(part.text for part in parts)


def anthropic_content(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Blocks of a `tool_result`."""
    blocks: list[dict[str, Any]] = []
    for part in parts:
        if not part.media:
            blocks.append({"type": "text", "text": part.text})
        else:
            source = {"type": "base64", "media_type": part.mime, "data": part.data}
            blocks.append({"type": "document" if part.media == "pdf" else "image", "source": source})
    return blocks


def responses_output(parts: list[Part], prefix: str = "") -> str | list[dict[str, Any]]:
    """The `output` of a `function_call_output`: text, or a list where there is more than text."""
    if not any(part.media for part in parts):
        return prefix + plain_text(parts)
    items: list[dict[str, Any]] = [{"type": "input_text", "text": prefix.strip()}] if prefix else []
    for number, part in enumerate(parts, 1):
        url = f"data:{part.mime};base64,{part.data}"
        if part.media == "image":
            items.append({"type": "input_image", "image_url": url, "detail": "auto"})
        elif part.media == "pdf":
            items.append({"type": "input_file", "filename": f"document-{number}.pdf", "file_data": url})
        else:
            items.append({"type": "input_text", "text": part.text})
    return items
