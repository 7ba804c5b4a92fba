"""The cause of an error as a traceback may print it (R16).

A traceback prints a cause with its own causes, whose texts all come from elsewhere: the operating system, the SDK, the user's
own function. Where any of them holds a secret, the cause is replaced by one that names its type alone. To mask the text inside
the exception would change an object that may belong to the user.
"""

from __future__ import annotations

import traceback
from typing import final

from ._link import Link


@final
class HiddenCause(Exception):
    """Stands for an exception whose text holds a secret, and names its type."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


def shown_cause(cause: BaseException | None, link: Link) -> BaseException | None:
    """The cause as an error may carry it."""
    if cause is None:
        return None
    if not link.keeps_secrets:
        return cause
    printed = "".join(traceback.format_exception(cause))
    return cause if link.mask(printed) == printed else HiddenCause(type(cause))


def kind_of(cause: BaseException | None) -> type[BaseException] | None:
    """The class of a cause, hidden or not."""
    return cause.kind if isinstance(cause, HiddenCause) else None if cause is None else type(cause)
