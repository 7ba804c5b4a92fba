"""Callbacks that know who asked: what a server may ask of the program, and on whose behalf it does.

The rule: a callback belongs to the call that caused the question, where the transport says which that is, and harms no other.
What it raises is logged; the server is told one and the same sentence on every transport, and never the exception's text. The
obvious way, to hand the SDK one function per server, cannot say which of fifty calls a question belongs to, and tells a server
what went wrong inside the program.

Who is known where: in the modern era a question comes as the answer to a call, and on HTTP it comes on the call's own
exchange, so its caller is known. On stdio in the older era a question names nobody: its `Caller` says the server, the scope
and the session, and no more. A scope per agent makes it certain there, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextvars import Context, copy_context
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, final

import mcp_types as types
import trio

if TYPE_CHECKING:
    from mcp.client.session import ClientRequestContext

T = TypeVar("T")
logger = logging.getLogger("trio_mcp_pool")

FAILED: Final = "the client's callback failed"
"""What a server is told of a callback that raised, whatever it raised, or that returned something else."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf a server asks, reports or logs."""

    server: str
    """The server's name in the pool."""
    scope: Hashable = None
    """The key of the scope whose session it came on; `None` for a session that all share."""
    session: int
    """The number of the connection that it came on, unique in its pool, as in events."""
    tool: str | None = None
    """The tool that was called; `None` where the call is not known, or is none of a tool."""
    context: Context | None = None
    """The context variables of the call; `None` where the call is not known. The callback itself already runs in them."""


_GOES_ON: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, trio.Cancelled)
_SAMPLED: Final = (types.CreateMessageResult, types.CreateMessageResultWithTools)


