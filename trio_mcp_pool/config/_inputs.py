"""Values that a person gives when the servers are started: the `inputs` of a VS Code file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, final

from ._nodes import Node
from ._problems import Problems
from ._variables import VariableError


@final
@dataclass(frozen=True)
class Input:
    """Something to ask a person for."""

    id: str
    """Its name in `${input:ID}`."""
    description: str = ""
    """What to ask."""
    password: bool = False
    """Whether the answer must not be seen while it is typed."""
    options: tuple[str, ...] = ()
    """The answers to choose from; empty: any text."""
    default: str | None = field(default=None, repr=False)
    """The answer to propose. Used without asking where nobody can be asked."""


Ask: TypeAlias = Callable[[Input], "str | None"]
"""Gives a person's answer, or `None` where there is none."""


class Inputs:
    """The inputs of one file. Each is asked for at most once, and only if a server needs it."""

    def __init__(self, root: Node, ask: Ask | None, problems: Problems) -> None:
        self._ask = ask
        self._answers: dict[str, str] = {}
        self.known: dict[str, Input] = {}
        given = root.fields.get("inputs")
        if given is None:
            return
        if not isinstance(given.value, list):
            problems.error(given.place, "inputs", "it must be a list", 'Write [{"id": ..., "type": "promptString"}].')
            return
        for number, entry in enumerate(given.value):
            self._read(entry, f"inputs[{number}]", problems)

    def _read(self, entry: Node, field_name: str, problems: Problems) -> None:
        def text(name: str) -> str | None:
            value = entry.fields[name].value if name in entry.fields else None
            return value if isinstance(value, str) else None

        identity = text("id")
        if identity is None:
            problems.error(entry.place, field_name, "an input needs an id that is a string", 'Add "id".')
            return
        kind = entry.fields.get("type")
        if kind is not None and kind.value not in ("promptString", "pickString", "command"):
            problems.warning(
                kind.place,
                f"{field_name}.type",
                "this type of input is not known; it is asked for as text",
                'Write "promptString", "pickString" or "command".',
            )
        options = entry.fields["options"].value if "options" in entry.fields else []
        values = [
            option.fields["value"].value if "value" in option.fields else option.value
            for option in (options if isinstance(options, list) else [])
        ]
        password = "password" in entry.fields and entry.fields["password"].value is True
        self.known[identity] = Input(
            identity,
            text("description") or "",
            password,
            tuple(v for v in values if isinstance(v, str)),
            text("default"),
        )

    def answer(self, identity: str) -> str:
        """The value of an input. Raises `VariableError` where nobody gives one."""
        if identity in self._answers:
            return self._answers[identity]
        wanted = self.known.get(identity)
        if wanted is None:
            raise VariableError("this input is not described", 'Add it to the "inputs" of the file.')
        answer = self._ask(wanted) if self._ask is not None else wanted.default
        if answer is None:
            nobody = "a person must be asked for it" if self._ask is None else "no answer was given"
            raise VariableError(f"the input {identity!r} has no value: {nobody}", "Pass ask= to load_servers.")
        if wanted.options and answer not in wanted.options:
            raise VariableError(f"the answer for the input {identity!r} is none of its options", "Choose one of them.")
        self._answers[identity] = answer
        return answer
