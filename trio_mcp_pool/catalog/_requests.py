"""What a model asked for: its tool calls, read from any of the shapes in which they come.

The rule: a shape is told by its fields, never by its class, so that objects of the providers' packages, plain dicts and what
other libraries hand on are all read, and neither package is imported. What is no function call is skipped, as the
provider runs it or nobody does. The obvious way, `isinstance` against both packages, would make both a dependency.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, final

from ._schemas import short

Shape: TypeAlias = Literal["anthropic", "chat", "responses", "pair"]
"""Whose request it is, which decides how it is answered: a message of Anthropic's, a chat completion, the Responses API's
items, or a plain pair."""

_NOTHING = object()
_EVENTS: Final = frozenset(
    {
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    }
)
_COLLECT: Final = "collect the whole message first, and give run that"


@final
@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call that a model asked for."""

    name: str
    """The tool's name as the model said it."""
    arguments: Any
    """A mapping, or the JSON text that OpenAI sends. Never shown in a `repr`: it may hold anything."""
    id: str | None = None
    """The provider's id of the call, which its answer must repeat; `None` for a pair."""
    shape: Shape = "pair"
    """Whose request it is."""

    def __repr__(self) -> str:
        return f"<ToolRequest {self.name!r} ({self.shape})>"


def _get(thing: Any, name: str) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name, _NOTHING)
    return getattr(thing, name, _NOTHING)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def read_requests(response: Any) -> list[ToolRequest]:
    """All calls in a message, a completion, a response, blocks or pairs, in the order asked.

    Of a completion with several choices the first counts. Raises `TypeError` for what is none of these, and for a part of a
    stream: to skip it, as what is no call, would end an agent's loop without a word.
    """
    return list(_read(response))


def _read(thing: Any) -> Iterator[ToolRequest]:
    if isinstance(thing, str | bytes) or thing is None:
        raise TypeError(
            f"run takes a model's response, its blocks or (name, arguments) pairs, not {type(thing).__name__}"
        )
    if _is_list(choices := _get(thing, "choices")):
        for choice in list(choices)[:1]:
            message = _get(choice, "message")
            if _get(choice, "delta") is not _NOTHING and message is _NOTHING:
                raise TypeError(f"run was given a chunk of a completion: {_COLLECT}")
            if message is _NOTHING or message is None:
                raise TypeError("run was given a completion whose first choice has no message")
            yield from _read_chat(message)
    elif _get(thing, "tool_calls") is not _NOTHING:
        yield from _read_chat(thing)
    elif _is_list(output := _get(thing, "output")) and _get(thing, "call_id") is _NOTHING:
        for item in output:
            yield from _read_block(item)
    elif isinstance(kind := _get(thing, "type"), str) and kind != "message":
        if kind == "error":
            raise TypeError("run was given the provider's error instead of a response")
        yield from _read_block(thing)
    elif (content := _get(thing, "content")) is not _NOTHING:
        if _is_list(content):
            for block in content:
                yield from _read_block(block)
    elif _is_list(thing):
        if isinstance(thing, tuple) and len(thing) == 2 and isinstance(thing[0], str):
            yield _pair(thing)
            return
        for item in thing:
            if isinstance(item, tuple):
                yield _pair(item)
            else:
                yield from _read_item(item)
    else:
        raise TypeError(
            "run takes a message, a completion, a response, their blocks, or (name, arguments) pairs, not "
            f"{type(thing).__name__}"
        )


def _pair(pair: tuple[Any, ...]) -> ToolRequest:
    if len(pair) != 2 or not isinstance(pair[0], str):
        raise TypeError("a pair given to run must be (name, arguments), the name a str")
    return ToolRequest(pair[0], pair[1])


def _read_item(item: Any) -> Iterator[ToolRequest]:
    """One of a list: a block, an item, or a chat message's call."""
    if not isinstance(_get(item, "type"), str) and _get(item, "function") is _NOTHING:
        raise TypeError(f"run was given a list with a {type(item).__name__} in it, which is no block, call or pair")
    if _get(item, "function") is not _NOTHING:
        yield from _read_call(item)
    else:
        yield from _read_block(item)


def _read_block(block: Any) -> Iterator[ToolRequest]:
    kind = _get(block, "type")
    if kind == "tool_use":
        yield ToolRequest(_name(block), _arguments(block, "input"), _id(block, "id"), "anthropic")
    elif kind == "function_call":
        yield ToolRequest(_name(block), _arguments(block), _id(block, "call_id"), "responses")
    elif isinstance(kind, str) and (kind in _EVENTS or kind.startswith("response.")):
        raise TypeError(f"run was given an event of a stream, {short(kind)}: {_COLLECT}")


def _read_chat(message: Any) -> Iterator[ToolRequest]:
    calls = _get(message, "tool_calls")
    if calls is _NOTHING or calls is None:
        return
    if not _is_list(calls):
        raise TypeError(f"run was given a message whose tool_calls are no list, but {type(calls).__name__}")
    for call in calls:
        yield from _read_call(call)


def _read_call(call: Any) -> Iterator[ToolRequest]:
    function = _get(call, "function")
    if function is not _NOTHING and function is not None:
        yield ToolRequest(_name(function), _arguments(function), _id(call, "id"), "chat")


def _name(thing: Any) -> str:
    name = _get(thing, "name")
    return name if isinstance(name, str) else ""


def _arguments(thing: Any, name: str = "arguments") -> Any:
    found = _get(thing, name)
    return None if found is _NOTHING else found


def _id(thing: Any, name: str) -> str | None:
    found = _get(thing, name)
    return found if isinstance(found, str) else None
