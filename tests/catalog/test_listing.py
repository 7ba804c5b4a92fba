"""What is known of one server's lists: which answer stands, and what must be asked for again."""

from __future__ import annotations

import math

import mcp_types as types

from trio_mcp_pool.catalog._listing import Shelf


def tools(*names: str) -> tuple[types.Tool, ...]:
    return tuple(types.Tool(name=name, input_schema={"type": "object"}) for name in names)


def shelf(*names: str) -> Shelf:
    made = Shelf("s")
    made.wanted.add("tools")
    made.store("tools", tools(*names), -math.inf, made.ticket("tools"))
    return made


def shown(made: Shelf) -> list[tuple[str, bool]]:
    return [(entry.name, entry.stale) for entry in made.entries("tools")]


def test_an_answer_that_was_under_way_when_a_session_brought_a_newer_list_is_dropped() -> None:
    made = shelf("old")
    ticket = made.ticket("tools")
    made.store("tools", tools("newest"), -math.inf, None)
    assert not made.store("tools", tools("late"), -math.inf, ticket)
    assert shown(made) == [("newest", False)]


def test_an_answer_during_which_a_change_was_reported_is_kept_and_asked_for_again() -> None:
    made = shelf("old")
    made.invalidate(["tools"])
    assert shown(made) == [("old", True)]
    ticket = made.ticket("tools")
    made.invalidate(["tools"])
    assert made.store("tools", tools("newer"), -math.inf, ticket)
    assert shown(made) == [("newer", True)]
    assert made.needs() == {"tools"}
    made.store("tools", tools("newest"), -math.inf, made.ticket("tools"))
    assert shown(made) == [("newest", False)]
    assert made.needs() == set()


def test_what_is_equal_stays_the_same_object() -> None:
    made = shelf("a", "b")
    before = made.entries("tools")
    assert not made.store("tools", tools("a", "b"), -math.inf, made.ticket("tools"))
    assert made.entries("tools") is before
    made.store("tools", tools("a", "c"), -math.inf, made.ticket("tools"))
    assert made.entries("tools")[0].value is before[0].value


def test_a_new_session_makes_all_stale_but_what_the_server_said_would_hold() -> None:
    made = shelf("a")
    made.wanted.add("prompts")
    made.store("prompts", (types.Prompt(name="p"),), 60.0, made.ticket("prompts"))
    made.expire(now=59.0)
    assert made.needs() == {"tools"}
    made.expire(now=61.0)
    assert made.needs() == {"tools", "prompts"}


def test_a_reported_change_counts_more_than_what_the_server_said_would_hold() -> None:
    made = shelf("a")
    made.store("tools", tools("a"), 60.0, made.ticket("tools"))
    made.invalidate(["tools"])
    assert made.needs() == {"tools"}


def test_a_failure_makes_entries_stale_until_the_next_success() -> None:
    made = shelf("a")
    made.fail(OSError())
    assert shown(made) == [("a", True)]
    assert isinstance(made.problem, OSError)
    made.fail(None)
    assert shown(made) == [("a", False)]
    assert made.problem is None


def test_a_copy_goes_its_own_way() -> None:
    made = shelf("a")
    other = made.copy()
    other.store("tools", tools("b"), -math.inf, None)
    other.invalidate(["tools"])
    assert (shown(made), shown(other)) == ([("a", False)], [("b", True)])
    assert repr(made) == "<Shelf of 's': ['tools'], to be listed: []>"
