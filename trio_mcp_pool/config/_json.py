"""JSON with comments and trailing commas, read by tree-sitter.

Of the kept libraries it is the one that says where each value stands (`json5`, `commentjson` and `jsonyx` give values without
places), and it goes on after a syntax error, so that one wrong line does not hide the servers on the others. Its grammar
knows comments. It repairs trailing commas by guessing, so they are blanked beforehand, in place, and every other error that
it finds is one. Only an object whose own text is free of errors is used.
"""

from __future__ import annotations

import json
import re

import tree_sitter
import tree_sitter_json

from ._nodes import Node, Value
from ._problems import ConfigError, Place, Problem, Problems

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_json.language()))

_MOST_REPAIRED = 256 * 1024
"""The largest text with an error that is searched for what is right in it, in bytes. A megabyte takes a second."""

# Strings and comments are matched so that what looks like a comma in them is left alone.
_TRAILING_COMMA = re.compile(
    rb'"(?:[^"\\\n]|\\.)*+"|//[^\n]*+|/\*.*?\*/|(?P<comma>,)(?=(?:\s|//[^\n]*\n|/\*(?:[^*]|\*(?!/))*+\*/)*+[}\]])',
    re.DOTALL,
)


def _without_comma(match: re.Match[bytes]) -> bytes:
    return b" " if match["comma"] else match[0]


def _without_comment(match: re.Match[bytes]) -> bytes:
    return re.sub(rb"[^\n]", b" ", match[0]) if match[0].startswith(b"/") else match[0]


class _Reader:
    def __init__(self, text: str, file: str, problems: Problems) -> None:
        self.data = text.encode()
        self.lines = self.data.split(b"\n")
        self.file = file
        self.problems = problems

    def place(self, node: tree_sitter.Node) -> Place:
        row, column = node.start_point
        return Place(self.file, row + 1, len(self.lines[row][:column].decode(errors="replace")) + 1)

    def error(self, node: tree_sitter.Node) -> Problem:
        return self.problem(self.place(node), "this is not JSON")

    def problem(self, place: Place, message: str) -> Problem:
        return Problem(place, "", message, "Look for a missing comma, quote or bracket here.")

    def first_error(self, data: bytes) -> Problem | None:
        """What is wrong with a text, or `None`. The standard library says it best, and where, and takes no time for it."""
        try:
            json.loads(_TRAILING_COMMA.sub(_without_comment, data).decode(), strict=False)
        except json.JSONDecodeError as error:
            what = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting at")
            return self.problem(Place(self.file, error.lineno, error.colno), f"this is not JSON: {what}")
        except RecursionError:
            return self.problem(Place(self.file, 1, 1), "this nests too deep")
        except ValueError:
            pass  # a number of thousands of digits: its field is the problem
        return None

    def node(self, found: tree_sitter.Node, key: tree_sitter.Node | None = None) -> Node:
        return Node(
            place=self.place(found),
            key=None if key is None else self.place(key),
            read=lambda: self.value(found),
            intact=not found.has_error,
        )

    def value(self, found: tree_sitter.Node) -> Value:
        if found.type == "object":
            return self.fields(found)
        if found.type == "array":
            return [self.node(part) for part in found.named_children if part.type not in ("comment", "ERROR")]
        return self.scalar(found)

    def scalar(self, found: tree_sitter.Node) -> str | int | float | bool | None:
        try:
            # A control character in a string is forgiven, as every host forgives it.
            value: str | int | float | bool | None = json.loads((found.text or b"").decode(), strict=False)
        except (ValueError, RecursionError):  # a number of ten thousand digits, or half a string
            self.problems.add(self.error(found))
            return None
        return value

    def fields(self, found: tree_sitter.Node) -> Value:
        fields: dict[str, Node] = {}
        for pair in found.named_children:
            key, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
            if pair.type != "pair" or key is None or value is None:
                continue
            name = self.scalar(key)
            if not isinstance(name, str):
                continue
            if name in fields:
                self.problems.warning(
                    self.place(key),
                    name,
                    f"the key stands twice in one object, first in line {fields[name].key.line}; the last one counts",
                    "Remove one of the two.",
                )
            fields[name] = self.node(value, key)
        return fields


def parse_json(text: str, file: str, problems: Problems) -> Node:
    """The text as a node. Raises `ConfigError` if no JSON value can be made out in it at all."""
    if not text.strip():
        mend = 'Write {"mcpServers": {}} for no servers.'
        raise ConfigError.of(file, [Problem(Place(file, 1, 1), "", "the file is empty", mend)])
    reader = _Reader(text, file, problems)
    data = _TRAILING_COMMA.sub(_without_comma, reader.data)
    error = reader.first_error(data)
    if error is not None:
        problems.add(error)
        if len(data) > _MOST_REPAIRED or "too deep" in error.message:
            raise ConfigError.of(file, problems.found)
    root = _PARSER.parse(data).root_node
    # An error at the root keeps everything in one flat list: nothing in it can be trusted.
    values = [] if root.is_error else [part for part in root.named_children if part.type not in ("comment", "ERROR")]
    if not values:
        raise ConfigError.of(file, problems.found or [reader.error(root)])
    return reader.node(values[0])
