"""The guide names everything that it must: every field, every error, every event."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

import trio_mcp_pool
import trio_mcp_pool.config
import trio_mcp_pool.testing

DOCS = Path(__file__).resolve().parents[1] / "docs"


def subclasses(base: type) -> list[str]:
    return sorted(
        name
        for name in dir(trio_mcp_pool)
        if isinstance(value := getattr(trio_mcp_pool, name), type) and issubclass(value, base)
    )


def fields(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def rows(page: str) -> set[str]:
    """What stands in backticks in the first column of the page's tables."""
    lines = (DOCS / "guide" / page).read_text().splitlines()
    return {line.split("`")[1] for line in lines if line.startswith("| `")}


@pytest.mark.parametrize("page", ["sizing.md", "events.md", "errors.md"])
def test_the_tables_of_the_guide_are_those_of_the_code(page: str) -> None:
    """Where this fails: `python docs/tables.py`."""
    tables = runpy.run_path(str(DOCS / "tables.py"))
    text = (DOCS / "guide" / page).read_text(encoding="utf-8")
    assert tables["written"](page, text) == text


@pytest.mark.parametrize("name", fields(trio_mcp_pool.PoolPolicy))
def test_the_sizing_chapter_has_a_row_for_each_field_of_the_policy(name: str) -> None:
    assert name in rows("sizing.md")


@pytest.mark.parametrize("name", [n for n in fields(trio_mcp_pool.PoolStatistics) if n != "servers"])
def test_the_sizing_chapter_has_a_row_for_each_statistic(name: str) -> None:
    assert name in rows("sizing.md")


@pytest.mark.parametrize("name", [n for n in subclasses(trio_mcp_pool.PoolError) if n != "PoolError"])
def test_the_chapter_on_errors_has_a_row_for_each_error(name: str) -> None:
    assert name in rows("errors.md")


@pytest.mark.parametrize("name", [n for n in subclasses(trio_mcp_pool.Event) if n not in ("Event", "ConnectionEvent")])
def test_the_chapter_on_events_has_a_row_for_each_event(name: str) -> None:
    assert name in rows("events.md")


@pytest.mark.parametrize("name", [n for n in dir(trio_mcp_pool) if n[0].isupper()])
def test_the_reference_has_an_entry_for_each_public_class(name: str) -> None:
    assert f":: {name}\n" in (DOCS / "reference.md").read_text().replace("()", "")


@pytest.mark.parametrize(
    "name", [n for n in vars(trio_mcp_pool.testing) if not n.startswith("_") and n != "annotations"]
)
def test_the_reference_has_an_entry_for_each_name_of_the_testing_kit(name: str) -> None:
    assert f":: {name}\n" in (DOCS / "reference.md").read_text().replace("()", "")


@pytest.mark.parametrize(
    "name",
    [n for n in vars(trio_mcp_pool.config) if not n.startswith("_") and n not in ("annotations", "Ask", "LogIn")],
)
def test_the_reference_has_an_entry_for_each_name_of_the_configuration(name: str) -> None:
    assert f":: {name}\n" in (DOCS / "reference.md").read_text().replace("()", "")


VERBS = [n for n in vars(trio_mcp_pool.Pool) if not n.startswith("_")]
OPTIONS = [
    *[
        "max_message",
        "max_values",
        "max_connections",
        "trusted",
        "wire",
        "transport",
        "headers",
        "env",
        "auth",
        "ssl_context",
    ],
    *["proxy", "stderr", "configure"],
]


@pytest.mark.parametrize("name", [*VERBS, *OPTIONS, "open_pool", "serve_pool", "wait_ready", "call_tool"])
def test_the_guide_mentions_everything_that_a_program_can_call(name: str) -> None:
    pages = [DOCS / "tutorial.md", *(DOCS / "guide").glob("*.md")]
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in pages)
