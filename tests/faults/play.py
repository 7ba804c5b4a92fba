"""One cell of the matrix, played on a real server: bring the event about, record what everybody got, look for faults.

Nothing here sleeps until it probably worked: calls that are to be in flight are in the server's log before the event, and
their answers come only when they are let go.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mcp
import trio

from tests.processes import runs
from trio_mcp_pool import (
    AuthenticationError,
    Backoff,
    ConnectError,
    Event,
    HttpStatusError,
    Pool,
    PoolClosed,
    PoolPolicy,
    ScopedPool,
    SessionDied,
    open_pool,
)

from .events import COUNT, Cell
from .place import STDIO, Leftovers, Place, until

LIMIT = 20.0
"""Seconds after which a call counts as hanging. No event here needs as long on an idle machine."""
STUCK = 90.0
NOTICED = 1.0
"""Seconds until an idle death is noticed. It is 0.2 by R12, of which a busy machine may take a few more."""
CLOSE_TIMEOUT = 1.5
POLICY = PoolPolicy(
    connect_timeout=10,
    close_timeout=CLOSE_TIMEOUT,
    write_timeout=0.5,
    probe_timeout=0.3,
    drain_timeout=1,
    backoff=Backoff(first=0.1, factor=2, cap=0.2, jitter=0),
)
# Outcomes that say that nothing ran, and that it did.
_NOT_RUN = ("SessionLostError", "ConnectError", "AuthenticationError", "ServerUnavailableError", "PoolClosedError")
_RUN = ("result", "tool error")


@dataclass
class Record:
    """What came of a cell."""

    cell: str
    struck: dict[str, int] = field(default_factory=dict)
    siblings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """From the event to the last struck caller's outcome; for a close, until the pool's block has ended."""
    after: list[str] = field(default_factory=list)
    """What the next calls get, up to the first result."""
    after_seconds: float = 0.0
    calls: int = 0
    executed: int = 0
    """How many of the calls, siblings included, the server executed."""
    twice: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is wrong; empty for a cell that stands."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def outcome(exc: BaseException) -> str:
    """The name of what a caller got."""
    name = type(exc).__name__
    if isinstance(exc, mcp.MCPError):
        return f"MCPError {exc.code}"
    if isinstance(exc, AuthenticationError):
        return f"{name} {exc.status}"
    if type(exc) is ConnectError:
        return f"{name} {exc.phase}"
    if isinstance(exc, HttpStatusError):
        return f"{name} {exc.status}" + (f" {exc.retry_after:g}" if exc.retry_after is not None else "")
    return name


class Watch:
    """An observer that keeps what is asked for later."""

    def __init__(self) -> None:
        self.deaths = 0
        self.closed: PoolClosed | None = None

    def event(self, e: Event) -> None:
        if isinstance(e, SessionDied):
            self.deaths += 1
        elif isinstance(e, PoolClosed):
            self.closed = e


class Heard(logging.Handler):
    """Keeps the warnings that the pool logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")


class _Leaving(Exception):
    """What the body of a pool raises in order to leave it while calls run."""


