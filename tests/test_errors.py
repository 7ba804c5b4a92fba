"""The errors: what they carry, what they are, and that they survive a pickle and a copy."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from typing import Any

import anyio
import pytest
import trio

import trio_mcp_pool as tmp
from trio_mcp_pool import PoolError, PoolStatistics

ERRORS: dict[type[PoolError], tuple[dict[str, Any], tuple[type[BaseException], ...]]] = {
    tmp.PoolClosedError: ({}, (trio.ClosedResourceError, anyio.ClosedResourceError)),
    tmp.UnknownServerError: ({"suggestion": "files"}, (KeyError,)),
    tmp.ConnectError: (
        {"phase": "spawn", "exit_status": 3, "stderr_tail": "no such file", "attempt": 2, "retry_after": 1.5},
        (),
    ),
    tmp.AuthenticationError: ({"status": 401, "phase": "handshake", "attempt": 1}, (tmp.ConnectError,)),
    tmp.ServerUnavailableError: ({"phase": "connect", "retry_after": 2.5, "attempt": 7}, (tmp.ConnectError,)),
    tmp.TooManyWaitersError: ({"statistics": PoolStatistics(size=3)}, ()),
    tmp.AcquireTimeoutError: ({}, (TimeoutError,)),
    tmp.SessionLostError: ({}, (trio.BrokenResourceError, anyio.BrokenResourceError)),
    tmp.OutcomeUnknownError: ({}, (trio.BrokenResourceError, anyio.BrokenResourceError)),
    tmp.HttpStatusError: ({"status": 503, "retry_after": 30.0}, ()),
    tmp.MessageTooLargeError: ({"limit": 1024}, ()),
    tmp.LeaseEndedError: ({}, (trio.ClosedResourceError, anyio.ClosedResourceError)),
    tmp.InvalidArgumentsError: ({}, (ValueError,)),
    tmp.InvalidResultError: ({"result": {"content": [{"type": "text", "text": 5}]}}, ()),
    tmp.UnknownToolError: ({"tool": "fiels", "suggestion": "files"}, (KeyError,)),
    tmp.ToolDeniedError: ({"tool": "delete", "reason": "not on the list"}, (PermissionError,)),
}

NOT_RUN = {
    tmp.PoolClosedError,
    tmp.UnknownServerError,
    tmp.ConnectError,
    tmp.AuthenticationError,
    tmp.ServerUnavailableError,
    tmp.TooManyWaitersError,
    tmp.AcquireTimeoutError,
    tmp.SessionLostError,
    tmp.LeaseEndedError,
    tmp.InvalidArgumentsError,
    tmp.UnknownToolError,
    tmp.ToolDeniedError,
}
UNKNOWN = {tmp.OutcomeUnknownError, tmp.HttpStatusError, tmp.MessageTooLargeError}
ANSWERED = {tmp.InvalidResultError}


def all_errors() -> set[type[PoolError]]:
    public = {value for value in vars(tmp).values() if isinstance(value, type) and issubclass(value, PoolError)}
    return public - {PoolError}


def test_the_table_is_complete() -> None:
    assert set(ERRORS) == all_errors()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_says_its_message_and_carries_its_fields_through_pickle_and_copy(kind: type[PoolError]) -> None:
    fields, bases = ERRORS[kind]
    fields = {"server": "files", "outcome": "answered", "exit_status": -9, "stderr_tail": "killed", **fields}
    error = kind("what happened", **fields)
    for again in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert again.args == ("what happened",)
        assert fields.items() <= vars(again).items()
        for base in (PoolError, *bases):
            assert isinstance(again, base)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_default(kind: type[PoolError]) -> None:
    error = kind()
    assert str(error) == ""
    assert (error.server, error.exit_status, error.stderr_tail) == (None, None, "")
    assert str(kind("only a message")) == "only a message"
    with pytest.raises(TypeError):
        kind("a message", "files")


def test_what_may_have_run_is_not_caught_as_what_did_not() -> None:
    assert not issubclass(tmp.OutcomeUnknownError, tmp.SessionLostError)
    assert not issubclass(tmp.SessionLostError, tmp.OutcomeUnknownError)
    assert not issubclass(tmp.ConnectError, (trio.BrokenResourceError, trio.ClosedResourceError))


def test_an_unknown_server_does_not_quote_its_message_like_a_key() -> None:
    assert str(tmp.UnknownServerError("no server 'x'")) == "no server 'x'"


def test_R18_an_error_says_by_default_only_what_is_true_of_all_errors_of_its_class() -> None:
    said = {kind: kind().outcome for kind in ERRORS}
    assert {kind for kind in said if said[kind] == "not run"} == NOT_RUN
    assert {kind for kind in said if said[kind] == "unknown"} == UNKNOWN
    assert {kind for kind in said if said[kind] == "answered"} == ANSWERED
    assert PoolError().outcome == "unknown"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 413, 415, 429])
def test_R18_a_status_that_refuses_the_request_says_that_it_did_not_run(status: int) -> None:
    assert tmp.HttpStatusError(status=status).outcome == "not run"
    # In a later round of the same call an earlier one has run.
    assert tmp.HttpStatusError(status=status, outcome="unknown").outcome == "unknown"


@pytest.mark.parametrize("status", [0, 200, 202, 302, 402, 408, 409, 410, 500, 502, 503, 504])
def test_R18_any_other_status_settles_nothing(status: int) -> None:
    assert tmp.HttpStatusError(status=status).outcome == "unknown"
    assert tmp.HttpStatusError(status=status, outcome="not run").outcome == "not run"


def test_an_error_that_is_an_OSError_has_no_errno() -> None:
    for error in (tmp.ToolDeniedError("why", tool="delete"), tmp.AcquireTimeoutError("why")):
        again: Any = pickle.loads(pickle.dumps(error))
        for one in (error, again):
            assert (one.errno, one.strerror, one.filename) == (None, None, None)
            assert (str(one), repr(one)) == ("why", f"{type(error).__name__}('why')")


class Unloadable:
    """Pickles, and cannot be read back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)

    def __repr__(self) -> str:
        return "<unloadable>"


