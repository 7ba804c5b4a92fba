"""A configuration file as a tree of values that know where they stand.

Values are read when somebody looks at them: hosts keep their whole state beside the servers, in files of many megabytes,
and walking all of that to find five servers would cost seconds. It also means that no reader recurses into what a file
nests, however deep.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ._problems import Place

Value: TypeAlias = "str | int | float | bool | list[Node] | dict[str, Node] | None"


class Node:
    """One value. `place` is where it starts, `key` where its name starts."""

    __slots__ = ("_read", "_value", "intact", "key", "place")

    def __init__(
        self,
        value: Value = None,
        place: Place | None = None,
        key: Place | None = None,
        *,
        read: Callable[[], Value] | None = None,
        intact: bool = True,
    ) -> None:
        self._value = value
        self._read = read
        self.place = place or Place("")
        self.key = key or self.place
        self.intact = intact
        """Whether the text of this value has no syntax error inside."""

    @property
    def value(self) -> Value:
        """The value; its parts are nodes."""
        if self._read is not None:
            self._value, self._read = self._read(), None
        return self._value

    def instead(self, value: Value) -> Node:
        """Another value at the same place."""
        return Node(value, self.place, self.key)

    @property
    def fields(self) -> dict[str, Node]:
        """The parts of an object; nothing for anything else."""
        return self.value if isinstance(self.value, dict) else {}


def from_data(data: object, file: str) -> Node:
    """A node for a value that was never text: a mapping given by the program."""
    place = Place(file)

    def read() -> Value:
        if isinstance(data, Mapping):
            return {str(name): from_data(part, file) for name, part in data.items()}
        if isinstance(data, list | tuple):
            return [from_data(part, file) for part in data]
        if isinstance(data, os.PathLike):
            return os.fspath(data) if isinstance(os.fspath(data), str) else str(data)
        return data  # type: ignore[return-value]  # what is no JSON at all is refused by whoever wants a type

    return Node(place=place, read=read)


def to_data(node: Node, depth: int = 0) -> Any:
    """The value as plain data, to a bounded depth."""
    if depth > 20:
        return None
    if isinstance(node.value, dict):
        return {name: to_data(part, depth + 1) for name, part in node.value.items()}
    if isinstance(node.value, list):
        return [to_data(part, depth + 1) for part in node.value]
    return node.value