class Play:
    """The course of one cell."""

    def __init__(self, cell: Cell, place: Place) -> None:
        self.cell = cell
        self.event = cell.event
        self.place = place
        self.record = Record(str(cell))
        self.watch = Watch()
        self.pool: Pool
        self.through: Pool | ScopedPool
        self.struck: dict[str, str] = {}
        self.siblings: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self._ids = 0

    # Calls.

    async def call(
        self,
        book: dict[str, str],
        do: str = "ok",
        *,
        tool: str = "act",
        read_timeout: float | None = None,
        deadline: float | None = None,
        **arguments: Any,
    ) -> str:
        """One call, whose outcome is put into a book under the call's id."""
        self._ids += 1
        call_id = f"c{self._ids}"
        book[call_id] = "hangs"
        with trio.move_on_after(LIMIT if deadline is None else deadline) as scope:
            try:
                result = await self.through.call_tool("s", tool, {"id": call_id, "do": do, **arguments}, read_timeout)
            except Exception as exc:
                book[call_id] = outcome(exc)
            else:
                book[call_id] = "tool error" if result.is_error else "result"
        if scope.cancelled_caught and deadline is not None:
            book[call_id] = "deadline"
        return book[call_id]

    async def under_way(self, nursery: trio.Nursery, count: int, book: dict[str, str], **more: Any) -> None:
        """That many calls, executed and waiting for their answers."""
        before = sum(self.place.executions().values())

        async def one() -> None:
            await self.call(book, "wait", **more)

        for _ in range(count):
            nursery.start_soon(one)
        await until(lambda: sum(self.place.executions().values()) >= before + count, LIMIT, f"{count} calls under way")

    # The kinds of event.

    async def play(self) -> None:
        event, load = self.event, self.cell.load
        kind = getattr(self, f"_play_{event.kind}")
        if event.kind not in ("connect", "close"):
            await self.call(self.others)  # the session is up, and has proved itself
        async with trio.open_nursery() as nursery:
            await kind(nursery, COUNT[load])
        if event.kind != "close":
            self.place.mode()
            await self._play_after()

    def _ended(self, began: float) -> None:
        self.record.seconds = trio.current_time() - began

    async def _play_call(self, nursery: trio.Nursery, count: int) -> None:
        event = self.event
        await self.under_way(nursery, count - 1, self.siblings)
        if "forget" in event.mode:
            await self.call(self.others, "forget", status=event.mode["forget"])
        began = trio.current_time()
        await self.call(
            self.struck, event.do, tool=event.tool, read_timeout=event.read_timeout, deadline=event.deadline,
            **event.arguments,
        )  # fmt: skip
        self._ended(began)
        if event.do == "never":
            # Siblings are not held up by what the cancellation has left to do.
            began = trio.current_time()
            await self.call(self.siblings)
            if trio.current_time() - began > 1:
                self.record.faults.append(f"the call after the cancellation took {trio.current_time() - began:.2f} s")
        self.place.go()

    async def _play_blow(self, nursery: trio.Nursery, count: int) -> None:
        event, place = self.event, self.place
        if event.do == "stop_reading":
            await self.call(self.others, "stop_reading")
            began = trio.current_time()
            async with trio.open_nursery() as callers:
                for _ in range(count):
                    callers.start_soon(self._padded)
        else:
            async with trio.open_nursery() as callers:
                await self.under_way(callers, count, self.struck)
                began = trio.current_time()
                await self._deal(event.do)
                if event.do == "freeze":
                    # The callers give up after a while, each by itself.
                    await trio.sleep(event.deadline or 0)
                    callers.cancel_scope.cancel()
                elif not event.dies:
                    place.go()
            if event.do == "freeze":
                self.struck = dict.fromkeys(self.struck, "deadline")
        if event.dies and count == 0 and event.do in ("kill", "exit", "close_stdout", "cut"):
            # R12: nobody is given a session that died while it was idle.
            await until(lambda: self.watch.deaths, NOTICED, "an idle death is noticed")
        self._ended(began)
        place.go()

    async def _padded(self) -> None:
        await self.call(self.struck, deadline=self.event.deadline, pad="x" * 200_000)

    async def _deal(self, how: str) -> None:
        place = self.place
        if how == "kill":
            place.signal(signal.SIGKILL)
        elif how == "freeze":
            place.signal(signal.SIGSTOP)
        elif how in ("restart", "away"):
            place.stop()
            if how == "restart":
                await trio.to_thread.run_sync(place.start)
        elif how == "cut":
            place.mode(streams="cut")
            await trio.sleep(0.2)  # the server looks every 50 ms
        else:
            place.mode(idle=how)
            place.signal(signal.SIGUSR1)
            if how in ("noise", "bad_utf8"):
                await trio.sleep(0.1)

    async def _play_connect(self, nursery: trio.Nursery, count: int) -> None:
        began = trio.current_time()
        async with trio.open_nursery() as callers:
            for _ in range(count):
                callers.start_soon(self.call, self.struck)
        self._ended(began)
        if self.event.do == "down":
            await trio.to_thread.run_sync(self.place.start)
        elif self.event.do == "no_command":
            assert self.place.command is not None
            Path(self.place.command).symlink_to(sys.executable)
        dials = self.pool.statistics().connects
        if dials != 1:
            self.record.faults.append(f"{dials} dials for {count} callers at once")
        # Left alone until the backoff ends: the next caller after that is served.
        await trio.sleep(POLICY.backoff.cap * 1.2)

    async def _play_close(self, nursery: trio.Nursery, count: int) -> None:
        raise AssertionError("closing is played by whoever opens the pool")

    async def _play_after(self) -> None:
        """The next calls, until one has its result."""
        event, place, after = self.event, self.place, self.record.after
        began = trio.current_time()
        if event.do == "away":
            after.append(await self.call(self.others) + " while away")
            await trio.to_thread.run_sync(place.start)
            await trio.sleep(POLICY.backoff.cap * 1.2)
        elif event.do == "freeze":
            if self.cell.load == "idle":
                after.append(await self.call(self.others, deadline=event.deadline))
            # The silence is noticed, and asked about.
            await until(lambda: self.watch.deaths, 5, "the frozen session is found dead")
            if place.process is not None:
                place.signal(signal.SIGCONT)
        while len(after) < 4:
            after.append(await self.call(self.others))
            if after[-1] == "result":
                break
            if event.spares and after[-1] in event.struck:
                # A probe, and a handshake beside the session, decide what comes next; until then it is as before.
                await trio.sleep(0.2)
                del after[:-1]
        self.record.after_seconds = trio.current_time() - began


