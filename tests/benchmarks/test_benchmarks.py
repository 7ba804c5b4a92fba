"""The benchmark runs and tells what it should. How fast anything is, is not asked here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import picture, report
from benchmarks.contests import ECHO
from benchmarks.measure import Row, Sample, Spread, interleave

ROOT = Path(__file__).resolve().parents[2]
PROMISES = {
    "sequence": 0.42,
    "concurrent": 0.22,
    "bare": 1.6,
    "added": 1.05,
    "lease": 3,
    "big": 0.20,
    "cold": 1.25,
    "lanes": 1.1,
    "hand-over": 1.5,
    "growth-dials": 1.3,
    "growth-leases": 1.3,
    "growth-kept": 1.3,
    "growth-statistics": 1.3,
    "growth-rejected": 1.3,
    "growth-names": 1.3,
    "growth-waiters": 1.3,
    "asyncio": 2.0,
    "asyncio-concurrent": 1.0,
    "http-json-legacy": 0.45,
    "http-json-legacy-50": 0.25,
    "http-json-auto": 0.45,
    "http-json-auto-50": 0.25,
    "http-auth": 0.50,
    "http-auth-50": 0.27,
    "http-events-legacy": 0.30,
    "http-events-legacy-50": 0.20,
    "http-events-auto": 0.30,
    "http-events-auto-50": 0.20,
    "http-split-legacy": 0.30,
    "http-split-legacy-50": 0.20,
    "http-split-auto": 0.30,
    "http-split-auto-50": 0.20,
    "http-sdk-json": 0.40,
    "http-sdk-events": 0.33,
    "http-crowd-cold": 2.5,
    "http-crowd-warm": 1.8,
    "toolset-call": 1.15,
    "toolset-nested": 1.15,
    "toolset-run": 1.35,
    "format-first": 1.0,
    "format-again": 1.0,
}


def samples(*seconds: float) -> list[Sample]:
    return [Sample(wall, wall / 2) for wall in seconds]


def row(bound: float | None, ours: list[Sample], *, condition: bool = True) -> Row:
    return Row("key", "a call", "pool", "<other>", bound, ours, samples(2, 4, 8), condition=condition)


@pytest.mark.parametrize(
    "promised",
    [
        {key: PROMISES[key] for key in ("lease", "cold")},
        pytest.param(PROMISES, marks=pytest.mark.exhaustive),
    ],
    ids=["some", "all"],
)
def test_the_quick_mode_measures_its_promises_and_writes_every_file_of_its_options(
    promised: dict[str, float], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin figures -->\nstale\n<!-- end figures -->\nafter\n")
    asked = ["--json", str(tmp_path / "all.json"), "--svg", str(tmp_path / "all.svg"), "--page", str(page)]
    only = [] if promised is PROMISES else ["--only", "leases", "--only", "cold start"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--calls", "20", *only, *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["schema"] == 1
    assert document["plan"]["quick"] is True
    assert {"python", "mcp", "trio", "cores"} <= document["surroundings"].keys()
    assert {row["key"]: row["bound"] for row in document["rows"] if row["bound"] is not None} == promised
    for one in document["rows"]:
        assert one["holds"] is (None if one["bound"] is None else one["ratio"]["median"] <= one["bound"])
        assert one["ratio"]["low"] <= one["ratio"]["median"] <= one["ratio"]["high"]
        assert len(one["ours"]["rounds"]) == len(one["theirs"]["rounds"]) == 2
        assert one["title"] in done.stdout
        assert one["title"] in page.read_text()
    assert next(one for one in document["rows"] if one["key"] == "cold")["note"] == "one process"
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    ET.parse(tmp_path / "all.svg")


def test_a_ratio_is_taken_within_a_round_and_is_the_median_over_the_rounds() -> None:
    one = row(0.5, samples(1, 2, 80))
    assert one.ratio == Spread(0.5, 0.5, 5.25)
    assert one.holds is True


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (row(0.4, samples(1, 2, 4)), "LOSES"),
        (row(0.5, samples(1, 2, 4)), "holds"),
        (row(0.5, samples(1, 2, 4), condition=False), "LOSES"),
        (row(None, samples(9, 9, 9)), "for comparison"),
    ],
)
def test_a_row_that_misses_its_bound_stays_and_says_so(one: Row, said: str) -> None:
    assert report.verdict(one) == said
    assert report.table([one]).splitlines()[-1].endswith(said)


def test_the_picture_shows_promises_only_and_marks_those_that_are_lost() -> None:
    kept, lost = row(1, samples(1, 2, 4)), row(0.1, samples(1, 2, 4))
    lost_bar = f'fill="{picture.LOSES}"/>'
    assert lost_bar not in picture.draw([kept], "title")
    drawn = picture.draw([kept, lost, row(None, samples(1, 2, 4))], "title")
    assert drawn.count("to &lt;other&gt;") == 2
    assert drawn.count(lost_bar) == 1


def test_the_picture_says_what_each_of_its_colours_becomes_on_a_dark_page() -> None:
    drawn = picture.draw([row(1, samples(1, 2, 4)), row(0.1, samples(1, 2, 4))], "title")
    used = set(re.findall(r'(?:fill|stroke)="(#\w+)"[ />]', drawn))
    assert used == set(picture.DARK)


async def test_every_contender_has_a_turn_in_every_round_in_changing_order() -> None:
    order: list[str] = []

    async def turn(name: str) -> Sample:
        order.append(name)
        return Sample(1, 1)

    async def a() -> Sample:
        return await turn("a")

    async def b() -> Sample:
        return await turn("b")

    got = await interleave({"a": a, "b": b}, 2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(of) for name, of in got.items()} == {"a": 2, "b": 2}


def test_the_worker_of_the_peers_takes_turns_and_ends_with_its_input() -> None:
    asked = '{"calls": 4, "concurrent": 1}\n{"calls": 4, "concurrent": 2}\n'
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "peer_worker.py"), "pool", ECHO],
        input=asked,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ready, *turns = [json.loads(line) for line in done.stdout.splitlines()]
    assert ready == {"ready": True}
    assert [turn["calls"] for turn in turns] == [4, 4]
    assert all(turn["wall"] > 0 for turn in turns)


def test_the_picture_of_a_pool_at_work_shows_what_it_says(tmp_path: Path) -> None:
    drawn = tmp_path / "work.svg"
    program = [sys.executable, "-m", "benchmarks.pool_at_work", "--svg", str(drawn)]
    subprocess.run(program, cwd=ROOT, check=True, timeout=120)
    said = [text.text for text in ET.parse(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in said if word and word.startswith(("session", "closed", "killed"))] == [
        "session 1", "killed", "session 2", "closed with its scope", "session 3", "closed: idle",
    ]  # fmt: skip
