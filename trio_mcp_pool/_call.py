"""One call: how it is cut, and what its end means (R15, R18).

The closing of its connection cuts a call (`Call.cut`): what is awaited for it runs in a cancel scope, but for the one parked
request that is all of a plain tool call, which the wire wakes instead, for a scope costs as much as the rest. Where the SDK
could only say 'connection closed', the caller learns what it needs to know: `SessionLostError` when its request was never
written, `OutcomeUnknownError` when it was, `InvalidResultError` when an answer came that is against the protocol. What the
server answers, errors included, passes through, and so does what the user's own callbacks raise.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, cast

import anyio
import mcp
import trio
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from trio.lowlevel import disable_ki_protection

from ._connection._record import Connection
from ._errors import InvalidArgumentsError, InvalidResultError, PoolError, SessionLostError
from ._events import CallerObserver
from ._groups import interrupt_in, sole_error, text_of
from ._lanes._lane import Lane
from ._lanes._lease import Lease
from ._servers._callers import OwnCallbacks
from ._wire._link import Call, current_call
from ._wire._probe import probe

Verb: TypeAlias = str | Callable[[mcp.Client], Awaitable[Any]]
"""The name of a method of `mcp.Client`, or a function of the client."""

# Verbs that the SDK never answers from its cache, so that each of them has an await that yields.
_NEVER_CACHED: Final = frozenset({"call_tool", "get_prompt", "complete"})

_NEVER: Final = math.inf
# What a torn-down stream raises where the SDK did not turn it into an error of its own.
_CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError, trio.ClosedResourceError, trio.BrokenResourceError)


def check_arguments(server: str, tool: str, arguments: object) -> None:
    """Raise `InvalidArgumentsError` unless a tool can be called with these."""
    if arguments is not None and type(arguments) is not dict and not isinstance(arguments, Mapping):
        raise InvalidArgumentsError(
            f"the arguments of tool {tool!r} of server {server!r} must be a mapping such as {{'text': 'hello'}}, "
            f"not {type(arguments).__name__}",
            server=server,
        )


def lost_error(lease: Lease, written: bool) -> PoolError:
    """The error for a call whose session is gone."""
    # Also where the lease has ended under a running call: whether the tool may have run is what matters then.
    connection = lease.connection
    error = connection.lost_error(written)
    if isinstance(error, SessionLostError):
        _told(lease)
    return error


def _told(lease: Lease) -> None:
    """This caller gets the error that a scope's session is gone, so the next one need not get it again."""
    if isinstance(lease.holder, Lane):
        lease.holder.clear_notice(lease.connection)


async def call_tool_once(client: mcp.Client, *args: Any, **kwargs: Any) -> Any:
    """`call_tool`, but the server's question for input is its result."""
    return await client.session.call_tool(*args, **kwargs, allow_input_required=True)


