"""The errors: what they carry, what they are, and that they survive a pickle and a copy."""

from __future__ import annotations

import copy
import pickle
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
}


def all_errors() -> set[type[PoolError]]:
    public = {value for value in vars(tmp).values() if isinstance(value, type) and issubclass(value, PoolError)}
    return public - {PoolError}


def test_the_table_is_complete() -> None:
    assert set(ERRORS) == all_errors()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_says_its_message_and_carries_its_fields_through_pickle_and_copy(kind: type[PoolError]) -> None:
    fields, bases = ERRORS[kind]
    error = kind("what happened", server="files", **fields)
    for again in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert again.args == ("what happened",)
        assert {"server": "files", **fields}.items() <= vars(again).items()
        for base in (PoolError, *bases):
            assert isinstance(again, base)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_default(kind: type[PoolError]) -> None:
    error = kind()
    assert str(error) == ""
    assert error.server is None
    assert str(kind("only a message")) == "only a message"
    with pytest.raises(TypeError):
        kind("a message", "files")


def test_what_may_have_run_is_not_caught_as_what_did_not() -> None:
    assert not issubclass(tmp.OutcomeUnknownError, tmp.SessionLostError)
    assert not issubclass(tmp.SessionLostError, tmp.OutcomeUnknownError)
    assert not issubclass(tmp.ConnectError, (trio.BrokenResourceError, trio.ClosedResourceError))


def test_an_unknown_server_does_not_quote_its_message_like_a_key() -> None:
    assert str(tmp.UnknownServerError("no server 'x'")) == "no server 'x'"
