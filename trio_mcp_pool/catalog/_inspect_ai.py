"""Tools for inspect_ai, which runs on Trio and wants objects of its own.

The rule: a tool's schema is inlined, because inspect_ai's own has no references, and every parameter is described, because it
insists on that. Whatever went wrong with a call is raised as its `ToolError`, in the words that any model gets; an interrupt
and a cancellation are raised as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ._content import Part
from ._formats import description_of
from ._schemas import inline

if TYPE_CHECKING:
    import mcp_types as types

    from ._formats import Named
    from ._outcomes import Outcome

CallTool: TypeAlias = "Callable[[str, dict[str, Any]], Awaitable[Outcome]]"
"""As one call of `ToolSet.run`, of a set that is above."""

_KNOWN = frozenset(
    {"type", "format", "description", "default", "enum", "items", "properties", "additionalProperties", "anyOf"}
    | {"required", "pattern", "minLength", "maxLength", "minimum", "maximum", "examples"}
)


def inspect_tools(call: CallTool, all_named: Iterable[Named]) -> list[Any]:
    """As `inspect_ai.tool.ToolDef`s. Raises `ImportError` with what to install."""
    try:
        from inspect_ai.tool import ToolDef, ToolParams
    except ImportError as why:
        raise ImportError("to_inspect_ai needs inspect_ai: pip install trio-mcp-pool[inspect-ai]") from why
    return [
        ToolDef(
            _executor(call, named.name),
            name=named.name,
            description=description_of(named.tool) or named.tool.name,
            parameters=_parameters(named.tool, ToolParams.model_validate),
            parallel=True,
        )
        for named in all_named
    ]


def _executor(call: CallTool, name: str) -> Callable[..., Any]:
    from inspect_ai.tool import ToolError

    async def execute(**arguments: Any) -> Any:
        outcome = await call(name, arguments)
        if outcome.is_error:
            raise ToolError(outcome.text) from outcome.error
        return _content(outcome._content())

    return execute


def _content(parts: list[Part]) -> Any:
    from inspect_ai.model import ContentDocument, ContentImage, ContentText

    if not any(part.media for part in parts):
        return "\n".join(part.text for part in parts)
    made: list[Any] = []
    for part in parts:
        url = f"data:{part.mime};base64,{part.data}"
        if part.media == "image":
            made.append(ContentImage(image=url))
        elif part.media == "pdf":
            made.append(ContentDocument(document=url, filename="document.pdf", mime_type=part.mime))
        else:
            made.append(ContentText(text=part.text))
    return made


def _parameters(tool: types.Tool, read: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """The parameters, as `read` makes them of the schema."""
    try:
        return read(_described(_narrow(inline(tool.input_schema))))
    except Exception:
        # Whatever it is, it cannot be shown, and must not take the other tools out of the list. The names of the parameters
        # are better than nothing.
        names = tool.input_schema.get("properties")
        return read(_described({"properties": {name: {} for name in names} if isinstance(names, dict) else {}}))


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: {**each, "description": each.get("description") or each.pop("title", None) or name}
        for name, each in schema.get("properties", {}).items()
    }
    return {
        "properties": properties,
        "required": [name for name in schema.get("required", []) if name in properties],
        "additionalProperties": schema.get("additionalProperties", not properties),
    }


def _narrow(schema: Any) -> Any:
    """What inspect_ai's schema can say of it. The call is checked against the whole."""
    if not isinstance(schema, dict):
        return {} if schema is True else schema
    schema = dict(schema)
    if "oneOf" in schema and "anyOf" not in schema:
        schema["anyOf"] = schema["oneOf"]
    if "const" in schema and "enum" not in schema:
        schema["enum"] = [schema["const"]]
    if len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], dict):
        schema = {**schema["allOf"][0], **schema}
    made = {word: value for word, value in schema.items() if word in _KNOWN}
    if isinstance(made.get("properties"), dict):
        made["properties"] = {name: _narrow(each) for name, each in made["properties"].items()}
    if "anyOf" in made:
        made["anyOf"] = [_narrow(each) for each in made["anyOf"]]
    if "items" in made:
        made["items"] = _narrow(made["items"]) if isinstance(made["items"], dict) else {}
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = _narrow(made["additionalProperties"])
    if "title" in schema and "description" not in made:
        made["description"] = schema["title"]
    return made