def run(lease: Lease, verb: Verb, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
    """One verb of the lease's client, with these arguments, cut when the connection closes. Checkpoints."""
    observer = lease.connection.caller_observer
    if observer is None:
        return _run(lease, None, verb, args, kwargs)
    return _observed(observer, lease, verb, args, kwargs)


@disable_ki_protection
async def _observed(
    observer: CallerObserver, lease: Lease, verb: Verb, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The same, and tell the observer how a request that was sent has ended. Answers from the SDK's cache are not told of."""
    calls: list[Call] = []
    result: object = None
    error: BaseException | None = None
    since = trio.current_time()
    try:
        result = await _run(lease, calls, verb, args, kwargs)
    except BaseException as exc:
        error = exc
        raise
    finally:
        if calls and calls[0].written:
            connection = lease.connection
            name = verb if isinstance(verb, str) else verb.__name__
            subject = args[0] if args else None
            took = trio.current_time() - since
            observer.called(connection.name, connection.opened, name, subject, took, result, error)
        del error  # the traceback holds this frame, and the frame must not hold the error
    return result


# The pool's verbs hold control-C back until their lease is released; what a verb runs may be the user's own code, which it must
# reach.
@disable_ki_protection
async def _run(
    lease: Lease, calls: list[Call] | None, verb: Verb, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """`calls`, if it is a list, receives the call."""
    if verb not in _NEVER_CACHED:
        await trio.lowlevel.checkpoint()
    connection = lease.connection
    if not connection.live:
        raise lost_error(lease, False)
    link = connection.link
    task = trio.lowlevel.current_task()
    if task is not lease.task:
        lease.shared = True
    call = Call(None, link, lease=lease, task=task, parent=current_call.get())
    begin = None
    if not link.tells_written:
        # Such a client may run the whole request in this very task, with no await that yields.
        await trio.lowlevel.checkpoint()
        call.written = True
    if verb == "call_tool":
        call.tool = args[0]
        begin = link.begin_tool_call
    elif verb is call_tool_once:
        call.tool = args[0]
    if "own" in kwargs:
        kwargs = {**kwargs}
        own: OwnCallbacks = kwargs.pop("own")
        args = (*args[:3], own.install(call, link, args[3]))
    if calls is not None:
        calls.append(call)
    token = current_call.set(call)
    connection.calls.add(call)
    try:
        if begin is None:
            result = await _in_scope(lease, call, partial(_method(connection, verb), *args, **kwargs))
        else:
            result = await begin(*args, **kwargs)
            if isinstance(result, partial):
                result = await _in_scope(lease, call, result)
    except trio.Cancelled:
        if call.failure is None and connection.live:
            _lane(lease).suspect(connection, call)
        raise
    except Exception as exc:
        error = await _translated(lease, call, exc)  # noqa: ASYNC120 (a cancelled caller does not want it)
        try:
            if error is exc:
                raise
            raise error from _cause(exc, error)
        finally:
            del error  # the traceback holds this frame, and the frame must not hold the error
    except BaseExceptionGroup as group:
        if call.failure is not None:
            raise _failure(lease, call.failure) from group
        leaf = interrupt_in(group) or sole_error(group)
        try:
            raise leaf from leaf.__cause__
        finally:
            del leaf
    finally:
        connection.calls.discard(call)
        current_call.reset(token)
    if not connection.has_answered or connection.suspect_since < _NEVER:
        _lane(lease).answered(connection)
    return result


async def _in_scope(lease: Lease, call: Call, function: Callable[[], Awaitable[Any]]) -> Any:
    """Await it in a scope that is cancelled when the connection closes."""
    with trio.CancelScope() as scope:
        call.scope = scope
        if call.is_cut:
            scope.cancel(reason="the connection has closed")
        return await function()
    # Only the connection and its wire cancel it.
    raise _failure(lease, call.failure) if call.failure is not None else lost_error(lease, call.written)


def _method(connection: Connection, verb: Verb) -> Callable[..., Awaitable[Any]]:
    client = connection.client
    assert client is not None, "a live connection has a client"
    if not isinstance(verb, str):
        return partial(verb, client)
    if verb == "call_tool" and connection.link.call_tool is not None:
        return connection.link.call_tool
    return cast("Callable[..., Awaitable[Any]]", getattr(client, verb))


def _lane(lease: Lease) -> Any:
    return lease.holder


def _cause(exc: Exception, error: Exception) -> BaseException | None:
    """What an error was raised from: its own cause where it has one, which says more than what the SDK made of it."""
    if isinstance(error, InvalidArgumentsError) and isinstance(exc, ValidationError):
        return None  # it quotes the arguments (R16)
    return error.__cause__ if error.__cause__ is not None else exc


def _failure(lease: Lease, error: PoolError) -> PoolError:
    """The error that the wire has found for the call. It knows what was written, in earlier rounds of the call, too."""
    if isinstance(error, SessionLostError):
        _told(lease)
    return error


async def _translated(lease: Lease, call: Call, exc: Exception) -> Exception:
    """The error for the caller where the SDK raised `exc`."""
    connection = lease.connection
    if isinstance(exc, ExceptionGroup):
        # The SDK's task groups wrap what a single callback raised.
        exc = cast("Exception", sole_error(exc))
    if exc is call.user_error:
        return exc
    if call.failure is not None or isinstance(exc, PoolError):
        return _failure(lease, call.failure or cast("PoolError", exc))
    if isinstance(exc, MCPError):
        return await _mcp_error(lease, call, exc)
    if not connection.live and isinstance(exc, _CLOSED):
        return lost_error(lease, call.written)
    if _is_about_request(exc, call):
        return InvalidArgumentsError(
            f"the request to server {connection.name!r} could not be made of these arguments, which must be JSON values: "
            f"{_in_short(exc)}",
            server=connection.name,
        )
    if (isinstance(exc, ValidationError | RuntimeError) or _is_endless(exc)) and call.written and _raised_by_sdk(exc):
        return InvalidResultError(
            f"server {connection.name!r} gave an answer that is against the protocol or the tool's own schema: "
            f"{_in_short(exc)}",
            server=connection.name,
            result=call.answer,
        )
    if isinstance(exc, (OSError, *_CLOSED)) and not link_tells(lease):
        return await _verdict(lease, call, exc)
    return exc


def link_tells(lease: Lease) -> bool:
    """Whether the wire of this lease reports its own death and what was written."""
    return lease.connection.link.tells_written


async def _mcp_error(lease: Lease, call: Call, exc: MCPError) -> Exception:
    connection = lease.connection
    if exc.code == CONNECTION_CLOSED:
        # The code alone proves nothing: it also stands for one lost response on a live session.
        if not link_tells(lease):
            return await _verdict(lease, call, exc)
        if connection.link.is_lost or not connection.live:
            return lost_error(lease, call.written)
    elif exc.code == REQUEST_TIMEOUT:
        _lane(lease).suspect(connection, call)
    elif not connection.has_answered:
        _lane(lease).answered(connection)
    return exc


async def _verdict(lease: Lease, call: Call, exc: Exception) -> Exception:
    """A client whose wire reports nothing raised what may mean that the session is dead: probe the server."""
    connection = lease.connection
    if connection.live and not connection.link.is_lost:
        client = connection.client
        if client is not None and not await probe(client, connection.link, connection.policy.probe_timeout):
            connection.link.lost(exc)
    if connection.link.is_lost or not connection.live:
        return lost_error(lease, call.written)
    return exc


_ENDLESS: Final = ("Circular reference detected", "Maximum serialization depth exceeded")
"""What pydantic says of a value that is in itself, or nested too deeply, in an error of no class of its own."""


def _is_about_request(exc: Exception, call: Call) -> bool:
    """Whether the SDK could not even make the request."""
    if isinstance(exc, PydanticSerializationError | UnicodeEncodeError):
        return not call.answers
    if _is_endless(exc):
        return not call.answers and _origin(exc).startswith("mcp.")
    # On a wire that does not report what was written, the name of the model decides.
    return isinstance(exc, ValidationError) and (not call.written or exc.title.endswith(("Params", "Request")))


def _is_endless(exc: Exception) -> bool:
    return type(exc) is ValueError and text_of(exc).startswith(_ENDLESS)


def _raised_by_sdk(exc: Exception) -> bool:
    """Whether it comes out of the SDK's own code, and not out of a callback of the user that the SDK has called."""
    # The first makes requests and reads answers, the second checks answers only.
    return _origin(exc).startswith(("mcp.", "mcp_types.methods", "trio_mcp_pool._wire"))


def _origin(exc: Exception) -> str:
    """The module that raised it; of what pydantic raised, the one that called it."""
    innermost = ""
    traceback = exc.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if not module.startswith("pydantic"):
            innermost = module
        traceback = traceback.tb_next
    return innermost


def _in_short(exc: Exception) -> str:
    """The first line of what an exception says, without the values that pydantic quotes."""
    if isinstance(exc, PydanticSerializationError | UnicodeEncodeError):
        return type(exc).__name__
    if isinstance(exc, ValidationError):
        faults = exc.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:3])
    return text_of(exc).partition("\n")[0][:200]
