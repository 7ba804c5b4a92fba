"""Patterns of strangers mean what they mean to `re`, and never take long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool.catalog._linear import Budget, LinearPattern, TooCostlyError, UnsupportedPatternError

ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "[ab]",
        "[^a]",
        ".",
        "\\d",
        "\\w",
        "\\s",
        "^",
        "$",
        "\\b",
        "\\B",
        "(?:ab|b)",
        "[a-c\\d]",
        "\\.",
        "[^\\W\\d]",
        "\\Z",
    ]
)
QUANTIFIERS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{0,}", "*?"])


@st.composite
def patterns(draw, depth=2):
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        atom = draw(ATOMS) if depth == 0 or draw(st.booleans()) else f"({draw(patterns(depth=depth - 1))})"
        quantifier = draw(QUANTIFIERS)
        parts.append(atom + (quantifier if atom not in ("^", "$", "\\b", "\\B", "\\Z") else ""))
    return draw(st.sampled_from(["", "", "|a"])).join([("".join(parts)), ""]) if parts else ""


@given(patterns(), st.text("ab1 \n_é", max_size=12))
def test_the_slow_engine_finds_what_re_finds(pattern, text) -> None:
    try:
        ours = LinearPattern(pattern)
    except UnsupportedPatternError:
        return
    assert ours._follow(text, Budget(10**9)) == (re.search(pattern, text) is not None), pattern
    assert ours.search(text, Budget(10**9)) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern", [r"(?=a)", r"(a)\1", r"(?<!a)b", r"(?i)a", r"(?>a*)", r"a*+", "(", "a" * 1001, "(a{900}){9}"]
)
def test_what_takes_more_than_linear_time_is_refused(pattern) -> None:
    with pytest.raises(UnsupportedPatternError):
        LinearPattern(pattern)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|aa)+$", "(a*)*b", "(a?){30}a{30}", "^(.*,){12}P", r"(\w+\s?)*$"])
@pytest.mark.parametrize("text", ["a" * 40 + "!", "a" * 100_000 + "!", "a," * 5_000])
def test_a_pattern_that_backtracks_for_ever_ends_within_50_ms(pattern, text) -> None:
    ours = LinearPattern(pattern)
    # The processor's time: other tests run on the machine.
    started = time.thread_time()
    try:
        ours.search(text, Budget(60_000))
    except TooCostlyError:
        pass
    assert time.thread_time() - started < 0.1
