"""`python -m tests.soak`: random load on ten servers that are killed, stopped, slowed and restarted at random.

Six stdio servers, one on the SDK's wire, and four HTTP servers of both eras. Each call has a deadline and ends
in its result, its deadline, or one typed error. Afterwards each execution is held against the servers' own logs: no call ran
twice, none that had a result did not run, none that was told 'not run' did. Tasks, descriptors and children at the end must be
those of the start, and the memory within 5 % of what it was after a warm-up.

`--seconds` (default 120), `--seed` (default: from the clock, printed). The exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.faults.place import Leftovers, Place, Wire
from tests.faults.play import outcome
from trio_mcp_pool import Backoff, Pool, PoolError, PoolPolicy, ScopedPool, open_pool

WIRES: tuple[Wire, ...] = (
    "stdio", "stdio", "stdio", "stdio", "stdio", "stdio-sdk", "http-legacy", "http-legacy", "http-modern", "http-modern",
)  # fmt: skip
POLICY = PoolPolicy(
    max_sessions=2,
    max_in_flight=16,
    idle_timeout=2,
    connect_timeout=5,
    close_timeout=1,
    drain_timeout=1,
    write_timeout=1,
    probe_timeout=0.5,
    backoff=Backoff(first=0.05, cap=0.5),
)
_CALLERS = 30
_WARM_UP = 1 / 3
"""The share of the time after which the memory is measured first."""
_NOT_RUN = ("SessionLostError", "ConnectError", "AuthenticationError", "ServerUnavailableError")


@dataclass
class Report:
    """What came of a soak."""

    seed: int
    seconds: float
    outcomes: Counter[str] = field(default_factory=Counter)
    blows: Counter[str] = field(default_factory=Counter)
    executed: int = 0
    sessions: int = 0
    lost: int = 0
    memory: tuple[float, float] = (0.0, 0.0)
    """MiB after the warm-up and at the end."""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def counts(counter: Counter[str]) -> str:
            return ", ".join(f"{number} {name}" for name, number in counter.most_common())

        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds:g} s",
                f"calls: {sum(self.outcomes.values())}: {counts(self.outcomes)}",
                f"executed: {self.executed}",
                f"blows: {counts(self.blows)}",
                f"sessions: {self.sessions} dialled, {self.lost} lost",
                f"memory: {self.memory[0]:.1f} MiB after the warm-up, {self.memory[1]:.1f} MiB at the end",
                *self.faults,
                "stands" if not self.faults else "DOES NOT STAND",
            ]
        )


def memory() -> float:
    """The resident set of this process in MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024 / 1024


