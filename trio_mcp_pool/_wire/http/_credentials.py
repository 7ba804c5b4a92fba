"""The headers that a server is given on every request, renewed when it refuses them.

Each set has a number. A request that was refused with a set which is not the newest is sent again with that, and nobody
is asked. For the newest, the user's function is asked once, however many requests were refused at the same time, and
whoever of their callers is cancelled meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal, final

import trio

Resolve = Callable[[Literal["connect", "unauthorized"]], Awaitable[dict[str, str]]]


@final
class Credentials:
    """The newest headers, and their number."""

    def __init__(self, resolve: Resolve) -> None:
        self.headers: dict[str, str] = {}
        self.number = 0
        self._resolve: Final = resolve
        self._lock = trio.Lock()
        self._asked = 0
        """How many times the function was asked again."""
        self._failure: Exception | None = None

    async def load(self) -> None:
        """Ask for the first ones. Raises what the user's function raises."""
        self.headers = await self._resolve("connect")
        self.number += 1

    async def renew(self, refused: int) -> bool:
        """The server answered 401 to the set of this number: whether there is a newer one by now.

        Raises what the user's function raises, in each caller who waited for it.
        """
        if self.number != refused:
            return True
        asked = self._asked
        async with self._lock:
            if self.number != refused:
                return True
            if self._asked != asked:
                if self._failure is not None:
                    raise self._failure
                return False
            try:
                headers = await self._resolve("unauthorized")
            except Exception as exc:
                self._asked += 1
                self._failure = exc
                raise
            self._asked += 1
            self._failure = None
            if headers == self.headers:
                return False
            self.headers = headers
            self.number += 1
            return True
