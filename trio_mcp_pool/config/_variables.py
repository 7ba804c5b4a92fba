"""Variables in a configuration: `${VAR}`, `${VAR:-default}`, `${env:VAR}`, `${input:ID}`, `${workspaceFolder}`, `${userHome}`.

This is our own syntax, a superset of the hosts'. What a host writes in another way is translated when its entry is read
(`canonical`), so that a file that was imported keeps its variables. `$${` is a literal `${`.

A name is looked for in the program's environment first, then in the server's `envFile`, then in its own `env`, whose
values may hold variables again. That is where cycles come from, and texts that double at each step; both are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._hosts import Host

LONGEST = 128 * 1024
"""The longest text after expansion, in characters: what Linux accepts as one argument or variable of a process."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEEPEST = 20


class VariableError(Exception):
    """A text that cannot be expanded; says what is wrong and what to do, never a value."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


def canonical(text: str, host: Host) -> str:
    """The text of a host's file in our own syntax."""
    if host.variables == "none":
        return text.replace("${", "$${")
    if host.variables == "dollar":
        return re.sub(r"(?<!\$)\$([A-Za-z_][A-Za-z0-9_]*)", r"${\1}", text)
    return text


def names_in(text: str) -> bool:
    """Whether a text has a variable in it."""
    return "${" in text.replace("$${", "")


@dataclass
class Scope:
    """What names mean in one server's entry."""

    environ: Mapping[str, str]
    workspace: Path
    home: Path
    ask: Callable[[str], str]
    """Gives the value of an input, by its id, or raises `VariableError`."""
    file_env: Mapping[str, str] = field(default_factory=dict)
    own_env: Mapping[str, str] = field(default_factory=dict)
    """The server's own `env`, not yet expanded."""
    _known: dict[str, str] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def expand(self, text: str, depth: int = 0) -> str:
        """The text with every variable replaced. Raises `VariableError`."""
        if depth > _DEEPEST:
            raise VariableError("variables nest too deep", "Use fewer defaults inside of defaults.")
        parts: list[str] = []
        length = at = 0
        while (start := text.find("${", at)) >= 0:
            if start > at and text[start - 1] == "$":
                piece, at = text[at : start - 1] + "${", start + 2
            else:
                end = _closing(text, start + 2)
                piece = text[at:start] + self._look_up(text[start + 2 : end], depth)
                at = end + 1
            parts.append(piece)
            length += len(piece)
            if length > LONGEST:
                break
        parts.append(text[at:])
        if length + len(parts[-1]) > LONGEST:
            raise VariableError(f"it is longer than {LONGEST} characters", "Shorten it, or put it into a file.")
        return "".join(parts)

    def _look_up(self, inside: str, depth: int) -> str:
        name, has_default, default = inside.partition(":-")
        kind, colon, rest = name.partition(":")
        if colon and kind == "input":
            return self.ask(rest)
        if colon and kind == "env":
            name = rest
        elif colon:
            raise VariableError(
                f"${{{kind}:...}} is not known" if _NAME.fullmatch(kind) else "this variable is not known",
                "Use ${VAR}, ${env:VAR} or ${input:ID}.",
            )
        fixed = {
            "workspaceFolder": str(self.workspace),
            "workspaceFolderBasename": self.workspace.name,
            "userHome": str(self.home),
            "pathSeparator": os.sep,
            "/": os.sep,
        }
        if name in fixed:
            return fixed[name]
        if not _NAME.fullmatch(name):
            raise VariableError("this is no variable's name", "Write ${NAME}, or $${ for a literal ${.")
        value = self._variable(name, depth)
        if has_default and not value:
            return self.expand(default, depth + 1)
        if value is None:
            raise VariableError(
                f"the variable {name} is not set", f"Set it in the environment, or write ${{{name}:-default}}."
            )
        return value

    def _variable(self, name: str, depth: int) -> str | None:
        for source in (self.environ, self.file_env, self._known):
            if name in source:
                return source[name]
        if name not in self.own_env:
            return None
        if name in self._open:
            cycle = " -> ".join([*self._open[self._open.index(name) :], name])
            raise VariableError(f"the variables refer to one another: {cycle}", "Give one of them a value.")
        self._open.append(name)
        try:
            self._known[name] = self.expand(self.own_env[name], depth + 1)
        finally:
            self._open.pop()
        return self._known[name]


def _closing(text: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"\$\{|\}").finditer(text, start):
        if match[0] == "${":
            depth += 1
        elif depth:
            depth -= 1
        else:
            return match.start()
    raise VariableError("a ${ is not closed", "Add the }, or write $${ for a literal ${.")
