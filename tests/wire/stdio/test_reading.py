"""A caller that waits for the only answer reads it itself, and whoever waits beside it or after it misses nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import mcp
import pytest
import trio
import trio.testing
from mcp.shared.dispatcher import OnNotify
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

from trio_mcp_pool._wire._link import current_call

from ..pipes import Asked, MemoryPipe, Rig, SystemPipe, line, rig

settled = trio.testing.wait_all_tasks_blocked


@pytest.fixture(params=["in memory", "of the system"])
async def pipe(request: pytest.FixtureRequest) -> AsyncIterator[MemoryPipe]:
    """A byte pipe, of either kind."""
    if request.param == "in memory":
        yield MemoryPipe()
    else:
        system = SystemPipe()
        yield system
        system.close()


async def done(*calls: Asked) -> None:
    """Wait until these have ended."""
    with trio.fail_after(5):
        while any(call.done_at is None for call in calls):
            await trio.sleep(0)


def closed(call: Asked) -> bool:
    return isinstance(call.error, mcp.MCPError) and call.error.code == CONNECTION_CLOSED


def notice(n: int) -> bytes:
    return line({"jsonrpc": "2.0", "method": "n", "params": {"n": n}})


def answer(request_id: int) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "result": {"to": request_id}})


def listener() -> tuple[list[int], OnNotify]:
    """The notices heard, and what hears them."""
    heard: list[int] = []

    async def on_notify(context: Any, method: str, params: Any) -> None:
        await trio.lowlevel.checkpoint()
        heard.append(params["n"])

    return heard, on_notify


class Steps(trio.abc.Instrument):
    """The tasks of a rig that run, step by step."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        for name in ("Asked.run", "Dispatcher.run"):
            if name in task.name:
                self.tasks.append(name)


async def test_no_other_task_runs_between_the_only_answer_and_its_caller() -> None:
    pipe = SystemPipe()
    async with rig(pipe=pipe) as r:
        for n in (1, 2, 3):
            call = r.start_call()
            await settled()
            steps = Steps()
            pipe.give(answer(n))
            trio.lowlevel.add_instrument(steps)
            await done(call)
            trio.lowlevel.remove_instrument(steps)
            assert call.result == {"to": n}
            assert steps.tasks[0] == "Asked.run"
    pipe.close()


async def test_what_comes_after_the_answer_is_read_all_the_same(pipe: MemoryPipe) -> None:
    heard, on_notify = listener()
    async with rig(pipe=pipe, on_notify=on_notify) as r:
        for n in range(1, 4):
            call = r.start_call()
            await settled()
            pipe.give(answer(n))
            await done(call)
            pipe.give(notice(n))
            await settled()
        assert heard == [1, 2, 3]
        pipe.end()
        await settled()
        assert r.link.is_lost


async def test_what_else_the_reader_reads_does_not_find_its_context_variables(pipe: MemoryPipe) -> None:
    found: list[Any] = []

    async def on_notify(context: Any, method: str, params: Any) -> None:
        await trio.lowlevel.checkpoint()
        found.append(current_call.get())

    async with rig(pipe=pipe, on_notify=on_notify) as r:
        call = r.start_call()
        await settled()
        pipe.give(notice(1))
        await settled()
        pipe.give(answer(1))
        await done(call)
        assert found == [None]


CHUNKS: dict[str, list[bytes]] = {
    "a line before": [notice(1), answer(1)],
    "in one chunk with a line before": [notice(1) + answer(1)],
    "in one chunk with a line behind": [answer(1) + notice(1)],
    "in pieces": [answer(1)[:9], answer(1)[9:20], answer(1)[20:] + notice(1)],
    "with the start of the next": [answer(1) + notice(1)[:9], notice(1)[9:]],
    "behind half a line": [notice(1)[:9], notice(1)[9:], answer(1)],
    "behind a blank line": [b" \n", notice(1), b"\n", answer(1)],
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
async def test_an_answer_is_found_however_it_comes(chunks: list[bytes], pipe: MemoryPipe) -> None:
    heard, on_notify = listener()
    async with rig(pipe=pipe, on_notify=on_notify) as r:
        call = r.start_call()
        await settled()
        for chunk in chunks:
            pipe.give(chunk)
            await settled()
        await done(call)
        await settled()
        assert (call.result, heard) == ({"to": 1}, [1])


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)])
@pytest.mark.parametrize("together", [False, True])
async def test_those_who_come_while_one_reads_get_theirs(
    order: tuple[int, ...], together: bool, pipe: MemoryPipe
) -> None:
    async with rig(pipe=pipe) as r:
        calls = []
        for _ in order:
            calls.append(r.start_call())
            await settled()
        if together:
            pipe.give(b"".join(map(answer, order)))
        else:
            for n in order:
                pipe.give(answer(n))
                await done(calls[n - 1])
        await done(*calls)
        assert [call.result for call in calls] == [{"to": 1}, {"to": 2}, {"to": 3}]
        assert r.pending == 0


