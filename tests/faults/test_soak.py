"""A few seconds of the soak; two minutes of it are `nox -s soak`."""

from __future__ import annotations

import pytest

from tests.soak import soak

pytestmark = pytest.mark.exhaustive


def test_every_call_of_a_short_soak_is_accounted_for() -> None:
    report = soak(8, seed=1, check_memory=False)
    assert report.faults == [], str(report)
    assert report.outcomes["result"] > 100