class ProgressFnT(Protocol):
    """What `mcp.Client` takes as `progress_callback`. The SDK's own name for it is not public."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


Elicit: TypeAlias = "Callable[[Caller, types.ElicitRequestParams], Awaitable[types.ElicitResult]]"
Sampled: TypeAlias = "types.CreateMessageResult | types.CreateMessageResultWithTools"
Sample: TypeAlias = "Callable[[Caller, types.CreateMessageRequestParams], Awaitable[Sampled]]"
Roots: TypeAlias = "Callable[[Caller], Awaitable[types.ListRootsResult]]"
Progress: TypeAlias = "Callable[[Caller, float, float | None, str | None], Awaitable[None]]"
Log: TypeAlias = "Callable[[Caller, types.LoggingMessageNotificationParams], Awaitable[None]]"


@final
@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a server may ask of the program: async functions whose first argument is the `Caller`.

    Declared as `callbacks=` of a server, of `open_pool` for all its servers, or of `open_scope` for the sessions of the
    scope, because what a client can do is announced at the handshake. For each of the four the scope's function counts
    before the server's, and that before the pool's. A `CustomServer` makes its own client and has none of them. Compared by
    identity of the functions: keep the objects, or sessions are replaced by `reconfigure`.
    """

    elicit: Elicit | None = None
    """Asked for input of a person. Returns an `mcp_types.ElicitResult`; `action="decline"` is an answer, too."""
    sample: Sample | None = None
    """Asked for a message of a model. Returns an `mcp_types.CreateMessageResult`."""
    roots: Roots | None = None
    """Asked for the folders that the server may work in. Returns an `mcp_types.ListRootsResult`."""
    log: Log | None = None
    """Told of a log message."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not callable(value):
                raise TypeError(f"Callbacks.{field.name} must be an async function or None, not {type(value).__name__}")


def check_declared(owner: str, callbacks: object) -> Callbacks | None:
    """The callbacks that were given. Raises `TypeError`, naming `owner`, where they are something else."""
    if callbacks is not None and not isinstance(callbacks, Callbacks):
        raise TypeError(f"{owner} must be Callbacks or None, not {type(callbacks).__name__}")
    return callbacks


def client_callbacks(
    callbacks: Callbacks, caller: Callable[[], Caller], elicit: Callable[[], Elicit | None] = lambda: None
) -> dict[str, Any]:
    """The keyword arguments of `mcp.Client` that hand questions to `callbacks`; only those that are declared.

    `caller` is called in the task that answers, and says whose question it is as far as that is known there; `elicit` gives
    the function that the call itself brought along, if it did.
    """
    made: dict[str, Any] = {}
    if callbacks.elicit is not None:
        declared = callbacks.elicit

        async def on_elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult | types.ErrorData:
            return await _answer("elicit", types.ElicitResult, caller(), elicit() or declared, params)

        made["elicitation_callback"] = on_elicit
    if callbacks.sample is not None:
        sample = callbacks.sample

        async def on_sample(context: ClientRequestContext, params: types.CreateMessageRequestParams) -> Any:
            return await _answer("sample", _SAMPLED, caller(), sample, params)

        made["sampling_callback"] = on_sample
    if callbacks.roots is not None:
        roots = callbacks.roots

        async def on_roots(context: ClientRequestContext) -> types.ListRootsResult | types.ErrorData:
            return await _answer("roots", types.ListRootsResult, caller(), roots)

        made["list_roots_callback"] = on_roots
    if callbacks.log is not None:
        log = callbacks.log

        async def on_log(params: types.LoggingMessageNotificationParams) -> None:
            await _answer("log", object, caller(), log, params)  # nobody looks at what it returns

        made["logging_callback"] = on_log
    return made


async def _answer(
    what: str, expected: type[T] | tuple[type[T], ...], who: Caller, callback: Callable[..., Awaitable[T]], *args: Any
) -> T | types.ErrorData:
    try:
        # Called in here: a function that is not async, or takes other arguments, raises before there is anything to await.
        answer = await callback(who, *args)
    except BaseException as exc:  # noqa: ASYNC103 (`_contain` raises cancellations and interrupts)
        _contain(exc, f"server {who.server!r}: the callback {what!r}")
    else:
        if isinstance(answer, (expected, types.ErrorData)):
            return answer
        names = " or ".join(each.__name__ for each in (expected if isinstance(expected, tuple) else (expected,)))
        logger.error(
            "server %r: the callback %r must return %s, not %s", who.server, what, names, type(answer).__name__
        )
    return types.ErrorData(code=types.INTERNAL_ERROR, message=FAILED)


def _contain(exc: BaseException, who: str) -> None:
    """Log what a callback raised, at the level of a bug in the program; its text goes there and nowhere else.

    An interrupt and a cancellation go on: those are not the callback's. Anything else, also what is no `Exception`, would
    end the session under all other calls, because callbacks run in the session's tasks.
    """
    going_on: BaseException | None = None
    own: BaseException | None = None
    if isinstance(exc, BaseExceptionGroup):
        going_on, own = exc.split(_GOES_ON)
    elif isinstance(exc, _GOES_ON):
        going_on = exc
    else:
        own = exc
    if own is not None:
        logger.error("%s raised %s", who, type(own).__name__, exc_info=own)
    if going_on is not None:
        raise going_on


# Running a callback in the context of its caller, whichever task it runs in.


@final
class _InContext(Awaitable[T]):
    """A coroutine whose every step runs in one context, as a generator's step would."""

    def __init__(self, context: Context, coroutine: Awaitable[T]) -> None:
        self._context = context
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        steps: Any = self._coroutine.__await__()
        step: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            try:
                wanted = self._context.run(step)
            except StopIteration as done:
                result: T = done.value
                return result
            try:
                given = yield wanted
            except BaseException as exc:  # noqa: ASYNC103 (thrown into the coroutine)
                thrown = exc
                step = lambda thrown=thrown: steps.throw(thrown)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda given=given: steps.send(given)  # type: ignore[misc]  # noqa: E731


def progress_in_context(
    on_progress: Callable[[float, float | None, str | None], Awaitable[None]], server: str
) -> ProgressFnT:
    """`on_progress`, to be run by any task in the context variables of the one that asks now; what it raises is logged."""
    context = copy_context()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        try:
            await _InContext(context, on_progress(progress, total, message))
        except BaseException as exc:  # noqa: ASYNC103 (as above)
            _contain(exc, f"server {server!r}: on_progress")

    return report
