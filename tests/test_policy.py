"""The policy as a value: what it says of itself, and the arithmetic of its backoff. Wrong values: `pool/test_bad_input.py`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle

import pytest

from trio_mcp_pool import Backoff, PoolPolicy, PoolStatistics, ServerStatistics


def test_a_policy_is_a_value_that_replaces_copies_and_pickles() -> None:
    policy = dataclasses.replace(PoolPolicy(max_overlap=0), idle_timeout=math.inf)
    assert (policy.max_overlap, policy.idle_timeout) == (0, math.inf)
    assert pickle.loads(pickle.dumps(policy)) == copy.copy(policy) == policy
    assert len({policy, copy.deepcopy(policy)}) == 1


def test_the_refusal_of_a_timeout_leaves_the_signature_as_it_is() -> None:
    assert list(inspect.signature(PoolPolicy).parameters) == [field.name for field in dataclasses.fields(PoolPolicy)]
    assert inspect.signature(Backoff).parameters["first"].default == 0.5


def test_R5_each_wait_of_a_backoff_is_longer_by_the_factor_up_to_the_cap() -> None:
    backoff = Backoff(first=0.5, factor=3, cap=10)
    assert [backoff.delay(failures, 0.5) for failures in (1, 2, 3, 4, 5)] == [0.5, 1.5, 4.5, 10, 10]
    assert Backoff(first=0.5, factor=1).delay(10**9, 0.5) == 0.5


@pytest.mark.parametrize("factor", [2, 3, 10, 1e300])
@pytest.mark.parametrize("failures", [308, 309, 1000, 10**9])
def test_R5_a_server_that_has_failed_for_a_year_is_in_backoff_for_the_cap(factor: float, failures: int) -> None:
    assert Backoff(first=0.5, factor=factor, cap=60).delay(failures, 0.5) == 60


def test_R5_the_jitter_shifts_a_wait_either_way() -> None:
    backoff = Backoff(first=10, jitter=0.1)
    assert [backoff.delay(1, random) for random in (0, 0.5, 1)] == [9, 10, 11]


def test_a_server_is_cold_until_something_is_known_of_it() -> None:
    server = ServerStatistics()
    assert (server.state, server.last_error, server.retry_at) == ("cold", None, -math.inf)
    assert pickle.loads(pickle.dumps(PoolStatistics(servers={"s": server}))).servers == {"s": server}