class Soak:
    """One run."""

    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self.random = random.Random(seed)
        self.report = Report(seed, seconds)
        self.places: dict[str, Place] = {}
        self.told: dict[str, tuple[str, str]] = {}
        """What each call got, by its id."""
        self.ids = 0
        for number, wire in enumerate(WIRES):
            place = Place(folder / f"s{number}", wire)
            place.folder.mkdir()
            place.start()
            self.places[f"s{number}"] = place

    async def run(self) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        seconds, report = self.report.seconds, self.report
        servers = {name: place.server() for name, place in self.places.items()}
        end = trio.current_time() + seconds
        async with open_pool(servers, policy=POLICY) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(_CALLERS):
                    nursery.start_soon(self._calls, pool, end)
                for name in self.places:
                    nursery.start_soon(self._harm, name, end)
                await trio.sleep(seconds * _WARM_UP)
                first = memory()
            stats = pool.statistics()
            report.sessions, report.lost = stats.connects, stats.sessions_lost
        report.memory = first, memory()
        if (now := trio.lowlevel.current_statistics().tasks_living) != tasks:
            report.faults.append(f"{now - tasks} tasks left")

    # Load.

    async def _calls(self, pool: Pool, end: float) -> None:
        while trio.current_time() < end:
            if self.random.random() < 0.05:
                async with pool.open_scope() as corner:
                    for _ in range(5):
                        await self._call(corner)
            else:
                await self._call(pool)
            await trio.sleep(self.random.random() * 0.1)

    async def _call(self, through: Pool | ScopedPool) -> None:
        name = self.random.choice(list(self.places))
        self.ids += 1
        call_id = f"c{self.ids}"
        do = self.random.choices(("ok", "tool_error", "rpc_error", "never"), (90, 4, 4, 2))[0]
        deadline = self.random.choice((0.05, 0.5, 2.0))
        began = trio.current_time()
        got = "deadline"
        with trio.move_on_after(deadline):
            try:
                result = await through.call_tool(name, "act", {"id": call_id, "do": do})
            except Exception as exc:
                got = outcome(exc)
                if not isinstance(exc, PoolError) and got != "MCPError -32050":
                    self.report.faults.append(f"{call_id} on {name} got {exc!r}")
            else:
                got = "tool error" if result.is_error else "result"
        if (late := trio.current_time() - began - deadline) > 2:
            self.report.faults.append(f"{call_id} on {name} came {late:.1f} s after its deadline")
        self.told[call_id] = name, got
        self.report.outcomes[got] += 1

    # Harm.

    async def _harm(self, name: str, end: float) -> None:
        place = self.places[name]
        while trio.current_time() < end:
            await trio.sleep(0.5 + self.random.random() * 3)
            blow = self.random.choice(("kill", "stop", "slow"))
            self.report.blows[blow] += 1
            with suppress(ProcessLookupError, IndexError):
                if place.process is not None:
                    await self._harm_http(place, blow)
                else:
                    await self._harm_stdio(place, blow)

    async def _harm_stdio(self, place: Place, blow: str) -> None:
        # Only what is still a child of ours: a number may have been given to somebody else since.
        pids = [pid for pid in place.starts[-3:] if Path(f"/proc/{pid}/cwd").exists()]
        if not pids:
            return
        if blow == "kill":
            place.signal(signal.SIGKILL)
            return
        place.signal(signal.SIGSTOP)
        await trio.sleep(1.5 if blow == "stop" else 0.2)
        place.signal(signal.SIGCONT)

    async def _harm_http(self, place: Place, blow: str) -> None:
        if blow == "kill":
            place.stop()
            await trio.sleep(self.random.random())
            await trio.to_thread.run_sync(place.start)
            return
        place.signal(signal.SIGSTOP)
        await trio.sleep(1.5 if blow == "stop" else 0.2)
        place.signal(signal.SIGCONT)

    def judge(self) -> None:
        """Hold what callers were told against what the servers wrote down."""
        report = self.report
        executions = Counter[str]()
        for place in self.places.values():
            executions += place.executions()
        report.executed = sum(executions.values())
        for call_id, times in executions.items():
            if times > 1:
                report.faults.append(f"{call_id} on {self.told[call_id]} was executed {times} times")
            if call_id not in self.told:
                report.faults.append(f"{call_id} was executed, and nobody called it")
        for call_id, (name, got) in self.told.items():
            if executions[call_id] and got.startswith(_NOT_RUN):
                report.faults.append(f"{call_id} on {name} got {got}, and was executed")
            if not executions[call_id] and got in ("result", "tool error", "MCPError -32050"):
                report.faults.append(f"{call_id} on {name} got {got}, and was never executed")


def soak(seconds: float, seed: int, *, check_memory: bool = True) -> Report:
    """One run from beginning to end, synchronous."""
    for name in ("trio_mcp_pool", "mcp", "client", "httpx2"):
        logging.getLogger(name).propagate = False
        if not logging.getLogger(name).handlers:
            # Without a handler, Python prints warnings itself.
            logging.getLogger(name).addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        leftovers = Leftovers()
        run = Soak(seed, seconds, Path(folder))

        async def bounded(*_: Any) -> None:
            with trio.fail_after(seconds + 30):
                await run.run()

        try:
            trio.run(bounded)
        finally:
            for place in run.places.values():
                place.stop()
        run.judge()
    report = run.report
    report.faults += [f"left: {left}" for left in leftovers.find()]
    first, last = report.memory
    if check_memory and last > first * 1.05:
        report.faults.append(f"memory grew from {first:.1f} to {last:.1f} MiB")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    report = soak(options.seconds, int(time.time()) if options.seed is None else options.seed)
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
