"""What the constructors of policies and servers share when they are given a wrong argument."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

_TIMEOUTS: Final = ("timeout", "call_timeout", "read_timeout", "request_timeout")


def explain_timeout(cls: type[C]) -> type[C]:
    """Class decorator: the error for a timeout argument, as other libraries have it, says what to write instead.

    Without it the error would name the unknown argument only, and the reader would search for another name of it.
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


def explain_timeout_of(function: F) -> F:
    """The same for a function or method. A correct call costs nothing but a frame."""

    @functools.wraps(function)  # which keeps the signature
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except TypeError:
            for name in _TIMEOUTS:
                if name in options:
                    raise TypeError(
                        f"{function.__name__} takes no {name}: put a cancel scope around the call instead, such as "
                        f"`with trio.move_on_after({show_number(options[name])}): ...`"
                    ) from None
            raise

    if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(function):
        inspect.markcoroutinefunction(call)
    return cast("F", call)


def show_number(value: object) -> str:
    """A number as an error shows it. A very large `int` has no `repr`: Python refuses to write more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"an int of {value.bit_length()} bits"
    return repr(value) if isinstance(value, int | float) else "seconds"
