"""Every combination of what can happen at the five stages of a session, with callers cancelled and the pool closed in it.

Four gates at five stages are 1,024 servers. Each is given to the same handful of callers, some of which are cancelled at
moments drawn from the combination's own seed, and the pool is closed at four different points of its life, in four
different ways. Whatever happens: it ends within the time that the policy allows, each caller gets one outcome, and one that
is true, the books balance after every event, no tool runs twice, and nothing is left.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    OutcomeUnknownError,
    Pool,
    PoolClosedError,
    PoolError,
    PoolPolicy,
    SessionLostError,
    open_pool,
)
from trio_mcp_pool.testing import Gate, ScriptedServer, error, never, ok, slow

from ._audit import Auditor, on_virtual_time

pytestmark = pytest.mark.exhaustive

STAGES = ("spawn", "handshake", "call", "stream", "close")
GATES = ("ok", "error", "slow", "never")
MOMENTS = ("dialling", "calling", "idle", "closing")
WAYS = ("leave", "aclose", "raise", "cancel")

POLICY = PoolPolicy(
    idle_timeout=100,
    max_sessions=2,
    max_in_flight=2,
    connect_timeout=5,
    drain_timeout=4,
    close_timeout=3,
    write_timeout=5,
    probe_timeout=5,
    backoff=Backoff(first=1, cap=4),
)
CLOSING = POLICY.close_timeout + 0.5  # and a moment for clean-up that shields itself
PATIENCE = 20  # of a caller, in seconds, when nobody cancels it before


class BodyError(Exception):
    pass


@dataclass
class Scenario:
    gates: dict[str, str]
    moment: str
    way: str
    seed: str
    faults: list[str] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.server = ScriptedServer()
        for stage, name in self.gates.items():
            gate = self._gate(stage, name)
            # Dealt out one by one, gates of the stage `stream` spare the listing of tools at the end of a dial.
            dealt = stage == "stream" and self.random.random() < 0.7
            self.server.gates[stage] = (lambda _, gate=gate: gate) if dealt else gate
        self.auditor = Auditor()
        self.callers: dict[str, Callable[[Pool, str], Awaitable[None]]] = {
            "verb": self.verb,
            "impatient": self.verb,
            "session": self.session,
            "holder": self.holder,
            "scope": self.scope,
            "late": self.verb,
            "last": self.verb,
        }

    def _gate(self, stage: str, name: str) -> Gate:
        if name == "slow":
            return slow(1, shielded=stage == "close" and self.random.random() < 0.5)
        return {"ok": ok, "error": error(), "never": never}[name]

    # What callers do. Each call has a text of its own, by which its executions are counted.

    async def verb(self, pool: Pool, me: str) -> None:
        await self.call(me, lambda: pool.call_tool("s", "echo", {"text": me}))

    async def session(self, pool: Pool, me: str) -> None:
        async with pool.session("s") as session:
            for n in range(2):
                text = f"{me} {n}"
                await self.call(text, lambda text=text: session.call_tool("echo", {"text": text}))

    async def holder(self, pool: Pool, me: str) -> None:
        session = await pool.acquire("s")
        try:
            await trio.sleep(self.random.uniform(0, 3))
            await self.call(me, lambda: session.call_tool("echo", {"text": me}))
        finally:
            session.release()
            session.release()

    async def scope(self, pool: Pool, me: str) -> None:
        async with pool.open_scope() as mine:
            for n in range(2):
                text = f"{me} {n}"
                await self.call(text, lambda text=text: mine.call_tool("s", "echo", {"text": text}))

    async def call(self, text: str, verb: Callable[[], Awaitable[Any]]) -> None:
        """One call, and whether what it came to is true."""
        try:
            result = await verb()
        except PoolError as exc:
            self.judge(text, exc)
            raise
        ran = self.executions(text)
        if ran != 1:
            self.faults.append(f"{text}: got a result, but ran {ran} times")
        if result.is_error != (self.gates["call"] == "error"):
            self.faults.append(f"{text}: got {result}")

    def executions(self, text: str) -> int:
        return sum(call.arguments == {"text": text} for call in self.server.calls)

    def judge(self, text: str, exc: PoolError) -> None:
        if not isinstance(exc, ConnectError | OutcomeUnknownError | PoolClosedError | SessionLostError):
            self.faults.append(f"{text}: {exc!r} is no outcome of this scenario")
        if not isinstance(exc, OutcomeUnknownError) and self.executions(text):
            self.faults.append(f"{text}: told {exc!r}, but the tool ran")
        broken = {self.gates["spawn"], self.gates["handshake"], self.gates["stream"]} & {"error", "never"}
        if isinstance(exc, ConnectError) and not broken:
            self.faults.append(f"{text}: {exc!r} from a server that can be reached")

    # The run.

    async def caller(self, pool: Pool, me: str) -> None:
        patience = self.random.choice([PATIENCE, self.random.uniform(0, 8)])
        start = self.random.uniform(0, 6) if me == "late" else 15 if me == "last" else 0
        await trio.sleep(start)
        with trio.move_on_after(patience) as scope:
            try:
                await self.callers[me](pool, me)
                outcome = "done"
            except PoolError as exc:
                outcome = type(exc).__name__
                self.judge(me, exc) if me in ("verb", "late") else None
            except BaseException as exc:
                outcome = repr(exc)
                if not isinstance(exc, trio.Cancelled):
                    self.faults.append(f"{me}: {exc!r}")
                raise
            finally:
                self.ended_at[me] = trio.current_time()
                assert me not in self.outcomes
                self.outcomes[me] = outcome
        if scope.cancelled_caught and self.ended_at[me] > start + patience + CLOSING and me != "scope":
            self.faults.append(f"{me}: cancelled at {start + patience}, gone at {self.ended_at[me]}")

    async def body(self, pool: Pool) -> None:
        if self.moment == "dialling":
            for _ in range(self.random.randrange(5)):
                await trio.lowlevel.checkpoint()
        elif self.moment == "calling":
            await trio.sleep(self.random.uniform(0.5, 4.5))
        else:
            await trio.sleep(6 + 15 + PATIENCE if self.moment == "idle" else self.random.uniform(0, 4))
        if self.moment == "closing":
            with trio.move_on_after(0.5):
                await pool.drain("s")
        self.closing_at = trio.current_time()
        if self.way == "aclose":
            await pool.aclose()
        elif self.way == "raise":
            raise BodyError
        elif self.way == "cancel":
            self.outer.cancel()
            await trio.sleep_forever()

    async def main(self) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as self.outer:
                try:
                    async with open_pool({"s": self.server}, policy=POLICY, observers=[self.auditor]) as pool:
                        self.auditor.pool = pool
                        for me in self.callers:
                            nursery.start_soon(self.caller, pool, me)
                        await self.body(pool)
                    if self.way == "raise":
                        self.faults.append("the body's error is gone")
                except BodyError:
                    pass
            closed_at = trio.current_time()
            bound = CLOSING + (POLICY.drain_timeout if self.way in ("leave", "aclose") else 0)
            if closed_at > self.closing_at + bound + 1e-6:
                self.faults.append(f"closing began at {self.closing_at} and ended at {closed_at}")
            self.auditor.check_closed()
            if self.server.open_connections:
                self.faults.append(f"left open: {self.server.connections}")
        if set(self.outcomes) != set(self.callers):
            self.faults.append(f"outcomes: {self.outcomes}")
        for me, at in self.ended_at.items():
            # Nobody waits for a closed pool: only those who had yet to start, or slept with a session in hand.
            if at > closed_at + 3 + 1e-6 and me not in ("late", "last"):
                self.faults.append(f"{me} was still there at {at}, the pool closed at {closed_at}")
        for text in {call.arguments["text"] for call in self.server.calls}:
            if self.executions(text) > 1:
                self.faults.append(f"{text} ran {self.executions(text)} times")
        if trio.lowlevel.current_statistics().tasks_living != tasks:
            self.faults.append("tasks are left")
        if trio.current_time() > self.closing_at + 60:
            self.faults.append(f"it took until {trio.current_time()}")
        self.faults += self.auditor.faults


def run(seed: str, gates: dict[str, str], moment: str, way: str) -> Scenario:
    """One scenario; its seed is what `random` is seeded with, so that a failure comes back."""
    random.seed(seed)
    scenario = Scenario(gates, moment, way, seed)
    try:
        on_virtual_time(scenario.main, seed=seed)
    except BaseException as exc:  # collected like every other fault
        scenario.faults.append(f"{exc!r} came out")
        if isinstance(exc, KeyboardInterrupt):
            raise
    return scenario


@pytest.mark.parametrize("handshake", GATES)
@pytest.mark.parametrize("spawn", GATES)
def test_whatever_a_server_does_and_whenever_the_pool_closes_all_ends_well(spawn: str, handshake: str) -> None:
    failures: list[str] = []
    rest = itertools.product(GATES, repeat=3)
    for n, (call, stream, close) in enumerate(rest):
        gates = dict(zip(STAGES, (spawn, handshake, call, stream, close), strict=True))
        for m, moment in enumerate(MOMENTS):
            # Every way of closing meets every moment, in turn.
            way = WAYS[(n + n // 4 + n // 16 + m + len(spawn)) % 4]
            seed = f"{'-'.join(gates.values())} {moment} {way}"
            failures += [f"{seed}: {fault}" for fault in run(seed, gates, moment, way).faults]
    assert not failures, f"{len(failures)} faults, the first:\n" + "\n".join(failures[:20])
