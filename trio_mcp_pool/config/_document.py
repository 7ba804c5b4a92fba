"""Reading a configuration file: bounded, as UTF-8, and as JSON or TOML."""

from __future__ import annotations

from pathlib import Path

from ._json import parse_json
from ._nodes import Node
from ._problems import ConfigError, Place, Problem, Problems
from ._toml import parse_toml

MAX_SIZE = 4 * 1024 * 1024
"""The largest file that is read, in bytes. Default 4 MiB."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The file's bytes, at most `limit`. Raises `OSError`, and `ConfigError` for what is no ordinary file or too large."""
    if path.exists() and not path.is_file():
        # A pipe or a device could keep the reader for ever.
        raise _refused(path, "this is no ordinary file", "Name a JSON or TOML file.")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _refused(
            path, f"the file is larger than {limit} bytes", "Pass a larger max_size if it is the right file."
        )
    return data


def read_text(path: Path, limit: int) -> str:
    """The file's text. Raises `OSError`, and `ConfigError` for what is not UTF-8 or too large."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        what = "the file is UTF-16, not UTF-8" if utf16 else "this byte is not UTF-8"
        place = Place(str(path), line, column)
        raise ConfigError.of(str(path), [Problem(place, "", what, "Save the file as UTF-8.")]) from None


def _refused(path: Path, message: str, mend: str) -> ConfigError:
    return ConfigError.of(str(path), [Problem(Place(str(path)), "", message, mend)])


def read_document(path: Path, problems: Problems, limit: int = MAX_SIZE) -> Node:
    """The file as a node, JSON or TOML by its name. Raises `OSError`, and `ConfigError` if nothing in it can be read."""
    text = read_text(path, limit)
    if path.suffix.lower() == ".toml":
        return parse_toml(text, str(path))
    return parse_json(text, str(path), problems)