async def _at_close(play: Play, servers: dict[str, Any], nursery: trio.Nursery) -> None:
    """Leave the pool: idle, by an exception while one call runs, by a cancellation while fifty run."""
    cell, count = play.cell, COUNT[play.cell.load]
    began = 0.0
    with trio.CancelScope() as outer:
        try:
            async with open_pool(servers, policy=POLICY, observers=[play.watch]) as pool, AsyncExitStack() as stack:
                play.pool = play.through = pool
                if cell.scoped:
                    play.through = await stack.enter_async_context(pool.open_scope("corner"))
                await play.call(play.others)
                await play.under_way(nursery, count, play.struck)
                if play.event.do == "frozen":
                    play.place.signal(signal.SIGSTOP)
                began = trio.current_time()
                if cell.load == "one":
                    raise _Leaving
                if cell.load == "fifty":
                    outer.cancel()
                    await trio.sleep_forever()
        except _Leaving:
            pass
    play._ended(began)
    if play.place.process is not None:
        play.place.signal(signal.SIGCONT)


async def _run(play: Play, leftovers: Leftovers) -> None:
    cell, place = play.cell, play.place
    play.place.mode(**play.event.mode)
    policy = POLICY
    tasks = trio.lowlevel.current_statistics().tasks_living
    if play.event.kind == "connect":
        policy = dataclasses.replace(POLICY, connect_timeout=1.0 if "mute" in play.event.name else 10)
    servers = {"s": place.server(policy)}
    if play.event.do == "down":
        place.stop()
    async with trio.open_nursery() as nursery:
        if play.event.kind == "close":
            await _at_close(play, servers, nursery)
        else:
            async with open_pool(servers, policy=POLICY, observers=[play.watch]) as pool, AsyncExitStack() as stack:
                play.pool = play.through = pool
                if cell.scoped:
                    play.through = await stack.enter_async_context(pool.open_scope("corner"))
                await play.play()
    if (now := trio.lowlevel.current_statistics().tasks_living) != tasks:
        play.record.faults.append(f"{now - tasks} tasks left")


def run_cell(cell: Cell) -> Record:
    """Play a cell from its beginning to its end. Synchronous: the cell has its own Trio run."""
    unraisable: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda u: unraisable.append(f"{u.err_msg}: {u.exc_value!r}")
    heard = Heard()
    logger = logging.getLogger("trio_mcp_pool")
    logger.addHandler(heard)
    for name in ("trio_mcp_pool", "mcp", "client", "httpx2"):
        logging.getLogger(name).propagate = False
        if not logging.getLogger(name).handlers:
            # Without a handler, Python prints warnings itself.
            logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("error")
            command = f"{folder}/server" if cell.event.do == "no_command" else None
            place = Place(Path(folder), cell.wire, command=command)
            leftovers = Leftovers()
            play = Play(cell, place)
            place.mode(**cell.event.mode)
            place.start()
            try:
                trio.run(_bounded, play, leftovers)
            except BaseException as exc:
                play.record.faults.append(f"the cell broke: {exc!r}"[:600])
            finally:
                place.stop()
            _judge(play, heard.lines, leftovers)
            # An SSE server that sends while its session is left finds the SDK's reader cancelled in the middle of its
            # generators. Mostly the wire prevents that; where not, nothing comes of it but a warning that is silent by default.
            play.record.faults += [one for one in unraisable if not (cell.wire == "sse" and "Async generator" in one)]
            return play.record
    finally:
        sys.unraisablehook = hook
        logger.removeHandler(heard)


def play_cell(cell: Cell) -> Record:
    """The same in a worker process, which says where it is and ends if even the bounds of a cell do not hold."""
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        return run_cell(cell)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _bounded(play: Play, leftovers: Leftovers) -> None:
    with trio.fail_after(45):
        await _run(play, leftovers)


