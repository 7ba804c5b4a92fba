"""What the handles of the two bridges have in common: the verbs of the pool's own handles, by the same names.

A verb of `Pool`, `ScopedPool` or `Session` that is written down in a bridge's class has its types; one that is not is added
by `mirrors`, so that no verb is ever missing. The obvious way, a `__getattr__`, has no types, no documentation, and no way
to compare the two surfaces.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from .. import Session

if TYPE_CHECKING:
    import mcp_types as types

C = TypeVar("C")

Kind: TypeAlias = Literal["call", "block", "plain", "property"]

# What does not reach a server: a thread that ends during one of these has not left a tool in doubt.
_NO_REQUEST = frozenset(
    {
        "acquire",
        "acquire_nowait",
        "aclose",
        "add_server",
        "close_scope",
        "drain",
        "open_scope",
        "reconfigure",
        "release",
        "remove_server",
        "session",
        "statistics",
        "wait_lost",
        "wait_ready",
    }
)


def calls_server(verb: str) -> bool:
    """Whether this verb sends a request."""
    return verb not in _NO_REQUEST


def kind_of(member: Any) -> Kind:
    """How a public member of one of the pool's classes is used: awaited, entered, called, or read."""
    if isinstance(member, property):
        return "property"
    inner = inspect.unwrap(member)
    if inspect.iscoroutinefunction(inner):
        return "call"
    if inspect.isasyncgenfunction(inner) or "AsyncContextManager" in str(inner.__annotations__.get("return", "")):
        return "block"
    return "plain"


def mirrors(
    source: type[Any], build: Callable[[str, Kind, Any], Any], *, except_for: tuple[str, ...] = ()
) -> Callable[[type[C]], type[C]]:
    """A class decorator: adds what `source` has and the class has not, each made by `build(name, kind, member)`."""

    def complete(cls: type[C]) -> type[C]:
        for name in dir(source):
            if name.startswith("_") or name in except_for or hasattr(cls, name):
                continue
            member = inspect.getattr_static(source, name)
            if isinstance(member, property) or callable(member):
                setattr(cls, name, build(name, kind_of(member), member))
        for name, member in vars(cls).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                member.__module__, member.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"
        return cls

    return complete


def dress(verb: Any, member: Any, what_waits: str) -> None:
    """Give a verb of a bridge the signature of the pool's, and its documentation with a word on what waits for it."""
    verb.__name__ = member.__name__
    verb.__doc__ = f"{inspect.getdoc(member)}\n\n{what_waits}"
    verb.__signature__ = inspect.signature(member)


def read(target: Any, name: str) -> Any:
    """A property, read in the calling thread; a mapping is copied, for the Trio thread may change it."""
    while True:
        try:
            value = getattr(target, name)
            return dict(value) if isinstance(value, Mapping) else value
        except RuntimeError as error:
            if "changed size during iteration" not in str(error):
                raise
            # The Trio thread has changed it meanwhile: once more.


def needs_proxy(value: Any) -> bool:
    """Whether a value can be used in the Trio thread only: a stream, or an object with verbs of its own."""
    return _has_verbs(type(value))  # type: ignore[arg-type]  # a class of any kind is hashable


@cache
def _has_verbs(cls: type[Any]) -> bool:
    if hasattr(cls, "__anext__") or hasattr(cls, "__aenter__"):
        return True
    return cls.__module__.partition(".")[0] == "trio_mcp_pool" and any(
        inspect.iscoroutinefunction(inspect.unwrap(member)) for member in vars(cls).values() if callable(member)
    )


# Verbs of the pool that are about no server, or about several; the first argument of two of them is a scope's key.
_NO_SERVER = frozenset({"aclose", "close_scope", "open_scope", "reconfigure", "statistics", "wait_ready"})


def server_of(target: Any, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Which server a call concerns, for an error that names it."""
    if isinstance(target, Session):
        return target.server
    if verb in _NO_SERVER:
        return None
    name = kwargs.get("server", args[0] if args else None)
    return name if isinstance(name, str) else None


class Described:
    """What a session knows of its server, with its types."""

    _target: Session

    @property
    def server(self) -> str:
        """The server's name in the pool."""
        return self._target.server

    @property
    def protocol_version(self) -> str:
        """The negotiated version of the protocol, such as `2026-07-28`."""
        return self._target.protocol_version

    @property
    def server_info(self) -> types.Implementation | None:
        """The server's own name and version; `None` where a modern server does not say."""
        return self._target.server_info

    @property
    def server_capabilities(self) -> types.ServerCapabilities:
        """What the server can do."""
        return self._target.server_capabilities

    @property
    def instructions(self) -> str | None:
        """The server's own word on how to use it."""
        return self._target.instructions
