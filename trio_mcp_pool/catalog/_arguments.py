"""Arguments as models send them, read into what a tool takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._errors import InvalidArgumentsError
from ._schemas import json_type, short


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_arguments(given: Any, name: str, server: str) -> dict[str, Any]:
    """A mapping, or the JSON text that OpenAI sends; nothing, or an empty text, is no arguments.

    Raises `InvalidArgumentsError`, which quotes none of it.
    """
    if type(given) is dict:
        for key in given:
            if type(key) is not str:
                break
        else:
            return given.copy()
    if isinstance(given, Mapping):
        if not all(isinstance(key, str) for key in given):
            raise InvalidArgumentsError(f"the arguments of {name!r} must have names of type str", server=server)
        return dict(given)
    if given is None:
        return {}
    if not isinstance(given, str | bytes | bytearray):
        raise InvalidArgumentsError(
            f"the arguments of {short(name)} must be an object, or its JSON text, not {type(given).__name__}",
            server=server,
        )
    if not given.strip():
        return {}
    try:
        read = json.loads(given, parse_constant=_no_constant)
    except (ValueError, RecursionError) as why:
        place = f" (line {why.lineno}, column {why.colno})" if isinstance(why, json.JSONDecodeError) else ""
        # The error's own text may quote them, and so would its traceback as a cause.
        raise InvalidArgumentsError(
            f"the arguments of {short(name)} are not valid JSON{place}; send one JSON object", server=server
        ) from None
    if not isinstance(read, dict):
        raise InvalidArgumentsError(
            f"the arguments of {short(name)} must be a JSON object, not {json_type(read)}", server=server
        )
    return read
