"""Gates: what happens at each stage of a scripted session.

A session passes five stages, and at each stands a gate. A gate lets the session through (`ok`), breaks it (`error`), keeps
it for a while (`slow`), keeps it for ever (`never`), or keeps it until the test says so (`hold`). Whatever a server can do
to its client, short of lying, is some combination of the five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final, get_args

import trio

Stage: TypeAlias = Literal["spawn", "handshake", "call", "stream", "close"]
"""The stages that have a gate, in the order in which a session meets them."""

STAGES: tuple[str, ...] = get_args(Stage)

Failure: TypeAlias = BaseException | Callable[[], BaseException]


class Gate:
    """What happens at one passage of one stage. Use the ready-made ones: `ok`, `error`, `slow`, `never`, `hold`."""

    __slots__ = ()

    async def _pass(self) -> None:
        """Stand at the gate. Returns when it lets through, raises when it breaks."""


@final
class _Ok(Gate):
    __slots__ = ()

    def __repr__(self) -> str:
        return "ok"


@final
class _Never(Gate):
    __slots__ = ()

    async def _pass(self) -> None:
        await trio.sleep_forever()

    def __repr__(self) -> str:
        return "never"


@final
@dataclass(frozen=True, repr=False)
class Error(Gate):
    """A gate that breaks the session. Made by `error()`."""

    failure: Failure

    def _make(self) -> BaseException:
        if isinstance(self.failure, BaseException):
            return self.failure
        made = self.failure()
        if not isinstance(made, BaseException):
            raise TypeError(f"error() was given a callable that returned {made!r} instead of an exception")
        return made

    async def _pass(self) -> None:
        raise self._make()

    def __repr__(self) -> str:
        return f"error({self.failure!r})"


@final
@dataclass(frozen=True, repr=False)
class Slow(Gate):
    """A gate that takes time. Made by `slow()`."""

    seconds: float
    shielded: bool = False

    async def _pass(self) -> None:
        with trio.CancelScope(shield=self.shielded):
            await trio.sleep(self.seconds)

    def __repr__(self) -> str:
        return f"slow({self.seconds!r}{', shielded=True' if self.shielded else ''})"


@final
class Hold(Gate):
    """A gate that stays shut until `open()` is called. Made by `hold()`."""

    __slots__ = ("_opened",)

    def __init__(self) -> None:
        self._opened = trio.Event()

    def open(self) -> None:
        """Let through all that wait at this gate, and all that come later. Synchronous, idempotent."""
        self._opened.set()

    async def _pass(self) -> None:
        await self._opened.wait()

    def __repr__(self) -> str:
        return f"<hold, {'open' if self._opened.is_set() else 'shut'}>"


ok: Gate = _Ok()
"""Let it through."""

never: Gate = _Never()
"""Keep it until it is cancelled."""


def error(failure: Failure | None = None) -> Gate:
    """Break it: `error(FileNotFoundError("no-such-server"))`.

    `failure` is an exception, raised as it is at every passage, or a class or function that makes a fresh one for each.
    Default: a `ConnectionError`.
    """
    if failure is None:
        failure = _scripted_failure
    if not isinstance(failure, BaseException) and not callable(failure):
        raise TypeError(f"error() takes an exception or a callable that makes one, not {type(failure).__name__}")
    return Error(failure)


def _scripted_failure() -> BaseException:
    return ConnectionError("scripted failure")


def slow(seconds: float, *, shielded: bool = False) -> Gate:
    """Let it through after `seconds` on Trio's clock.

    With `shielded=True` the wait cannot be cancelled, as the MCP SDK's own closing of a child cannot for up to 4 s.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"slow() takes a number of seconds, not {type(seconds).__name__}")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"slow() takes a finite number of seconds of at least 0, not {seconds!r}")
    return Slow(float(seconds), shielded)


def hold() -> Hold:
    """Keep it until the test calls `open()` on the gate that this returns.

    Dials wait there until then:

        gate = server.gates["handshake"] = hold()
        ...
        gate.open()
    """
    return Hold()


Gates: TypeAlias = Gate | Sequence[Gate] | Iterator[Gate] | Callable[[int], Gate]
"""What a stage can be given: one gate for all passages, or gates for one passage after the other."""


def _check(stage: str, value: Any) -> None:
    if value in (error, slow, hold):
        raise TypeError(
            f"gates[{stage!r}] was given the function {value.__name__}: call it, as in {value.__name__}(...)"
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        for position, item in enumerate(value):
            if not isinstance(item, Gate):
                raise TypeError(
                    f"gates[{stage!r}][{position}] must be ok, error(...), slow(...) or never, not {item!r}"
                )
    elif not isinstance(value, Gate | Iterator) and not callable(value):
        raise TypeError(
            f"gates[{stage!r}] must be ok, error(...), slow(...) or never, or several of them, not {value!r}"
        )


@final
class GateTable(MutableMapping[str, Any]):
    """The gates of one server, by stage. All are `ok` at first.

    A stage is given one gate, which then holds for every passage, or several:

    - a sequence or an iterator: one gate per passage, in order; when they are used up, `ok`.
      `gates["spawn"] = [error(OSError), error(OSError)]` makes the first two dials fail.
    - a function: called with the number of the passage, from 1, and returns its gate.

    A gate is looked up when it is reached: setting another one changes nothing for a dial or request that waits at the old
    one already.
    Raises `KeyError` for a stage that does not exist, `TypeError` for a value that is no gate.
    """

    def __init__(self, gates: dict[str, Any] | None = None) -> None:
        self._given: dict[str, Any] = dict.fromkeys(STAGES, ok)
        self._rest: dict[str, Iterator[Gate] | None] = {}
        self.passages: dict[str, int] = dict.fromkeys(STAGES, 0)
        """How often each stage was reached."""
        self.update(gates or {})

    def _stage(self, stage: object) -> str:
        if not isinstance(stage, str) or stage not in self._given:
            raise KeyError(f"no stage {stage!r}: the stages are {', '.join(STAGES)}")
        return stage

    def __getitem__(self, stage: str) -> Any:
        return self._given[self._stage(stage)]

    def __setitem__(self, stage: str, gate: Any) -> None:
        name = self._stage(stage)
        _check(name, gate)
        self._given[name] = gate
        several = isinstance(gate, Sequence | Iterator)
        self._rest[name] = iter(gate) if several else None

    def __delitem__(self, stage: str) -> None:
        """Back to `ok`."""
        self[stage] = ok

    def clear(self) -> None:
        """All stages back to `ok`. The inherited way would wait for the table to become empty, which it never does."""
        for stage in STAGES:
            self[stage] = ok

    def __iter__(self) -> Iterator[str]:
        return iter(STAGES)

    def __len__(self) -> int:
        return len(STAGES)

    def __repr__(self) -> str:
        shut = ", ".join(f"{stage}={gate!r}" for stage, gate in self._given.items() if gate is not ok)
        return f"<gates {shut or 'all ok'}>"

    def _draw(self, stage: Stage) -> Gate:
        """The gate for the next passage of `stage`."""
        self.passages[stage] += 1
        given, rest = self._given[stage], self._rest.get(stage)
        gate = next(rest, ok) if rest is not None else given
        if not isinstance(gate, Gate):
            gate = gate(self.passages[stage])
        if not isinstance(gate, Gate):
            raise TypeError(f"gates[{stage!r}] gave {gate!r} for passage {self.passages[stage]} instead of a gate")
        return gate
