"""The tables of the guide that are made from the code: `python docs/tables.py` writes them, and a test holds them.

A field's or class's own docstring is the text, so that the reference and the guide never say two things.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio_mcp_pool as package

GUIDE = Path(__file__).with_name("guide")
_DEFAULT = re.compile(r"\s*Default (?:`[^`]*`|\d+(?:\.\d+)?)([.:;]?)")


@functools.cache
def _classes() -> dict[str, ast.ClassDef]:
    """The classes of the package by name, in the order in which they are written. They say that they live in the package."""
    found: dict[str, ast.ClassDef] = {}
    for path in sorted(Path(package.__path__[0]).glob("_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = node
    return found


def field_docs(kind: type) -> dict[str, str]:
    """The docstrings that stand below the fields of a class and of its bases."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        body = _classes()[each.__name__].body if each.__name__ in _classes() else []
        for before, after in pairwise(body):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(before.target, ast.Name)
            ):
                text = ast.literal_eval(after.value)
                if isinstance(text, str):
                    found[before.target.id] = " ".join(text.split())
    return found


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """As Markdown."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def shown(value: Any) -> str:
    """A default as the tables show it."""
    if value is None or (isinstance(value, str | float) and value in ("fail", float("inf"))):
        return f"`{'inf' if value == float('inf') else repr(value)}`".replace("'", '"')
    return f"{value:g}" if isinstance(value, float | int) else f"`{type(value).__name__}()`"


def policy() -> str:
    """The fields of the policy, with their defaults."""
    docs, made = field_docs(package.PoolPolicy), package.PoolPolicy()
    fields = [field.name for field in dataclasses.fields(package.PoolPolicy)]
    rows = [(f"`{name}`", shown(getattr(made, name)), _without_default(docs[name])) for name in fields]
    return table(("field", "default", "meaning"), rows)


def _without_default(text: str) -> str:
    """The default has a column of its own; what is said about it stays."""
    found = _DEFAULT.search(text)
    if found is None:
        return text
    about = text[found.end() :].strip()
    if about:
        about = f" By default {about}" if found[1] == ":" else f" {about[0].upper()}{about[1:]}"
    return text[: found.start()].strip() + about


def statistics(kind: str) -> Callable[[], str]:
    """The gauges, or the counters."""

    def make() -> str:
        docs = field_docs(package.PoolStatistics)
        rows = []
        for name, text in docs.items():
            which = "Counter" if text.startswith("Counter") else "Gauge"
            if which == kind and name != "servers":
                said = re.sub(r"^(Gauge|Counter)(, seconds)?: ", lambda m: "Seconds: " if m[2] else "", text)
                rows.append((f"`{name}`", said[0].upper() + said[1:]))
        return table((kind.lower(), "meaning"), rows)

    return make


def _of_package(base: type) -> list[type]:
    public = [getattr(package, name) for name in package.__all__]
    found = [each for each in public if inspect.isclass(each) and issubclass(each, base) and each is not base]
    order = list(_classes())
    return sorted(found, key=lambda each: order.index(each.__name__))


def _first_paragraph(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _names(names: Iterable[str], of_all: Iterable[str]) -> str:
    """What a class carries beside what all of its kind do."""
    besides = set(of_all)
    return ", ".join(f"`{name}`" for name in names if name not in besides)


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _parameters(kind: type) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def events() -> str:
    """The events, in the order in which they are written."""
    of_all = _fields(package.ConnectionEvent)
    kinds = [each for each in _of_package(package.Event) if each is not package.ConnectionEvent]
    rows = [(f"`{each.__name__}`", _first_paragraph(each), _names(_fields(each), of_all)) for each in kinds]
    return table(("event", "meaning", "carries"), rows)


def errors() -> str:
    """The errors, with what else they are."""
    rows = []
    for each in _of_package(package.PoolError):
        also = [base for base in each.__bases__ if base is not package.PoolError]
        names = ", ".join(f"`{_name(base)}`" for base in also)
        carried = _names(_parameters(each), _parameters(package.PoolError))
        rows.append((f"`{each.__name__}`", _first_paragraph(each), carried, names))
    return table(("error", "meaning", "carries", "is also"), rows)


def _name(kind: type) -> str:
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module in ("builtins", "trio_mcp_pool") else f"{module}.{kind.__name__}"


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("sizing.md", "policy"): policy,
    ("sizing.md", "gauges"): statistics("Gauge"),
    ("sizing.md", "counters"): statistics("Counter"),
    ("events.md", "events"): events,
    ("errors.md", "errors"): errors,
}


def written(page: str, text: str) -> str:
    """A page with its tables as they should be."""
    for (of, name), make in TABLES.items():
        if of == page:
            begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
            before, found, rest = text.partition(begin)
            _, closed, after = rest.partition(end)
            if not (found and closed):
                raise SystemExit(f"{page} has no place for the table of {name}: {begin!r} and {end!r}")
            text = before + begin + make() + end + after
    return text


def main() -> None:
    """Write all of them."""
    for page in sorted({page for page, _ in TABLES}):
        path = GUIDE / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
