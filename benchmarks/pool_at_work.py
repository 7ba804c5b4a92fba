"""`python -m benchmarks.pool_at_work --svg FILE`: a picture of one pool at work, drawn from what an observer was told.

The program runs for about four seconds against real processes: six callers come at once, an agent has a session of its own, the
server is killed, the next caller gets a new session, and what nobody uses is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import trio

from trio_mcp_pool import (
    DialStarted,
    Event,
    LeaseEnded,
    LeaseStarted,
    Pool,
    PoolPolicy,
    SessionClosed,
    SessionOpened,
    StdioServer,
    open_pool,
)

from .picture import FAINT, HOLDS, INK, LOSES, opening

WIDTH, LEFT, RIGHT, TOP, ROW, GAP, LINE = 860, 150, 170, 74, 62, 12, 7
START = 0.4
"""Seconds that the server takes to start, as real ones do."""
WHY = {
    "idle": "closed: idle",
    "broken": "killed",
    "shutdown": "closed with the block",
    "drained": "closed with its scope",
}


@dataclass
class Life:
    """One session, in seconds on Trio's clock."""

    scope: object
    dialled: float
    opened: float = 0.0
    closed: float = 0.0
    reason: str = ""
    waits: list[tuple[float, float]] = field(default_factory=list)
    leases: list[tuple[float, float]] = field(default_factory=list)


def lives(events: Iterable[Event]) -> list[Life]:
    """What became of each session."""
    found: dict[int, Life] = {}
    for event in events:
        match event:
            case DialStarted():
                found[event.connection] = Life(event.scope, event.at)
            case SessionOpened():
                found[event.connection].opened = event.at
            case LeaseStarted():
                if event.waited:
                    found[event.connection].waits.append((event.at - event.waited, event.at))
            case LeaseEnded():
                found[event.connection].leases.append((event.at - event.used, event.at))
            case SessionClosed():
                found[event.connection].closed = event.at
                found[event.connection].reason = event.reason
    return list(found.values())


async def work(pool: Pool, pids: list[int]) -> None:
    """What the picture shows."""

    async def call(after: float, seconds: float) -> None:
        await trio.sleep(after)
        await pool.call_tool("notebook", "look_up", {"text": "x", "seconds": seconds})

    async def agent() -> None:
        await trio.sleep(0.7)
        async with pool.open_scope("agent") as mine:
            for seconds in (0.3, 0.4, 0.2):
                await mine.call_tool("notebook", "look_up", {"text": "x", "seconds": seconds})

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(call, 0.0, 0.3 + 0.13 * number)
        nursery.start_soon(agent)
        await trio.sleep(1.75)
        os.kill(pids[0], signal.SIGKILL)
        for number in range(3):
            nursery.start_soon(call, 0.2 + 0.1 * number, 0.4)
    await trio.sleep(1.2)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.pids: list[int] = []

    def event(self, e: Event, /) -> None:
        """Called by the pool."""
        self.events.append(e)
        if isinstance(e, SessionOpened) and e.pid is not None:
            self.pids.append(e.pid)


async def record() -> list[Event]:
    """Run it, and return what the observer was told."""
    recorder = Recorder()
    program = [sys.executable, "-m", "trio_mcp_pool.cli", "demo-server", "notebook"]
    server = StdioServer("sh", ["-c", f'sleep {START}; exec "$0" "$@"', *program])
    with trio.fail_after(60):
        async with open_pool({"notebook": server}, policy=PoolPolicy(idle_timeout=0.8), observers=[recorder]) as pool:
            await work(pool, recorder.pids)
    return recorder.events


def draw(sessions: Sequence[Life], title: str) -> str:
    """The picture as SVG."""
    began = min(life.dialled for life in sessions)
    took = max(life.closed for life in sessions) - began
    height = TOP + len(sessions) * (ROW + GAP) + 34
    unit = (WIDTH - LEFT - RIGHT) / took

    def at(time: float) -> float:
        return LEFT + unit * (time - began)

    def bar(span: tuple[float, float], y: float, colour: str, tall: float) -> str:
        width = max(1.5, at(span[1]) - at(span[0]))
        return (
            f'<rect x="{at(span[0]):.1f}" y="{y:.1f}" width="{width:.1f}" height="{tall:.1f}" rx="2" fill="{colour}"/>'
        )

    def words(x: float, y: float, text: str, colour: str = INK, anchor: str = "start") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'

    parts = opening(WIDTH, height, title)
    for x, colour, text in ((16, FAINT, "a caller waits, or the server starts"), (290, HOLDS, "a call runs")):
        parts += [f'<rect x="{x}" y="42" width="22" height="{LINE}" rx="2" fill="{colour}"/>', words(x + 30, 50, text)]
    for second in range(int(took) + 1):
        mark, bottom = at(began + second), height - 26
        parts.append(
            f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="{FAINT}" stroke-dasharray="2 4"/>'
        )
        parts.append(words(mark, bottom + 16, f"{second} s", FAINT, "middle"))
    for number, life in enumerate(sessions):
        y = TOP + number * (ROW + GAP)
        whose = "an agent's own" if life.scope is not None else "shared"
        parts += [words(16, y + 26, f"session {number + 1}"), words(16, y + 43, whose, FAINT)]
        parts.append(
            f'<rect x="{at(life.opened):.1f}" y="{y}" width="{at(life.closed) - at(life.opened):.1f}" height="{ROW}" rx="4"'
            f' fill="none" stroke="{INK}"/>'
        )
        for line, waited in enumerate(sorted(life.waits) or [(life.dialled, life.opened)]):
            parts.append(bar(waited, y + 5 + line * (LINE + 2), FAINT, LINE))
        busy: list[float] = []
        for since, until in sorted(life.leases):
            place = next((place for place, free_at in enumerate(busy) if free_at <= since), len(busy))
            busy[place : place + 1] = [until]
            parts.append(bar((since, until), y + 5 + place * (LINE + 2), HOLDS, LINE))
        why = WHY.get(life.reason, life.reason)
        parts.append(words(at(life.closed) + 8, y + ROW / 2 + 4, why, LOSES if life.reason == "broken" else INK))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Run and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool_at_work", description=__doc__)
    parser.add_argument("--svg", type=Path, required=True, help="the file to draw into")
    options = parser.parse_args()
    sessions = lives(trio.run(record))
    options.svg.write_text(draw(sessions, "One pool at work: nine callers and an agent"), encoding="utf-8")


if __name__ == "__main__":
    main()
