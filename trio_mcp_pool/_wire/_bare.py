"""The one error inside the groups that task groups wrap around it."""

from __future__ import annotations

from collections.abc import Iterator

import trio


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def essence(exc: BaseException) -> BaseException:
    """The only error in a group, where there is exactly one beside cancellations; otherwise `exc` itself.

    Two real errors stay a group: which of them is meant is not for this function to guess. A lone cancellation stays what it
    is, because only its own scope may catch it.
    """
    leaves = [leaf for leaf in _leaves(exc) if not isinstance(leaf, trio.Cancelled)]
    return leaves[0] if len(leaves) == 1 else exc
