"""Running several calls side by side: all of them, or as they come.

The rule, case by case:

- What a call or a hook raises, if it is an `Exception`, is that call's outcome. Its siblings never notice.
- What is none (an interrupt) ends all and comes out bare, with the body's error, if there was one, as its `__context__`.
- What the body of `run_each` raises comes out bare, after the calls that still ran were cancelled. It is kept aside while the
  nursery ends, because the nursery would wrap it.
- A cancellation from outside cancels all and comes out as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self, final

import trio

from .._groups import interrupt_in, sole_error
from ._outcomes import Outcome
from ._requests import ToolRequest

RunOne = Callable[[ToolRequest, "Limits | None"], Awaitable[Outcome]]


@final
class Limits:
    """How many calls of one response run at a time: in all, and on one server."""

    def __init__(self, max_concurrent: int, max_per_server: int | None) -> None:
        self._all = trio.Semaphore(max_concurrent)
        self._max_per_server = max_per_server
        self._servers: dict[str, trio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, server: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it. A call that waits for its server does not keep others from theirs."""
        if self._max_per_server is None:
            async with self._all:
                yield
            return
        if server not in self._servers:
            self._servers[server] = trio.Semaphore(self._max_per_server)
        async with self._servers[server], self._all:
            yield


@final
class OutcomeStream:
    """Outcomes as they come: an async iterator that ends after the last. Made by `ToolSet.run_each`."""

    def __init__(self, receive: trio.MemoryReceiveChannel[Outcome], total: int) -> None:
        self._receive = receive
        self.total = total
        """How many calls there are."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        """The next one, as soon as there is one; after the block was left there is none. Checkpoints."""
        try:
            return await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None


async def run_all(run_one: RunOne, requests: Sequence[ToolRequest], limits: Limits) -> list[Outcome]:
    """The outcomes in the order asked. Checkpoints."""
    if len(requests) == 1:
        # No nursery, and nothing to wait a turn for.
        return [await run_one(requests[0], None)]
    if not requests:
        await trio.lowlevel.checkpoint()
        return []
    places: list[Outcome | None] = [None] * len(requests)

    async def fill(place: int) -> None:
        places[place] = await run_one(requests[place], limits)

    try:
        async with trio.open_nursery() as nursery:
            for place in range(len(requests)):
                nursery.start_soon(fill, place, name=f"tool call {place + 1} of {len(requests)}")
    except BaseExceptionGroup as group:
        raise interrupt_in(group) or sole_error(group) from None
    return [outcome for outcome in places if outcome is not None]


@asynccontextmanager
async def run_each(run_one: RunOne, requests: Sequence[ToolRequest], limits: Limits) -> AsyncIterator[OutcomeStream]:
    """The outcomes as they come. Leaving the block cancels what still runs."""
    error: BaseException | None = None
    # Room for all: a call that is done never waits for its reader.
    send, receive = trio.open_memory_channel[Outcome](len(requests))

    async def deliver(request: ToolRequest, to: trio.MemorySendChannel[Outcome]) -> None:
        with to:
            to.send_nowait(await run_one(request, limits))

    try:
        with receive:
            async with trio.open_nursery() as nursery:
                with send:
                    for request in requests:
                        nursery.start_soon(deliver, request, send.clone(), name=f"tool call {request.name}")
                try:
                    yield OutcomeStream(receive, len(requests))
                except BaseException as exc:  # noqa: ASYNC103 (raised bare below)
                    error = exc
                nursery.cancel_scope.cancel(reason="the block of run_each was left")
    except BaseExceptionGroup as group:
        error = what_comes_out(error, group)
    if error is not None:
        try:
            # Out of the handler above, which would make the nursery's group its context.
            raise error
        finally:
            del error  # the frame would otherwise keep the error, and the error the frame


def what_comes_out(error: BaseException | None, group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The body's error and those of the calls, as one that comes out bare and loses none."""
    interrupt = interrupt_in(group)
    out = interrupt or sole_error(group)
    if error is None or isinstance(error, trio.Cancelled):
        # The nursery's own cancellation, because a call failed: that is what happened.
        return out
    if interrupt is not None:
        interrupt.__context__ = error
        return interrupt
    error.__context__ = out
    return error
