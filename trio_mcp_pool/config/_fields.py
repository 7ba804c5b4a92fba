"""The fields of one object, read with their types; what is wrong becomes a problem and counts as missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ._nodes import Node
from ._problems import Problems, did_you_mean, kind_of, shown


class Fields:
    """Reads an object field by field."""

    def __init__(self, node: Node, path: str, problems: Problems, server: str | None = None) -> None:
        self.node = node
        self.path = path
        self.problems = problems
        self.server = server

    def __contains__(self, name: str) -> bool:
        return name in self.node.fields

    def get(self, name: str) -> Node | None:
        """The field's node; `null` counts as missing."""
        node = self.node.fields.get(name)
        return None if node is None or node.value is None else node

    def error(self, name: str, message: str, mend: str) -> None:
        """Report what makes the server unusable, at this field."""
        node = self.node.fields.get(name, self.node)
        self.problems.error(node.key, f"{self.path}.{name}".rstrip("."), message, mend, self.server)

    def warning(self, name: str, message: str, mend: str) -> None:
        """Report what is left out, at this field."""
        node = self.node.fields.get(name, self.node)
        self.problems.warning(node.key, f"{self.path}.{name}".rstrip("."), message, mend, self.server)

    def wrong_type(self, name: str, node: Node, wanted: str) -> None:
        """Report a value of another type."""
        self.problems.error(
            node.place,
            f"{self.path}.{name}",
            f"it must be {wanted}, not {kind_of(node.value)}",
            "Mend it.",
            self.server,
        )

    def text(self, name: str) -> Node | None:
        """A string."""
        node = self.get(name)
        if node is None or isinstance(node.value, str):
            return node
        self.wrong_type(name, node, "a string")
        return None

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        node = self.get(name)
        if node is None or isinstance(node.value, bool):
            return None if node is None else bool(node.value)
        self.wrong_type(name, node, "true or false")
        return None

    def number(self, name: str) -> float | None:
        """A number greater than 0."""
        node = self.get(name)
        if node is None:
            return None
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            self.wrong_type(name, node, "a number")
            return None
        if not 0 < node.value < 1e12 or math.isnan(node.value):
            self.error(name, "it must be greater than 0", "Remove the field for no limit.")
            return None
        return float(node.value)

    def texts(self, name: str) -> list[Node]:
        """A list of strings."""
        node = self.get(name)
        if node is None:
            return []
        if not isinstance(node.value, list):
            self.wrong_type(name, node, "a list of strings")
            return []
        found = [self._as_text(f"{name}[{number}]", part) for number, part in enumerate(node.value)]
        return [part for part in found if part is not None]

    def table(self, name: str) -> dict[str, Node]:
        """An object whose values are strings."""
        node = self.get(name)
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.wrong_type(name, node, "an object of strings")
            return {}
        found = {
            key: self._as_text(f"{name}.{key}", part) for key, part in node.fields.items() if part.value is not None
        }
        return {key: part for key, part in found.items() if part is not None}

    def _as_text(self, name: str, part: Node) -> Node | None:
        if isinstance(part.value, str):
            return part
        if isinstance(part.value, int | float) and not isinstance(part.value, bool):
            self.problems.warning(
                part.place,
                f"{self.path}.{name}",
                "it is a number where a string belongs",
                "Put it in quotes.",
                self.server,
            )
            return part.instead(str(part.value))
        self.wrong_type(name, part, "a string")
        return None

    def unknown(self, known: Iterable[str], mend: str = "Remove it, or see the documentation of the format.") -> None:
        """Report every field that is not known."""
        names = set(known)
        for name in [name for name in self.node.fields if name not in names]:
            hint = did_you_mean(name, names)
            self.warning(name, f"this field is not known{f'; {hint}' if hint else ''}", mend)

    def one_of(self, node: Node, name: str, spellings: Mapping[str, str], mend: str) -> str | None:
        """What a word means, by a table of spellings."""
        word = str(node.value)
        found = spellings.get(word.lower().replace("-", "").replace("_", ""))
        if found is None:
            hint = did_you_mean(word, spellings)
            self.error(name, f"{shown(word)} is not known{f'; {hint}' if hint else ''}", mend)
        return found
