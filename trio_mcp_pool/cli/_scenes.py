"""The scenes of the demo. Each raises `NotShown` when what it says did not happen."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

import mcp
import trio
from mcp.client.stdio import StdioServerParameters, stdio_client

from .. import OutcomeUnknownError, Pool, SessionClosed, SessionDied, SessionOpened
from ._report import Report, expect, milliseconds

NAP = 0.5
"""The idle timeout, in seconds, of the server that nobody calls for a while."""

_CALLS = 8
_AT_ONCE = 50
_LOOK_UP = 0.2


@dataclass
class Stage:
    """What a scene has to hand."""

    pool: Pool
    report: Report
    url: str
    """Where the HTTP server listens."""
    notebook: list[str]
    """The arguments after the Python interpreter that start the stdio server."""
    pids: set[int] = field(default_factory=set)
    """Every process that a call through the pool was answered by."""


class Narrator:
    """An observer that prints what the pool does."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.open = 0

    def event(self, e: object) -> None:
        """Print the events that mean something to somebody who watches."""
        if isinstance(e, SessionOpened):
            self.open += 1
            process = f", process {e.pid}" if e.pid is not None else ""
            self._report.aside(f"session {e.connection} to {e.server} opened in {milliseconds(e.seconds)}{process}")
        elif isinstance(e, SessionDied):
            self._report.aside(f"session {e.connection} to {e.server} died: {e.reason}")
        elif isinstance(e, SessionClosed) and e.reason != "failed":
            self.open -= 1
            self._report.aside(f"session {e.connection} to {e.server} closed: {e.reason}")


def _gone(pid: int) -> bool:
    if os.name != "posix":
        return True  # only POSIX can check a process without a handle to it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def _until_gone(pid: int) -> None:
    while not _gone(pid):
        await trio.sleep(0.01)


async def _pid(stage: Stage, server: str, text: str) -> int:
    """One call through the pool; checks its answer and gives the process that sent it."""
    answer = _structured(await stage.pool.call_tool(server, "echo", {"text": text}))
    expect(answer["text"] == text, f"the answer to {text!r} was {answer['text']!r}")
    pid = int(answer["pid"])
    stage.pids.add(pid)
    return pid


def _structured(result: mcp.types.CallToolResult) -> dict[str, Any]:
    content = result.structured_content
    expect(not result.is_error and isinstance(content, dict), f"a call was answered with an error: {result}")
    return cast("dict[str, Any]", content)


async def session_per_call(stage: Stage) -> None:
    """What a call costs that brings its own session, and one that does not."""
    by_hand: set[int] = set()
    began = time.perf_counter()
    for number in range(_CALLS):
        transport = stdio_client(StdioServerParameters(command=sys.executable, args=stage.notebook))
        async with mcp.Client(transport) as client:
            answer = _structured(await client.call_tool("echo", {"text": str(number)}))
            by_hand.add(int(answer["pid"]))
    slow = (time.perf_counter() - began) / _CALLS
    expect(len(by_hand) == _CALLS, f"{_CALLS} sessions were {len(by_hand)} processes")
    stage.report.say(f"{_CALLS} calls with a session each: {_CALLS} processes, {milliseconds(slow)} a call")

    began = time.perf_counter()
    pooled = {await _pid(stage, "notebook", "first")}
    first = time.perf_counter() - began
    began = time.perf_counter()
    pooled |= {await _pid(stage, "notebook", str(number)) for number in range(_CALLS)}
    fast = (time.perf_counter() - began) / _CALLS
    expect(len(pooled) == 1, f"the pool should have kept one process; {len(pooled)} answered")
    stage.report.say(
        f"the first call through the pool took {milliseconds(first)}, the others {milliseconds(fast)} each"
    )
    stage.report.figure("a call over stdio", milliseconds(slow), milliseconds(fast))
    stage.report.figure(f"processes for {_CALLS} calls", str(len(by_hand)), str(len(pooled)))


async def over_http(stage: Stage) -> None:
    """The same comparison with a server that runs already."""
    began = time.perf_counter()
    for number in range(_CALLS):
        async with mcp.Client(stage.url) as client:
            answer = _structured(await client.call_tool("echo", {"text": str(number)}))
            expect(answer["result"] == str(number), f"the answer to {number} was {answer}")
    slow = (time.perf_counter() - began) / _CALLS
    stage.report.say(f"{_CALLS} calls with a session each: {milliseconds(slow)} a call")

    await stage.pool.wait_ready("board")
    began = time.perf_counter()
    for number in range(_CALLS):
        answer = _structured(await stage.pool.call_tool("board", "echo", {"text": str(number)}))
        expect(answer["result"] == str(number), f"the answer to {number} was {answer}")
    fast = (time.perf_counter() - began) / _CALLS
    connects = stage.pool.statistics().servers["board"].connects
    expect(connects == 1, f"the pool should have connected once, not {connects} times")
    stage.report.say(f"{_CALLS} calls through the pool: one session, {milliseconds(fast)} a call")
    stage.report.figure("a call over HTTP", milliseconds(slow), milliseconds(fast))