async def test_a_cancelled_reader_leaves_the_others_their_answers(pipe: MemoryPipe) -> None:
    async with rig(pipe=pipe) as r:
        first = r.start_call()
        await settled()
        second = r.start_call()
        await settled()
        first.scope.cancel()
        await done(first)
        pipe.give(answer(1), answer(2))
        await done(second)
        assert (first.result, first.error, second.result) == (None, None, {"to": 2})
        await settled()
        assert pipe.messages()[-1]["params"]["requestId"] == 1
        third = r.start_call()
        await settled()
        pipe.give(answer(3))
        await done(third)
        assert third.result == {"to": 3}


@pytest.mark.parametrize("first", ["answer", "cancellation"])
async def test_an_answer_and_a_cancellation_in_the_same_tick(first: str, pipe: MemoryPipe) -> None:
    async with rig(pipe=pipe) as r:
        call = r.start_call()
        await settled()
        if first == "answer":
            pipe.give(answer(1))
            call.scope.cancel()
        else:
            call.scope.cancel()
            pipe.give(answer(1))
        await done(call)
        assert call.error is None
        assert call.result in (None, {"to": 1})
        await settled()
        after = r.start_call()
        await settled()
        pipe.give(answer(2))
        await done(after)
        assert (after.result, r.pending) == ({"to": 2}, 0)


async def test_a_reader_whose_time_is_over_is_told_so() -> None:
    pipe = SystemPipe()
    async with rig(pipe=pipe) as r:
        call = r.start_call(opts={"timeout": 0.01})
        await done(call)
        assert isinstance(call.error, mcp.MCPError)
        assert call.error.code == REQUEST_TIMEOUT
        pipe.give(answer(1))
        await settled()
        assert not r.link.is_lost
    pipe.close()


def end_of_stream(r: Rig) -> None:
    r.pipe.end()


def broken_pipe(r: Rig) -> None:
    r.dispatcher.channel.end(BrokenPipeError())


def ended_process(r: Rig) -> None:
    r.dispatcher.channel.end(None)


@pytest.mark.parametrize("strike", [end_of_stream, broken_pipe, ended_process])
@pytest.mark.parametrize("answered", [False, True])
async def test_R12_a_death_while_a_caller_reads_is_found_at_once_and_a_last_answer_is_not_lost(
    strike: Callable[[Rig], None], answered: bool, pipe: MemoryPipe
) -> None:
    async with rig(pipe=pipe) as r:
        call = r.start_call()
        await settled()
        if answered:
            pipe.give(answer(1))
        strike(r)
        await done(call)
        await settled()
        assert call.result == {"to": 1} if answered else closed(call)
        assert r.link.is_lost


async def test_R15_a_reader_whose_connection_closes_goes_on_in_that_tick(pipe: MemoryPipe) -> None:
    async with rig(pipe=pipe) as r:
        call = r.start_call()
        await settled()
        call.call.cut("the connection closes")
        await settled()
        assert closed(call)
        beside = r.start_call()
        await settled()
        pipe.give(answer(1), answer(2))
        await done(beside)
        assert beside.result == {"to": 2}


async def test_R15_a_reader_is_let_go_when_the_session_is_left(pipe: MemoryPipe) -> None:
    async with trio.open_nursery() as outer:
        async with rig(pipe=pipe) as r:
            call = Asked(r.link)
            outer.start_soon(call.run, r.dispatcher, "m", None, None)
            await settled()
        await done(call)
        assert closed(call)


def test_R17_control_C_while_the_main_task_reads_leaves_the_pipe_to_the_others() -> None:
    async def main() -> None:
        pipe = SystemPipe()
        async with rig(pipe=pipe) as r:

            @trio.lowlevel.enable_ki_protection
            async def strike() -> None:
                await settled()
                beside.append(r.start_call())
                await settled()
                signal.raise_signal(signal.SIGINT)

            beside: list[Asked] = []
            r.nursery.start_soon(strike)
            with pytest.raises(KeyboardInterrupt):
                await r.dispatcher.send_raw_request("m", None)
            pipe.give(answer(1), answer(2))
            await done(*beside)
            assert beside[0].result == {"to": 2}
        pipe.close()

    trio.run(main)


async def test_R19_callers_that_read_do_not_read_past_a_full_house() -> None:
    pipe = MemoryPipe()
    gate = trio.Event()

    async def on_notify(context: Any, method: str, params: Any) -> None:
        await gate.wait()

    async with rig(pipe=pipe, on_notify=on_notify) as r:
        pipe.give(*[notice(n) for n in range(600)])
        await settled()
        assert r.dispatcher.full
        before = len(pipe._chunks)
        call = r.start_call()
        await settled()
        assert len(pipe._chunks) == before > 0
        gate.set()
        pipe.give(answer(1))
        await done(call)
        assert call.result == {"to": 1}
