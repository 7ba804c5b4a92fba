"""What is in the groups that nurseries and task groups wrap around exceptions.

A group is taken apart here and nowhere else. Taking its first member would be wrong: which one comes first is an accident of
scheduling, and with two real errors neither of them says what happened.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep, or the exception itself where it is no group."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from leaves(inner)
    else:
        yield exc


def sole_error(exc: BaseException) -> BaseException:
    """The only error in a group, where there is exactly one beside cancellations; otherwise `exc` itself.

    Two real errors stay a group: which of them is meant is not for this function to guess. A lone cancellation stays what it
    is, because only its own scope may catch it.
    """
    errors = [leaf for leaf in leaves(exc) if not isinstance(leaf, trio.Cancelled)]
    return errors[0] if len(errors) == 1 else exc


def is_cancellation(exc: BaseException) -> bool:
    """Whether it is a cancellation, or a group of nothing else."""
    return all(isinstance(leaf, trio.Cancelled) for leaf in leaves(exc))


def interrupt_in(exc: BaseException) -> BaseException | None:
    """The `KeyboardInterrupt` or `SystemExit` in an exception, however deep it lies in groups; else `None`."""
    return next((leaf for leaf in leaves(exc) if isinstance(leaf, KeyboardInterrupt | SystemExit)), None)


def text_of(exc: BaseException) -> str:
    """What an exception says. It may be the user's own, whose `__str__` raises: then it says nothing."""
    try:
        return str(exc)
    except Exception:
        return ""
