"""A seeded random walk through everything that can be done to a pool.

Each seed is a walk of some hundreds of steps: callers acquire, hold, call, are cancelled, release, release twice; servers are
killed, stopped, made slow or broken; they are drained, removed, added, reconfigured; scopes open and end; time jumps; and
at the end, or in the middle, the program leaves, fails, is cancelled or interrupted. The books are looked at after every
event, and after every step. A failure names its seed: `STRESS_SEEDS=17` walks that one again, `STRESS_SEEDS=0-999` and
`STRESS_STEPS=5000` walk further than usual.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest
import trio

from trio_mcp_pool import (
    Backoff,
    ConnectError,
    LeaseEndedError,
    OutcomeUnknownError,
    Pool,
    PoolClosedError,
    PoolError,
    PoolPolicy,
    ScopedPool,
    Session,
    SessionLostError,
    UnknownServerError,
    open_pool,
)
from trio_mcp_pool.testing import Gate, ScriptedServer, error, never, ok, slow

from ._audit import Auditor, on_virtual_time

pytestmark = pytest.mark.exhaustive

STEPS = int(os.environ.get("STRESS_STEPS", "500"))
_first, _, _last = os.environ.get("STRESS_SEEDS", "0-23").partition("-")
SEEDS = range(int(_first), int(_last or _first) + 1)


class BodyError(Exception):
    pass


class Walk:
    """One walk: the servers, the callers that are about, and what was seen to be wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.auditor = Auditor()
        self.faults: list[str] = []
        self.all_servers: list[ScriptedServer] = []
        self.servers = {name: self.server() for name in "abc"}
        self.held: list[Session] = []
        self.scopes: list[trio.CancelScope] = []
        self.texts = 0
        self.leaving_at: float | None = None

    def policy(self) -> PoolPolicy:
        pick = self.random
        most = pick.randint(1, 3)
        return PoolPolicy(
            idle_timeout=pick.choice([0, 5, 50]),
            max_lifetime=pick.choice([10, 1e9]),
            min_sessions=pick.choice([0, 0, most]),
            max_sessions=most,
            max_in_flight=pick.choice([1, 2, 64]),
            max_waiting=pick.choice([None, None, 0, 3]),
            connect_timeout=5,
            acquire_timeout=pick.choice([3, 20]),
            drain_timeout=pick.choice([0, 4]),
            close_timeout=3,
            write_timeout=pick.choice([2, 1e9]),
            probe_interval=pick.choice([None, 4]),
            probe_timeout=pick.choice([2, 6]),
            backoff=Backoff(first=0.5, cap=4),
            when_unavailable=pick.choice(["fail", "wait"]),
        )

    def server(self) -> ScriptedServer:
        server = ScriptedServer(
            policy=self.policy(), trusted=False, eras=self.random.choice(["both", "legacy", "modern"])
        )
        self.all_servers.append(server)
        return server

    def gate(self, stage: str) -> Gate:
        return self.random.choice(
            [ok, ok, ok, ok, error(), slow(self.random.uniform(0, 3), shielded=stage == "close"), never]
        )

    # Callers. Each is a task with a cancel scope of its own.

    async def guarded(self, what: Callable[[Pool], object], pool: Pool) -> None:
        with trio.CancelScope() as scope:
            self.scopes.append(scope)
            try:
                await what(pool)  # type: ignore[misc]
            except (UnknownServerError, PoolError, trio.WouldBlock):
                pass
            except (RuntimeError, ValueError) as exc:
                if (
                    "holds every session" not in str(exc)
                    and "is open or in use" not in str(exc)
                    and "open_scope" not in str(exc)
                ):
                    self.faults.append(f"{what}: {exc!r}")
            except trio.Cancelled:
                raise
            except Exception as exc:
                self.faults.append(f"{what}: {exc!r}")
        self.scopes.remove(scope)

    async def call(self, via: Session | Pool | ScopedPool, server: str, **where: object) -> None:
        self.texts += 1
        text = str(self.texts)
        ran: Callable[[], int] = lambda: sum(  # noqa: E731
            call.arguments == {"text": text} for each in self.all_servers for call in each.calls
        )
        try:
            if isinstance(via, Session):
                await via.call_tool("echo", {"text": text})
            else:
                await via.call_tool(server, "echo", {"text": text}, **where)  # type: ignore[arg-type]
        except PoolError as exc:
            most = 1 if isinstance(exc, OutcomeUnknownError) else 0
            if ran() > most:
                self.faults.append(f"{text}: {exc!r}, but it ran {ran()} times")
            known = ConnectError | LeaseEndedError | OutcomeUnknownError | PoolClosedError | SessionLostError
            if isinstance(via, Session) and not isinstance(exc, known):
                self.faults.append(f"{text}: {exc!r} on a session")
            raise
        else:
            if ran() != 1:
                self.faults.append(f"{text}: answered, but it ran {ran()} times")

    def name(self) -> str:
        return self.random.choice("abc")

    async def verb(self, pool: Pool) -> None:
        await self.call(pool, self.name(), scope=self.random.choice([None, None, 1, 2]))

    async def hold(self, pool: Pool) -> None:
        async with pool.session(self.name(), scope=self.random.choice([None, 1])) as session:
            await trio.sleep(self.random.choice([0, 0.5, 2]))
            await self.call(session, "")
            await session.list_tools()

    async def acquire(self, pool: Pool) -> None:
        session = await pool.acquire(self.name())
        self.held.append(session)

    async def acquire_nowait(self, pool: Pool) -> None:
        self.held.append(pool.acquire_nowait(self.name(), scope=self.random.choice([None, 1, 3])))

    async def use_held(self, pool: Pool) -> None:
        if self.held:
            await self.call(self.random.choice(self.held), "")

    async def in_scope(self, pool: Pool) -> None:
        async with pool.open_scope(self.random.choice([None, None, 1, "x"])) as mine:
            for _ in range(self.random.randint(0, 3)):
                try:
                    await self.call(mine, self.name())
                except (SessionLostError, OutcomeUnknownError):
                    pass
                await trio.sleep(self.random.choice([0, 1]))
            if self.random.random() < 0.2:
                raise PoolError("the scope's body fails")

    async def drain(self, pool: Pool) -> None:
        await pool.drain(self.name())

    async def wait_ready(self, pool: Pool) -> None:
        await pool.wait_ready(self.name(), self.name())

    async def remove(self, pool: Pool) -> None:
        await pool.remove_server(self.name())

    async def add(self, pool: Pool) -> None:
        name = self.name()
        if name not in pool._names() and pool._core.closing is None:
            self.servers[name] = self.server()
            pool.add_server(name, self.servers[name])

    async def reconfigure(self, pool: Pool) -> None:
        name = self.name()
        servers = {**self.servers, name: self.server()}
        if self.random.random() < 0.3:
            del servers[self.random.choice(list(servers))]
        self.servers = servers
        await pool.reconfigure(servers)

    # What is done from outside, at once.

    def release(self) -> None:
        if self.held:
            session = self.random.choice(self.held)
            session.release()
            if self.random.random() < 0.5:
                session.release()
            if self.random.random() < 0.7:
                self.held.remove(session)

    def cancel(self) -> None:
        if self.scopes:
            self.random.choice(self.scopes).cancel()

    def kill(self) -> None:
        server = self.random.choice(self.all_servers)
        if server.connections:
            what = self.random.choice([server.kill, server.kill, server.stop, server.resume])
            what(self.random.randint(1, len(server.connections)))

    def break_something(self) -> None:
        server = self.random.choice(list(self.servers.values()) or self.all_servers)
        stage = self.random.choice(["spawn", "handshake", "call", "stream", "close"])
        gate = self.gate(stage)
        server.gates[stage] = (lambda _: gate) if stage == "stream" else gate
        if self.random.random() < 0.5:
            server.gates.clear()

    async def step(self, pool: Pool, nursery: trio.Nursery) -> None:
        pick = self.random.random()
        if pick < 0.45:
            callers = [
                self.verb, self.verb, self.verb, self.hold, self.hold, self.acquire, self.acquire, self.acquire_nowait,
                self.use_held, self.in_scope,
            ]  # fmt: skip
            nursery.start_soon(self.guarded, self.random.choice(callers), pool)
        elif pick < 0.50:
            changes = [self.drain, self.wait_ready, self.remove, self.add, self.add, self.add, self.reconfigure]
            nursery.start_soon(self.guarded, self.random.choice(changes), pool)
        elif pick < 0.60:
            self.release()
        elif pick < 0.67:
            self.cancel()
        elif pick < 0.70:
            self.kill()
        elif pick < 0.74:
            self.break_something()
        elif pick < 0.86:
            for _ in range(self.random.randint(1, 5)):
                await trio.lowlevel.checkpoint()
        elif pick < 0.98:
            await trio.sleep(self.random.uniform(0, 1))
        else:
            await trio.sleep(self.random.uniform(0, 20))

    # The walk.

    def leave(self) -> None:
        if self.leaving_at is None:
            self.leaving_at = trio.current_time()

    async def walk(self) -> None:
        tasks = trio.lowlevel.current_statistics().tasks_living
        ending = self.random.choice(["leave", "aclose", "raise", "cancel", "interrupt", "interrupt at any time"])
        length = self.random.randint(0, STEPS) if self.random.random() < 0.2 else STEPS
        outer = trio.CancelScope()
        clean = ending in ("leave", "aclose")
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with outer:
                        async with open_pool(
                            self.servers, max_connecting=self.random.randint(1, 4), observers=[self.auditor]
                        ) as pool:
                            self.auditor.pool = pool
                            if ending == "interrupt at any time":

                                @trio.lowlevel.enable_ki_protection  # so that it comes to the main task
                                async def interrupt() -> None:
                                    await trio.sleep(self.random.uniform(0, 200))
                                    self.leave()
                                    signal.raise_signal(signal.SIGINT)

                                nursery.start_soon(interrupt)
                            for n in range(length):
                                await self.step(pool, nursery)
                                self.auditor.check(f"step {n}")
                            if ending == "interrupt at any time":
                                await trio.sleep_forever()
                            self.leave()
                            if ending == "aclose":
                                await pool.aclose()
                            elif ending == "raise":
                                raise BodyError
                            elif ending == "cancel":
                                outer.cancel()
                                await trio.sleep_forever()
                            elif ending == "interrupt":
                                signal.raise_signal(signal.SIGINT)
                except (BodyError, KeyboardInterrupt):
                    pass
                assert self.leaving_at is not None
                took = trio.current_time() - self.leaving_at
                if took > 3 + 0.5 + (4 if clean else 0) + 1e-6:
                    self.faults.append(f"closing after {ending!r} took {took}")
                self.auditor.check_closed()
                for server in self.all_servers:
                    if server.open_connections:
                        self.faults.append(f"left open: {server.connections}")
                closed_at = trio.current_time()
                for session in self.held:
                    session.release()
            if trio.current_time() > closed_at + 5:
                self.faults.append(f"somebody waited until {trio.current_time()} for a pool closed at {closed_at}")
        finally:
            self.faults += self.auditor.faults
        if trio.lowlevel.current_statistics().tasks_living != tasks:
            self.faults.append("tasks are left")


def walk(seed: int) -> list[str]:
    """One walk; what was wrong in it."""
    random.seed(seed)
    steps = Walk(seed)
    try:
        on_virtual_time(steps.walk, seed=seed)
    except BaseException as exc:
        steps.faults.append(f"{exc!r} came out")
    return steps.faults


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_done_to_a_pool_its_books_balance_and_it_closes_in_time(seed: int) -> None:
    faults = walk(seed)
    assert not faults, f"STRESS_SEEDS={seed}: {len(faults)} faults, the first:\n" + "\n".join(faults[:10])
