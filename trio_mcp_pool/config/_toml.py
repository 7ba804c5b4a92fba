"""TOML, read by the standard library, with the places of keys found afterwards.

`tomllib` gives no places, and neither does any kept library; so a key is looked for under its table's header. A place that
cannot be found, such as a key in an inline table over several lines, is its table's.
"""

from __future__ import annotations

import re
import tomllib

from ._nodes import Node, Value
from ._problems import ConfigError, Place, Problem

_HEADER = re.compile(r"^[ \t]*\[\[?(?P<name>[^\[\]\n]+)\]\]?[ \t]*(?:#.*)?$", re.MULTILINE)
_KEY = re.compile(
    r"""^[ \t]*(?P<name>(?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:[ \t]*\.[ \t]*(?:[\w-]+|"[^"\n]*"|'[^'\n]*'))*)[ \t]*="""
)
_PART = re.compile(r"""[\w-]+|"[^"\n]*"|'[^'\n]*'""")
# `tomllib` needs quadratic time for a dotted key of many parts.
_LONG_KEY = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){31}")


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _places(text: str, file: str) -> dict[tuple[str, ...], Place]:
    found: dict[tuple[str, ...], Place] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        column = len(line) - len(line.lstrip()) + 1
        if header := _HEADER.match(line):
            table = _parts(header["name"])
            found.setdefault(table, Place(file, number, column))
        elif key := _KEY.match(line):
            parts = _parts(key["name"])
            for length in range(1, len(parts) + 1):
                found.setdefault((*table, *parts[:length]), Place(file, number, column))
    return found


def parse_toml(text: str, file: str) -> Node:
    """The text as a node. Raises `ConfigError` if it is not TOML."""
    try:
        if long := _LONG_KEY.search(text):
            line = text.count("\n", 0, long.start()) + 1
            raise _refused(Place(file, line, long.start() - text.rfind("\n", 0, long.start())), "this key is too long")
        data = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = Place(file, int(found[1]), int(found[2])) if found else Place(file)
        what = str(error).partition(" (at ")[0]
        raise _refused(place, f"this is not TOML: {what[:1].lower()}{what[1:]}") from None
    except RecursionError:
        raise _refused(Place(file), "this nests too deep") from None
    places = _places(text, file)

    def node(value: object, path: tuple[str, ...]) -> Node:
        place = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), Place(file, 1, 1))

        def read() -> Value:
            if isinstance(value, dict):
                return {name: node(part, (*path, name)) for name, part in value.items()}
            if isinstance(value, list):
                return [node(part, path) for part in value]
            return value  # type: ignore[return-value]  # a date is refused by whoever wants a type

        return Node(place=place, read=read)

    return node(data, ())


def _refused(place: Place, message: str) -> ConfigError:
    return ConfigError.of(place.file, [Problem(place, "", message, "Mend the line, or check that the file is TOML.")])
