"""Callbacks of one call that run on the caller's side: in the thread that waits, or in its event loop.

The Trio task that delivers one notification waits until the callback has returned, so that a slow callback slows down the
server rather than filling a queue. And the call waits for the callbacks of all notifications that came before its result.
Without that, those of one turn of the event loop race with the result, and the last are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, final

import outcome
import trio

CALLBACKS = ("progress_callback", "on_progress", "on_elicit")
"""The arguments of a verb that are such callbacks."""


@final
class Relay:
    """The callback that the Trio thread is given. `send(function, done)` has `function` called and `done` told its result."""

    def __init__(
        self,
        callback: Callable[..., Any],
        send: Callable[[Callable[[], Any], Callable[[outcome.Outcome[Any]], None]], None],
        soon: Callable[..., None],
    ) -> None:
        self._callback = callback
        self._send = send
        self._soon = soon
        self._under_way: set[trio.Event] = set()
        self._told = trio.Event()

    async def __call__(self, *args: Any) -> Any:
        """One notification, in the Trio thread."""
        event = trio.Event()
        self._under_way.add(event)
        result: outcome.Outcome[Any] = outcome.Value(None)

        def done(ended: outcome.Outcome[Any]) -> None:
            nonlocal result
            result = ended
            with suppress(trio.RunFinishedError):
                self._soon(event.set)

        try:
            self._send(lambda: self._callback(*args), done)
            await event.wait()
        finally:
            self._under_way.discard(event)
            self._told.set()
        return result.unwrap()

    async def around(self, call: Callable[[], Any]) -> Any:
        """The call whose progress it is, in the Trio thread."""
        try:
            value = await call()
            await trio.lowlevel.checkpoint()  # what was read together with the result may not have begun yet
            while self._under_way:
                self._told = trio.Event()
                await self._told.wait()
            return value
        finally:
            # After an error nobody waits for callbacks on the other side.
            for event in self._under_way:
                event.set()


def relay_callbacks(kwargs: dict[str, Any], relay: Callable[[Callable[..., Any]], Relay | None]) -> list[Relay]:
    """Put a relay in the place of each callback among the arguments of a verb, unless `relay` gives none. Returns them."""
    relays = []
    for name in CALLBACKS:
        callback = kwargs.get(name)
        if callable(callback) and (made := relay(callback)) is not None:
            kwargs[name] = made
            relays.append(made)
    return relays


def around_all(relays: Iterable[Relay], call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, which then waits for the callbacks of all of them."""
    for relay in relays:
        call = partial(relay.around, call)
    return call