async def fifty_at_once(stage: Stage) -> None:
    """Callers share a session without queueing."""
    for server in ("notebook", "board"):
        before = stage.pool.statistics().servers[server].connects
        answers: dict[int, str] = {}

        async def look_up(number: int, server: str = server, answers: dict[int, str] = answers) -> None:
            arguments = {"text": f"word {number}", "seconds": _LOOK_UP}
            result = await stage.pool.call_tool(server, "look_up", arguments)
            expect(not result.is_error, f"call {number} was answered with an error: {result}")
            answers[number] = result.content[0].text  # type: ignore[union-attr]

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(_AT_ONCE):
                nursery.start_soon(look_up, number)
        took = time.perf_counter() - began
        right = sum(answers.get(number) == f"word {number}" for number in range(_AT_ONCE))
        expect(right == _AT_ONCE, f"{right} of {_AT_ONCE} calls to {server} got their own answer")
        connects = stage.pool.statistics().servers[server].connects - before
        expect(connects == 0, f"{connects} more sessions to {server} were opened for it")
        in_turn = _AT_ONCE * _LOOK_UP
        expect(took < in_turn / 2, f"{_AT_ONCE} calls to {server} took {took:.2f} s; in turn they take {in_turn:g} s")
        stage.report.say(
            f"{server}: {_AT_ONCE} calls that take {milliseconds(_LOOK_UP)} each, "
            f"all answered right in {milliseconds(took)}"
        )
        stage.report.figure(f"{_AT_ONCE} slow calls at once, {server}", "", milliseconds(took))


async def two_agents(stage: Stage) -> None:
    """Sessions with state are private to the scope they were opened in."""
    seen: dict[str, tuple[int, list[str]]] = {}

    async def agent(name: str) -> None:
        async with stage.pool.open_scope() as mine:
            for number in (1, 2, 3):
                await mine.call_tool("notebook", "write", {"text": f"{name} {number}"})
            answer = _structured(await mine.call_tool("notebook", "read"))
            seen[name] = int(answer["pid"]), list(answer["lines"])
            stage.pids.add(int(answer["pid"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent, "Ada")
        nursery.start_soon(agent, "Ben")
    for name, (pid, lines) in sorted(seen.items()):
        expect(lines == [f"{name} {number}" for number in (1, 2, 3)], f"{name} read {lines}")
        expect(_gone(pid), f"the process of {name}'s scope, {pid}, is still there")
        stage.report.say(f"{name} wrote and read back {lines} in process {pid}, which went with the scope")
    expect(len({pid for pid, _ in seen.values()}) == 2, "the two agents shared a process")


async def idle_eviction(stage: Stage) -> None:
    """A session is closed when it was idle for its server's `idle_timeout`, and opened again at the next call."""
    pid = await _pid(stage, "napper", "awake")
    began = time.perf_counter()
    await _until_gone(pid)
    while not stage.pool.statistics().servers["napper"].closed_idle:
        await trio.sleep(0.01)
    took = time.perf_counter() - began
    expect(took > NAP * 0.9, f"the session was closed after {milliseconds(took)}, before its {NAP:g} s were over")
    stage.report.say(
        f"process {pid} was closed and gone {milliseconds(took)} after its last call; its limit was {NAP:g} s"
    )
    again = await _pid(stage, "napper", "awake again")
    expect(again != pid, "the closed process answered again")
    stage.report.say(f"the next call was answered by process {again}")
    stage.report.figure(f"idle session gone (limit {NAP:g} s)", "", milliseconds(took))


async def recovery(stage: Stage) -> None:
    """A killed server costs the calls that were on it, and nothing else."""
    pid = await _pid(stage, "notebook", "alive")
    lost: list[OutcomeUnknownError] = []

    async def caught_by_it(*, task_status: trio.TaskStatus[None]) -> None:
        async with stage.pool.session("notebook") as session:
            task_status.started()
            try:
                await session.call_tool("look_up", {"text": "never answered", "seconds": 60})
            except OutcomeUnknownError as error:
                lost.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(caught_by_it)
        await trio.sleep(0.1)  # the request is on its way to a server that takes a minute to answer
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        killed = time.perf_counter()
    noticed = time.perf_counter() - killed
    expect(len(lost) == 1, "the call that the server was busy with should have raised OutcomeUnknownError")
    stage.report.say(f"process {pid} killed; the call it was busy with got, {milliseconds(noticed)} later:")
    stage.report.say(f"OutcomeUnknownError: {lost[0]}")
    again = await _pid(stage, "notebook", "back")
    took = time.perf_counter() - killed
    expect(again != pid, "the killed process answered again")
    stage.report.say(f"the next call was answered by process {again}, {milliseconds(took)} after the kill")
    stage.report.figure("from the kill to the next answer", "", milliseconds(took))


async def nothing_left(stage: Stage, narrator: Narrator, took: float) -> None:
    """After the pool's block no process is left."""
    with trio.move_on_after(1):  # noqa: ASYNC912 (where all are gone there is nothing to wait for)
        for pid in stage.pids:
            await _until_gone(pid)
    alive = sorted(pid for pid in stage.pids if not _gone(pid))
    expect(not alive, f"still running: {alive}")
    expect(narrator.open == 0, f"{narrator.open} sessions were never reported closed")
    stage.report.say(f"closed in {milliseconds(took)}; of the {len(stage.pids)} processes it used none is left")