def _judge(play: Play, warned: list[str], leftovers: Leftovers) -> None:
    """Compare what happened with what should."""
    cell, event, record, place = play.cell, play.event, play.record, play.place
    faults = record.faults
    record.struck = dict(Counter(play.struck.values()))
    record.siblings = dict(Counter(play.siblings.values()))
    executions = place.executions()
    calls = {**play.struck, **play.siblings}
    record.calls = len(calls)
    record.executed = sum(executions[one] > 0 for one in calls)
    record.twice = sorted(one for one, times in executions.items() if times > 1)
    if record.twice:
        faults.append(f"executed more than once: {record.twice}")
    # Every outcome must agree with the server's own count.
    for one, got in {**calls, **play.others}.items():
        if executions[one] and got.startswith(_NOT_RUN):
            faults.append(f"{one} got {got}, and was executed")
        if not executions[one] and got in _RUN:
            faults.append(f"{one} got {got}, and was never executed")
    if event.executed is not None:
        for one in play.struck:
            if bool(executions[one]) != event.executed:
                faults.append(f"{one} was {'not ' if event.executed else ''}executed")
    expected = event.expected(cell.scoped)
    if not set(record.struck) <= expected:
        faults.append(f"callers got {record.struck}, expected {sorted(expected)}")
    spared = {"OutcomeUnknownError"} if event.dies and not event.spares else {"result"}
    if not set(record.siblings) <= spared:
        faults.append(f"siblings got {record.siblings}, expected {sorted(spared)}")
    if event.kind != "close":
        wanted = expected_after(cell)
        after = list(record.after)
        while event.spares and after and after[0] in event.struck:
            del after[0]  # until a handshake beside the session has decided
        if tuple(after) not in wanted:
            faults.append(f"the next calls got {record.after}, expected one of {sorted(wanted)}")
    else:
        _judge_close(play, warned)
    if record.seconds > _bound(cell):
        faults.append(f"it took {record.seconds:.2f} s, expected at most {_bound(cell):.1f}")
    for pid in place.grandchildren():
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
            if event.do != "left":
                faults.append(f"grandchild {pid} was left running")
    faults += [f"left: {left}" for left in leftovers.find()]


def expected_after(cell: Cell) -> set[tuple[str, ...]]:
    """What the next callers may get, up to the first result."""
    event = cell.event
    told: tuple[str, ...] = ("SessionLostError", "result")
    fine: tuple[str, ...] = ("result",)
    if event.do == "away":
        return _after_away(cell)
    if event.kind == "connect" or not event.dies:
        return {fine}
    if event.do == "freeze" and cell.load == "idle":
        told, fine = ("deadline", *told), ("deadline", *fine)
    if event.do == "stop_reading" and cell.wire == "stdio-sdk":
        # The session dies when the second message waits for the first. That may be a next caller's.
        return {fine, told, ("OutcomeUnknownError", *told), ("OutcomeUnknownError", *fine)}
    if not cell.scoped or (event.do == "restart" and cell.wire == "http-modern"):
        # A modern server keeps nothing between requests, so nothing is lost.
        return {fine}
    # A scope's next caller is told once; not again where a caller was already.
    return {fine} if "SessionLostError" in event.expected(True) else {told}


def _after_away(cell: Cell) -> set[tuple[str, ...]]:
    away = {"ConnectError connect while away", "SessionLostError while away", "ServerUnavailableError while away"}
    ends: list[tuple[str, ...]] = [("result",)]
    if cell.scoped:
        ends = (
            [("SessionLostError", "result")] if cell.wire == "http-legacy" else [*ends, ("SessionLostError", "result")]
        )
    return {(first, *end) for first in away for end in ends}


def _bound(cell: Cell) -> float:
    """How long it may take until everybody knows, on a busy machine."""
    event = cell.event
    if event.kind == "close":
        return CLOSE_TIMEOUT + 1
    if "MB" in event.name and cell.wire == "stdio-sdk":
        return LIMIT  # its buffer takes time that grows with the square of the line
    if event.do in ("stop_reading", "restart") or "MB" in event.name or "mute" in event.name:
        return 8
    return 4


def _judge_close(play: Play, warned: list[str]) -> None:
    faults, closed, place = play.record.faults, play.watch.closed, play.place
    if closed is None:
        faults.append("there was no PoolClosed")
        return
    grandchildren = place.grandchildren()
    if play.event.do == "killed" or (play.event.do == "frozen" and place.wire in STDIO):
        missing = set(place.starts) - set(closed.killed)
    elif play.event.do == "swept":
        missing = set(grandchildren) - set(closed.killed)
    else:
        missing = set()
    if missing:
        faults.append(f"killed, and not in the last event: {sorted(missing)}, which has {closed.killed}")
    if play.event.do == "left":
        for pid in grandchildren:
            if pid not in closed.left_behind:
                faults.append(f"left behind, and not in the last event: {pid}")
            if not any(str(pid) in line for line in warned):
                faults.append(f"left behind, and no warning: {pid}")
    elif closed.left_behind:
        faults.append(f"left behind: {closed.left_behind}")
