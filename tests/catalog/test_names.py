"""The names that models see are legal, unique, stable and mapped back exactly, whatever servers call their tools."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool.catalog._names import Names

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
HARD = st.one_of(
    st.text(min_size=1, max_size=80),
    st.text("ab_-", min_size=1, max_size=6),
    st.text("ab_", min_size=60, max_size=70),
    st.from_regex(r"\Aa_[0-9a-f]{10}\Z"),
)
PAIRS = st.lists(st.tuples(HARD, st.one_of(HARD, st.just(""))), unique=True, max_size=12)


@given(PAIRS, st.randoms(use_true_random=False))
def test_every_name_is_legal_unique_and_a_function_of_the_pair_alone(pairs, random) -> None:
    first, second = Names(), Names()
    forwards = {pair: first.name(*pair) for pair in pairs}
    shuffled = list(pairs)
    random.shuffle(shuffled)
    backwards = {pair: second.name(*pair) for pair in shuffled}
    assert forwards == backwards
    assert all(LEGAL.fullmatch(name) for name in forwards.values())
    assert len(set(forwards.values())) == len(pairs)


@given(PAIRS, st.lists(st.sampled_from(["x", "y y", "", "z" * 80, "x_0123456789"]), min_size=1))
def test_names_of_the_users_function_are_legal_and_unique_too_and_never_taken_back(pairs, wanted) -> None:
    names = Names(lambda server, tool: wanted[(len(server) + len(tool)) % len(wanted)])
    given = {pair: names.name(*pair) for pair in pairs}
    assert {pair: names.name(*pair) for pair in reversed(pairs)} == given
    assert all(LEGAL.fullmatch(name) for name in given.values())
    assert len(set(given.values())) == len(pairs)


def test_plain_names_stay_plain() -> None:
    assert Names().name("files", "read-file_2") == "files__read-file_2"


def test_a_name_that_reads_as_another_pair_is_hashed() -> None:
    names = Names()
    assert names.name("a", "b__c") == "a__b__c"
    assert re.fullmatch(r"a__b__c_[0-9a-f]{10}", names.name("a__b", "c"))
    assert re.fullmatch(r"a___b_[0-9a-f]{10}", names.name("a_", "b"))


def test_a_lone_surrogate_has_a_name() -> None:
    assert LEGAL.fullmatch(Names().name("a", "\ud800"))


def test_a_function_that_returns_no_text_is_the_users_mistake() -> None:
    with pytest.raises(TypeError, match="names= must return a str, not int"):
        Names(lambda server, tool: 3).name("a", "b")  # type: ignore[return-value]


@given(PAIRS)
def test_names_that_were_forgotten_are_given_again_as_they_were(pairs) -> None:
    names = Names()
    before = {pair: names.name(*pair) for pair in pairs}
    names.forget_beyond(len(pairs))
    assert len(names._taken) == len(pairs)
    names.forget_beyond(len(pairs) - 1)
    assert names._taken == set()
    assert {pair: names.name(*pair) for pair in reversed(pairs)} == before


def test_what_a_function_of_the_users_gave_is_not_forgotten() -> None:
    names = Names(lambda server, tool: "same")
    first = names.name("a", "b")
    names.forget_beyond(0)
    assert (names.name("c", "d") != first, names.name("a", "b")) == (True, first)


def test_no_plain_name_is_another_pairs_hashed_one() -> None:
    hashed = Names().name("a", "b!")
    trap = hashed.removeprefix("a__")
    for pairs in ([("a", "b!"), ("a", trap)], [("a", trap), ("a", "b!")]):
        names = Names()
        assert {pair: names.name(*pair) for pair in pairs}[("a", "b!")] == hashed
        assert names.name("a", trap) != hashed
