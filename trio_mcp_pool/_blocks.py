"""Async context managers that explain their misuse.

A forgotten `async with` is the most common first mistake. What `contextlib` makes of a generator would answer it with an
attribute that `_AsyncGeneratorContextManager` does not have, or with an object that cannot be awaited.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar, final

from trio.lowlevel import enable_ki_protection

P = ParamSpec("P")
T = TypeVar("T")


@final
class Block(AbstractAsyncContextManager[T]):
    """What `open_pool(...)` and its like return: to be entered with `async with`, once."""

    def __init__(self, what: str, inner: AbstractAsyncContextManager[T]) -> None:
        self._what = what
        self._inner = inner

    # The frames between the user's block and the generator must not be where control-C strikes: a pool that is open and
    # whose body never begins would not be closed.
    @enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._inner.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (what is inside has its own bounds)

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError(f"{self._what}(...) is not awaited: write 'async with {self._what}(...) as ...:'")

    def __getattr__(self, name: str) -> Any:
        # Dunder names are looked up by copying, pickling and introspection, which want the usual error.
        hint = (
            "" if name.startswith("__") else f": write 'async with {self._what}(...) as ...:' and use what that gives"
        )
        raise AttributeError(f"{self._what}(...) is an async context manager and has no {name!r}{hint}")


def block(what: str) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, AbstractAsyncContextManager[T]]]:
    """Make an async generator function a context manager, as `contextlib.asynccontextmanager` does; `what` names it."""

    def decorate(generator: Callable[P, AsyncIterator[T]]) -> Callable[P, AbstractAsyncContextManager[T]]:
        manager = asynccontextmanager(generator)

        @functools.wraps(generator)
        def open_block(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
            return Block(what, manager(*args, **kwargs))

        # For documentation and help: what is returned is no iterator.
        signature = inspect.signature(generator)
        returned = str(signature.return_annotation).replace("AsyncIterator", "AbstractAsyncContextManager")
        setattr(open_block, "__signature__", signature.replace(return_annotation=returned))  # noqa: B010 (for mypy)
        return open_block

    return decorate
