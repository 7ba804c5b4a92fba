"""Tools in the formats of the models' providers: plain dicts, made once.

The rule: what is optional is said explicitly where a provider's own default differs (`strict`), and left out otherwise. A
tool's schema is handed on as the server gave it; in strict form it is a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from ._schemas import SchemaProblemError, resolve

if TYPE_CHECKING:
    import mcp_types as types

Style: TypeAlias = Literal["chat", "responses"]


class Named(Protocol):
    """A tool of a set."""

    name: str
    tool: types.Tool


MOST_DESCRIPTION: Final = 20_000
"""Characters of a description that models see. A server that sends megabytes would fill every request of the agent."""


def description_of(tool: types.Tool) -> str:
    """What a tool says of itself, cut to `MOST_DESCRIPTION`; empty where it says nothing."""
    text = tool.description or tool.title or ""
    return f"{text[:MOST_DESCRIPTION]} [cut here]" if len(text) > MOST_DESCRIPTION else text


def is_cut(tool: types.Tool) -> bool:
    """Whether `description_of` gives less than the whole."""
    return len(tool.description or tool.title or "") > MOST_DESCRIPTION


def _about(named: Named) -> dict[str, Any]:
    description = description_of(named.tool)
    return {"name": named.name, "description": description} if description else {"name": named.name}


def anthropic_tools(tools: Iterable[Named]) -> list[dict[str, Any]]:
    """As `anthropic.types.ToolParam`."""
    return [{**_about(named), "input_schema": _object(named.tool.input_schema)} for named in tools]


def openai_tool(named: Named, style: Style, schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    """One tool, as `ChatCompletionFunctionToolParam` or as the Responses API's `FunctionToolParam`."""
    function = {**_about(named), "parameters": _object(schema), "strict": strict}
    if style == "chat":
        return {"type": "function", "function": function}
    return {"type": "function", **function}


_COMBINED = ("allOf", "anyOf", "oneOf")
_REFUSED = frozenset({*_COMBINED, "enum", "not", "$ref"})


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as both providers insist on it: an object with named properties at the top, and no alternatives there.

    What stands in alternatives is shown as properties that may be left out. The call is checked against the tool's own schema,
    so the model is told where it went wrong.
    """
    if schema.get("type") == "object" and "properties" in schema and _REFUSED.isdisjoint(schema):
        return schema
    try:
        return _made_object(schema)
    except Exception:
        # It is malformed, which is a problem of the set already, and must not take the other tools out of the list.
        properties = schema.get("properties")
        return {"type": "object", "properties": properties if isinstance(properties, dict) else {}}


def _made_object(schema: dict[str, Any]) -> dict[str, Any]:
    made = dict(schema)
    try:
        for _ in range(10):
            if not isinstance(reference := made.pop("$ref", None), str):
                break
            made = {**resolve(schema, reference), **made}
    except (SchemaProblemError, TypeError):
        pass  # it is a problem of the set already
    properties, required = dict(made.get("properties") or {}), list(made.get("required") or ())
    for word in _COMBINED:
        for branch in made.get(word) or ():
            if isinstance(branch, dict) and isinstance(branch.get("properties"), dict):
                properties = {**branch["properties"], **properties}
                required += branch.get("required", ()) if word == "allOf" else ()
    kept = {word: value for word, value in made.items() if word not in _REFUSED}
    named = {"required": list(dict.fromkeys(required))} if required else {}
    return {**kept, "type": "object", "properties": properties, **named}