class Unspeakable:
    """Neither pickles nor has a repr."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("result", "left"),
    [(lambda: 0, "<function <lambda>"), (Unloadable(), "<unloadable>"), (Unspeakable(), "<Unspeakable>")],
)
def test_a_field_that_cannot_be_pickled_is_dropped_to_its_repr_and_its_error_still_pickles(
    result: Any, left: str
) -> None:
    error = tmp.InvalidResultError("why", server="s", result=result)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.server, again.outcome) == ("why", "s", "answered")
    assert again.result.startswith(left)
    assert copy.copy(error).result is result


def test_a_deep_copy_shares_what_cannot_be_copied_and_copies_the_rest() -> None:
    held = Unspeakable()
    assert copy.deepcopy(tmp.InvalidResultError(result=held)).result is held
    inner = {"a": [1]}
    again = copy.deepcopy(tmp.InvalidResultError(result=inner))
    assert again.result == inner
    assert again.result["a"] is not inner["a"]


def test_the_same_error_for_another_caller_keeps_its_cause_and_shares_nothing_that_changes() -> None:
    error = tmp.ConnectError("why", server="s", phase="spawn")
    error.__cause__ = cause = FileNotFoundError("no-such-command")
    error.add_note("one")
    again = error._fresh()
    again.add_note("two")
    assert again is not error
    assert again.__cause__ is cause
    assert again.phase == "spawn"
    assert error.__notes__ == ["one"]
    assert again.__notes__ == ["one", "two"]
    assert not tmp.SessionLostError()._fresh().__suppress_context__  # a context is shown where there is no cause


def test_an_error_leaves_no_cycle_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        for kind, (fields, _) in ERRORS.items():
            error = kind("why", **fields)
            again = error._fresh()
            pickle.loads(pickle.dumps(error))
            seen = weakref.ref(error), weakref.ref(again)
            del error, again
            assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


def test_a_message_is_the_only_positional_argument_of_every_error() -> None:
    for kind in (PoolError, *ERRORS):
        parameters = list(inspect.signature(kind).parameters.values())
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["message"]
