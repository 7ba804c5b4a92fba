"""Listening to modern servers, which say what changes to those who listen and to nobody else.

The rule: one session of each server is listened to, by its owner and without a lease, so that listening neither counts as use
nor keeps a session alive. A listing waits until the server has agreed: what changes after that is told, and what changed before
is in the list. The obvious way, to list first and to listen then, misses what changes in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

import trio
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ToolsListChanged
from mcp_types import PromptListChangedNotification, ResourceListChangedNotification, ToolListChangedNotification

from ._notifications import ServerNotice
from ._source import KINDS, Kind, SessionFacts, Source

logger = logging.getLogger("trio_mcp_pool")

AGREE_TIMEOUT: Final = 5.0
"""Seconds that a listing waits for the server to agree to tell."""
_AGAIN: Final = (1.0, 60.0)
"""Seconds after which a stream that a server has ended is asked for again: at first, and at most."""
_CHANGES: Final[tuple[tuple[Any, Any, tuple[Kind, ...]], ...]] = (
    (ToolListChangedNotification, ToolsListChanged, ("tools",)),
    (ResourceListChangedNotification, ResourcesListChanged, ("resources", "resource_templates")),
    (PromptListChangedNotification, PromptsListChanged, ("prompts",)),
)
"""The notification of the older era, the event that stands for it in a listening stream, and what has changed then."""


def changed_kinds(notice: object) -> tuple[Kind, ...]:
    """What a notification, or an event of `listen`, says has changed; nothing, where it is about something else."""
    return next((kinds for told, event, kinds in _CHANGES if isinstance(notice, (told, event))), ())


@final
class Listeners:
    """Who is listened to, for one catalogue."""

    def __init__(
        self,
        source: Source,
        on_change: Callable[[str, tuple[Kind, ...]], None],
        on_notice: Callable[[ServerNotice], None],
    ) -> None:
        self._source = source
        self._on_change = on_change
        self._on_notice = on_notice
        self._agreed: dict[str, trio.Event] = {}

    async def agreed(self, server: str) -> None:
        """Wait until what changes from now on is told: at most 5 s for a modern server to agree, 1 s for a standing stream."""
        event = self._agreed.get(server)
        if event is not None:
            with trio.move_on_after(AGREE_TIMEOUT):
                await event.wait()
        await self._source.hears(server)

    def opened(self, facts: SessionFacts) -> None:
        """A session is ready: listen to it, unless another of its server is listened to. Synchronous."""
        offered = facts.capabilities
        filters = {
            "tools_list_changed": bool(offered.tools and offered.tools.list_changed),
            "prompts_list_changed": bool(offered.prompts and offered.prompts.list_changed),
            "resources_list_changed": bool(offered.resources and offered.resources.list_changed),
        }
        if not facts.modern or facts.server in self._agreed or not any(filters.values()):
            return
        self._agreed[facts.server] = trio.Event()
        if not self._source.spawn(partial(self._listen, facts, filters), f"listening to {facts.server!r}"):
            del self._agreed[facts.server]

    async def _listen(self, facts: SessionFacts, filters: dict[str, bool]) -> None:
        server, agreed = facts.server, self._agreed[facts.server]
        wait, longest = _AGAIN
        again = False
        try:
            while self._lives(facts):
                try:
                    async with self._source.listen(facts, **filters) as events:
                        agreed.set()
                        if again:
                            self._on_change(server, KINDS)  # nobody told what changed in between
                        async for event in events:
                            for told, kind, _ in _CHANGES:
                                if isinstance(event, kind):
                                    self._on_notice(ServerNotice(server, facts.scope, facts.number, told()))
                            self._on_change(server, changed_kinds(event))
                            wait = _AGAIN[0]
                except Exception as why:
                    logger.debug("listening to server %r ended: %s", server, type(why).__name__)
                agreed.set()
                again = True
                if self._lives(facts):
                    await trio.sleep(wait)
                    wait = min(2 * wait, longest)
        finally:
            agreed.set()
            del self._agreed[server]
        # Another session may have opened while this one was listened to.
        for other in self._source.sessions(server):
            if other.modern and other.number != facts.number and server not in self._agreed:
                self._on_change(server, KINDS)
                self.opened(other)

    def _lives(self, facts: SessionFacts) -> bool:
        return any(each.number == facts.number for each in self._source.sessions(facts.server))
