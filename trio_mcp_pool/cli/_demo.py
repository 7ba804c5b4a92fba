"""`trio-mcp-pool demo`: the pool's work, shown on real servers.

Every scene does something, prints it, and checks that it happened. A scene that fails does not stop the others; what was not
shown is named at the end and makes the exit status 1.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .. import HttpServer, PoolError, PoolPolicy, StdioServer, open_pool
from . import _scenes
from ._report import NotShown, Report, milliseconds
from ._scenes import Stage

_SERVERS = Path(__file__).parent / "_servers"
NOTEBOOK = [str(_SERVERS / "notebook.py")]
BOARD = [str(_SERVERS / "board.py")]

_SCENE_SECONDS = 8.0
"""How long a scene may take before it counts as failed."""

Scene = Callable[[Stage], Awaitable[None]]

_SCENES: list[tuple[str, Scene]] = [
    ("The same calls with a session each, and through the pool", _scenes.session_per_call),
    ("The same over HTTP", _scenes.over_http),
    ("Fifty calls at once, one session", _scenes.fifty_at_once),
    ("Two agents, each with a scope", _scenes.two_agents),
    ("A session that nobody uses", _scenes.idle_eviction),
    ("A server that is killed", _scenes.recovery),
]


@asynccontextmanager
async def _board() -> AsyncIterator[str]:
    """Run the HTTP server in a process of its own; gives its URL."""
    process = await trio.lowlevel.open_process([sys.executable, *BOARD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        with trio.fail_after(_SCENE_SECONDS):
            printed = b""
            while not printed.endswith(b"\n"):
                more = await process.stdout.receive_some()
                if not more:
                    raise NotShown(f"the HTTP server ended with status {await process.wait()} instead of starting")
                printed += more
        yield f"http://127.0.0.1:{int(printed)}/mcp"
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()  # it ends with its stdin
            with trio.move_on_after(2):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


def _told(error: Exception) -> str:
    """What went wrong, in a line. Scenes use nurseries, so it may be several things."""
    if isinstance(error, ExceptionGroup):
        return "; ".join(dict.fromkeys(_told(part) for part in error.exceptions))
    if isinstance(error, trio.TooSlowError):
        return f"not done after {_SCENE_SECONDS:g} s"
    return str(error) if isinstance(error, NotShown) else f"{type(error).__name__}: {error}"


async def play(title: str, scene: Scene, stage: Stage) -> list[str]:
    """One scene, within its time; gives what was not shown."""
    stage.report.scene(title)
    try:
        with trio.fail_after(_SCENE_SECONDS):
            await scene(stage)
    except Exception as error:
        problem = _told(error)
    else:
        return []
    stage.report.failed(problem)
    return [f"{title}: {problem}"]


async def demo(report: Report) -> list[str]:
    """Play all scenes; gives what was not shown, nothing when all went well."""
    missing: list[str] = []
    began = time.perf_counter()
    narrator = _scenes.Narrator(report)
    async with _board() as url:
        servers = {
            "notebook": StdioServer(sys.executable, NOTEBOOK),
            "board": HttpServer(url),
            "napper": StdioServer(sys.executable, NOTEBOOK, policy=PoolPolicy(idle_timeout=_scenes.NAP)),
        }
        async with open_pool(servers, observers=[narrator]) as pool:
            stage = Stage(pool=pool, report=report, url=url, notebook=NOTEBOOK)
            for title, scene in _SCENES:
                missing += await play(title, scene, stage)
            closing = time.perf_counter()
        took = time.perf_counter() - closing
        missing += await play("The end of the pool", lambda _: _scenes.nothing_left(stage, narrator, took), stage)
    report.table()
    report.scene(f"Done in {milliseconds(time.perf_counter() - began)}.")
    return missing


def run_demo() -> int:
    """Run the demo; gives the exit status."""
    try:
        missing = trio.run(demo, Report())
    except (NotShown, PoolError, OSError) as error:
        missing = [f"the demo could not go on: {type(error).__name__}: {error}"]
    for line in missing:
        print(f"not shown: {line}", file=sys.stderr)
    return 1 if missing else 0
