"""What the catalogue needs of a pool, and of a scope: the one place where the two meet.

The rule: the catalogue never holds a connection, a lane or a lease, and never starts a nursery of its own that would outlive
a call. It lists and calls through `Source`, runs what must outlive a caller through `Source.spawn`, and is told through
`Watcher` what it cannot ask for. The obvious way, a catalogue that subclasses or imports `Pool`, could not serve a
`ScopedPool`, nor be tested without either.

Everything that a `Source` tells a `Watcher` is synchronous, comes after the step that caused it and in order, and in no step
of a lane. A watcher is quick, does not block, and does not raise.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, final

from .._errors import UnknownServerError

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.subscriptions import ServerEvent

    from .._callbacks import Elicit, Progress
    from .._servers import Server
    from .._session import Session

Kind: TypeAlias = Literal["tools", "resources", "resource_templates", "prompts"]
"""What a server can be asked to list."""

KINDS: tuple[Kind, ...] = ("tools", "resources", "resource_templates", "prompts")

ListResult: TypeAlias = (
    "types.ListToolsResult | types.ListResourcesResult | types.ListResourceTemplatesResult | types.ListPromptsResult"
)
"""One page."""


@final
@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """One live session, as far as the catalogue must know it."""

    server: str
    scope: Hashable
    """The key of the scope that it belongs to; `None` for one that all share."""
    number: int
    """The connection's number, unique in its pool."""
    modern: bool
    """Whether changes come through `subscriptions/listen` only (2026-07-28 and later)."""
    capabilities: types.ServerCapabilities
    tools: tuple[types.Tool, ...] | None = None
    """What the owner listed while it dialled, all pages, or `None`. With it the catalogue lists no second time."""
    fresh_for: float = 0.0
    """Seconds for which the server says that this list holds (`ttlMs`, modern era only); 0 where it does not say."""


class Watcher(Protocol):
    """What a source tells. All synchronous; none may raise."""

    def session_opened(self, facts: SessionFacts, /) -> None:
        """A session is ready. Told before any caller who waited for it goes on."""

    def session_closed(self, server: str, scope: Hashable, number: int, /) -> None:
        """A session is dead, or is being closed: nothing more comes from it, and what it listened to has ended."""

    def message(self, server: str, scope: Hashable, number: int, notification: Any, /) -> None:
        """A notification came unasked (`mcp_types.ServerNotification`), progress without a taker included.

        Told in the order in which they came, also while the session is being set up, and before the notification reaches a
        `message_handler` of the user's.
        """

    def servers_changed(self, server: str, /) -> None:
        """A server of that name was added, removed, or replaced by one that differs in more than its policy."""

    def pool_closed(self) -> None:
        """Nothing comes any more, and `spawn` starts nothing. The last that is told."""


class Source(Protocol):
    """A pool, or one scope of it, as the catalogue sees it."""

    @property
    def scope(self) -> Hashable:
        """The scope's key; `None` for the pool."""

    @property
    def servers(self) -> Mapping[str, Server]:
        """The servers that can be named here, in the order of configuration, a scope's own after the pool's."""

    @property
    def closed_error(self) -> Exception | None:
        """What to raise once the pool, or the scope, has begun to close: a new one each time. `None` before that."""

    def shares(self, server: str, /) -> bool:
        """Whether the name means the pool's server here. Always true of the pool; false where the scope overrides it."""

    def sessions(self, server: str, /) -> tuple[SessionFacts, ...]:
        """The sessions of this scope that are ready now, the oldest first. Synchronous."""

    async def connect(self, server: str, /) -> None:
        """Return when the server has a ready session here, dialling if it must, as `wait_ready`; raises what that raises."""

    async def hears(self, server: str, /) -> None:
        """Wait until what the sessions that are ready now say unasked can arrive, at most a second. Checkpoints.

        Over HTTP, in the older era, that is when their standing streams are open.
        """

    async def list_page(self, server: str, kind: Kind, cursor: str | None, /) -> ListResult:
        """One page, through the pool's verb (any session of this scope) and past the SDK's response cache."""

    def call_tool(
        self,
        server: str,
        name: str,
        arguments: dict[str, Any],
        *,
        on_elicit: Elicit | None = None,
        on_progress: Progress | None = None,
        read_timeout_seconds: float | None = None,
    ) -> Awaitable[types.CallToolResult]:
        """The pool's verb `call_tool`, in this scope."""

    def session(self, server: str, /) -> AbstractAsyncContextManager[Session]:
        """A lease, as `Pool.session`. For a subscription, which pins its session."""

    def listen(
        self,
        facts: SessionFacts,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[ServerEvent]]:
        """A modern session's changes, by that very session and without a lease: it neither counts as use nor keeps it alive.

        Entering returns when the server has agreed. The iterator ends, or raises `SubscriptionLost`, when the stream does.
        """

    def watch(self, watcher: Watcher, /) -> Callable[[], None]:
        """Tell `watcher` of everything in this scope from now on. Returns what ends it, idempotent.

        The watcher of the pool is told of all scopes, as each message names its own. Where closing has begun already it is
        told of that at once, and of nothing else.
        """

    def spawn(self, task: Callable[[], Awaitable[None]], name: str, /) -> bool:
        """Run a task in the pool's nursery, in its context. Cancelled when the pool, or the scope, begins to close.

        Synchronous. Returns whether it was started: not where closing has begun already.
        """


def check_servers(source: Source, names: Iterable[str]) -> None:
    """Raise `UnknownServerError`, with the nearest name, for one that is not configured."""
    known = list(source.servers)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownServerError(
                f"the pool has no server {name!r}{hint}",
                server=name if isinstance(name, str) else None,
                suggestion=near[0] if near else None,
            )
