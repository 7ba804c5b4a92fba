"""What the constructors of policies and servers share when they are given a wrong argument."""

from __future__ import annotations

import functools
from typing import Any, Final, TypeVar

C = TypeVar("C")

_TIMEOUTS: Final = ("timeout", "call_timeout", "read_timeout", "request_timeout")


def explain_timeout(cls: type[C]) -> type[C]:
    """Class decorator: a timeout for calls, left over from another library, is answered by what to write instead.

    Without it the error would name the unknown argument and leave the reader to search for another name of it.
    """
    init = cls.__init__

    @functools.wraps(init)  # which keeps the signature
    def __init__(self: C, *args: Any, **options: Any) -> None:
        for name in _TIMEOUTS:
            if name in options:
                raise TypeError(
                    f"{cls.__name__} takes no {name}: put a cancel scope around the call instead, such as "
                    f"`with trio.move_on_after({show_number(options[name])}): await pool.call_tool(...)`"
                )
        init(self, *args, **options)

    setattr(cls, "__init__", __init__)  # noqa: B010 (mypy allows no assignment to a method)
    return cls


def show_number(value: object) -> str:
    """A number as an error shows it. A very large `int` has no `repr`: Python refuses to write more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"an int of {value.bit_length()} bits"
    return repr(value) if isinstance(value, int | float) else "seconds"
