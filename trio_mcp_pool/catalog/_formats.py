"""Tools in the formats of the models' providers: plain dicts, made once.

The rule: what is optional is said explicitly where a provider's own default differs (`strict`), and left out otherwise. A
tool's schema is handed on as the server gave it; in strict form it is a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from ._schemas import SchemaProblemError, resolve

if TYPE_CHECKING:
    import mcp_types as types

Style: TypeAlias = Literal["chat", "responses"]


class Named(Protocol):
    """A tool of a set."""

    name: str
    tool: types.Tool


def _about(named: Named) -> dict[str, Any]:
    tool = named.tool
    description = tool.description or tool.title
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
