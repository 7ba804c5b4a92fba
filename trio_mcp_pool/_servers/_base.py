"""What all kinds of servers have in common.

A server is a frozen value: it says how to reach an MCP server and holds no connection. Two equal servers are
interchangeable; when the pool is given a changed one under the same name, its sessions become a new generation and the
old ones are drained, unless the policy alone has changed. Callbacks, `auth` and in-process servers compare by identity, so
reuse the objects to avoid that.

Dialling is one private method, `_connect(link)`: an async context manager, entered and left by the owner task, that gives
a live `mcp.Client`. What it learns on the way it reports through the link (see `_wire/_link.py`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import mcp
import trio
from mcp.client.caching import CacheConfig

from .._callbacks import Callbacks, Caller, check_declared, client_callbacks
from .._policy import PoolPolicy
from .._wire._link import Link
from ._callers import callback_options
from ._handlers import as_handlers

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.client import ConnectMode
    from mcp.client.extension import ClientExtension
    from mcp.client.session import (
        ElicitationFnT,
        ListRootsFnT,
        LoggingFnT,
        MessageHandlerFnT,
        SamplingFnT,
    )

logger = logging.getLogger("trio_mcp_pool")

_SHOWN: Final = 300
"""How many characters of an error in the stream a log line shows."""

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""The default of `max_message`, in bytes."""
MAX_VALUES: Final = 1_000_000
"""The default of `max_values`."""

Configure: TypeAlias = Callable[[Any], Awaitable[object]]
"""An async function of the new `Session`, run before the session is first lent."""


class Server(ABC):
    """How to reach an MCP server: the common type of everything that a pool can be given."""

    policy: PoolPolicy | None = None
    trusted: bool = False
    configure: Configure | None = None

    @abstractmethod
    def _connect(self, link: Link) -> AbstractAsyncContextManager[mcp.Client]:
        """Dial. Entered and left by the owner task; gives a client whose handshake is done."""

    def _same_but_policy(self, other: Server) -> bool:
        """Whether the two differ in nothing but their `policy`, so that the sessions of one can serve as those of the other."""
        if type(self) is not type(other) or not is_dataclass(self):
            return self == other
        names = [f.name for f in fields(self) if f.name != "policy"]
        # As tuples, which take an object for equal to itself whatever its own `==` says: so do dataclasses.
        return tuple(getattr(self, name) for name in names) == tuple(getattr(other, name) for name in names)

    def _check(self) -> None:
        """Check the fields that all servers have. Raises `TypeError`, naming the field."""
        owner = type(self).__name__
        if self.policy is not None and not isinstance(self.policy, PoolPolicy):
            raise TypeError(f"{owner}.policy must be a PoolPolicy or None, not {type(self.policy).__name__}")
        if not isinstance(self.trusted, bool):
            raise TypeError(f"{owner}.trusted must be a bool, not {type(self.trusted).__name__}")
        if self.configure is not None and not callable(self.configure):
            raise TypeError(
                f"{owner}.configure must be an async function of a Session or None, not {type(self.configure).__name__}"
            )
        if isinstance(self, ClientOptions):
            check_callbacks(owner, vars(self))


def check_limit(owner: str, name: str, value: object, what: str) -> None:
    """Raise unless `value` is a whole number of at least 1; `what` says of what."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}.{name} must be a number of {what}, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{owner}.{name} must be at least 1, not {value}")


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """What `mcp.Client` takes beside its server, by the same names; handed on as it is. See the SDK's documentation."""

    raise_exceptions: bool = False
    read_timeout_seconds: float | None = None
    sampling_callback: SamplingFnT | None = None
    sampling_capabilities: types.SamplingCapability | None = None
    list_roots_callback: ListRootsFnT | None = None
    logging_callback: LoggingFnT | None = None
    log_level: types.LoggingLevel | None = None
    message_handler: MessageHandlerFnT | None = None
    client_info: types.Implementation | None = None
    mode: ConnectMode = "auto"
    prior_discover: types.DiscoverResult | None = None
    elicitation_callback: ElicitationFnT | None = None
    input_required_max_rounds: int | None = None
    extensions: Sequence[ClientExtension] | None = None
    cache: CacheConfig | None = field(default_factory=CacheConfig)
    callbacks: Callbacks | None = None
    """Functions that are told who asks, instead of the client's own `elicitation_callback` and the like. Default `None`."""

    def _client_options(self, link: Link) -> dict[str, Any]:
        """The keyword arguments for the `mcp.Client` of one connection."""
        options = {f.name: getattr(self, f.name) for f in fields(ClientOptions)}
        options = callback_options(link, options, options.pop("callbacks"))
        options["message_handler"] = watch_messages(link, self.message_handler)
        if options["input_required_max_rounds"] is None:
            del options["input_required_max_rounds"]  # the SDK's own default
        return as_handlers(link, options)


def check_callbacks(owner: str, options: Mapping[str, Any]) -> None:
    """Raise unless the `callbacks` among a client's options are some, and none is given in both ways."""
    callbacks = check_declared(f"{owner}.callbacks", options.get("callbacks"))
    if callbacks is None:
        return
    for name in client_callbacks(callbacks, _nobody):
        if options.get(name) is not None:
            raise ValueError(f"{owner} has both a {name} and one in callbacks; give only one of them")


def _nobody() -> Caller:
    raise AssertionError("only asked for names")  # pragma: no cover


def watch_messages(link: Link, handler: MessageHandlerFnT | None) -> MessageHandlerFnT:
    """A `message_handler` that passes a message to the link and then to the user's handler, where there is one.

    It is installed always, because a client cannot be given a handler later. Without a handler of the user's, what a server
    sends that is no message is a warning in the log.
    """

    async def handle(message: Any) -> None:
        if link.on_message is not None:
            link.on_message(message)
        if handler is not None:
            await handler(message)
            return
        if isinstance(message, Exception):
            logger.warning("server %r: %s", link.server, link.mask(str(message))[:_SHOWN])
        await trio.lowlevel.checkpoint()  # as the SDK's own: a flood of messages must let other tasks run

    return handle
