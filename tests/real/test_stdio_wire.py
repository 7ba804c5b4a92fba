"""Both stdio wires on real processes: what the server does wrong, and what is left when the wire is left."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp
import pytest
import trio

from tests.processes import runs
from trio_mcp_pool._errors import MessageTooLargeError
from trio_mcp_pool._wire import _seam
from trio_mcp_pool._wire._link import Call, Link, current_call
from trio_mcp_pool._wire.stdio._sdk import connect_sdk_stdio

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups")

if os.name == "posix":
    from trio_mcp_pool._wire.stdio._connect import connect_stdio

SERVER = str(Path(__file__).parents[1] / "servers" / "echo_stdio.py")
MAX_MESSAGE = 30_000_000


def wire(
    name: str, link: Link, *args: str, env: dict[str, str] | None = None, max_message: int = MAX_MESSAGE, **options: Any
) -> Any:
    arguments = ["-S", SERVER, *args]
    if name == "trio":
        return connect_stdio(
            link,
            sys.executable,
            arguments,
            env or {},
            None,
            max_message=max_message,
            max_values=1_000_000,
            client_options=options,
        )
    return connect_sdk_stdio(link, sys.executable, arguments, env or {}, None, client_options=options)


def text(result: Any) -> str:
    said: str = result.content[0].text
    return said


@pytest.fixture(params=["trio", "sdk"])
def either(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("client", "mcp.client.stdio"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    with trio.fail_after(seconds):
        yield


# What works.


@pytest.mark.parametrize(
    ("era", "version"), [("legacy", "2025-06-18"), ("modern", "2026-07-28"), ("both", "2026-07-28")]
)
async def test_both_eras_are_negotiated_and_calls_answered(either: str, era: str, version: str) -> None:
    link = Link("echo")
    async with within(20), wire(either, link, "--era", era) as client:
        assert link.phase == "handshake"
        assert client.protocol_version == version
        assert text(await client.call_tool("echo", {"text": "h\u00e9"})) == "h\u00e9"
        assert link.pid == int(text(await client.call_tool("pid")))
        assert text(await client.call_tool("split")) == "in pieces"
        assert link.heard_at > -1
    assert not link.killed
    assert not link.left_behind
    if either == "trio":
        assert link.exit_status == 0


async def test_fifty_calls_at_once_each_get_their_own_answer(either: str) -> None:
    async with within(20), wire(either, Link("echo")) as client:
        got: dict[int, str] = {}

        async def one(n: int) -> None:
            got[n] = text(await client.call_tool("echo", {"text": str(n) * 300}))

        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(one, n)
        assert got == {n: str(n) * 300 for n in range(50)}


async def test_progress_and_requests_of_the_server_reach_their_callbacks(either: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        await trio.lowlevel.checkpoint()
        steps.append(progress)

    async def sampling(context: Any, params: Any) -> Any:
        assert text(await client.call_tool("echo", {"text": "from inside"})) == "from inside"
        raise RuntimeError("the callback is broken")

    async with within(20), wire(either, Link("echo"), "--era", "legacy", sampling_callback=sampling) as client:
        await client.call_tool("progress", {"steps": 3}, progress_callback=on_progress)
        await client.call_tool("echo")
        assert sorted(steps) == [1, 2, 3]
        assert "code" in text(await client.call_tool("ask"))


async def test_the_environment_is_small_and_what_was_given(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_FOR_SERVERS", "x")
    async with within(20), wire(either, Link("echo"), env={"FOR_IT": "yes"}) as client:
        assert text(await client.call_tool("env", {"name": "FOR_IT"})) == "yes"
        assert text(await client.call_tool("env", {"name": "NOT_FOR_SERVERS"})) == ""
        assert text(await client.call_tool("env", {"name": "PATH"})) == os.environ["PATH"]


async def test_stderr_is_kept_masked_and_logged(either: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_mcp_pool.stderr")
    link = Link("echo")
    link.keep_secret(["hunter2secret"])
    async with within(20), wire(either, link) as client:
        await client.call_tool("log", {"lines": ["one", "the key is hunter2secret", "z" * 70_000, "last"]})
        while not link.stderr_tail.endswith("last\n"):
            await trio.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if record.name == "trio_mcp_pool.stderr"]
    assert said[:2] == ["echo: one", "echo: the key is ***"]
    assert len(said[2]) < 2100
    assert len(link.stderr_tail) <= 64 * 1024


async def test_a_result_of_20_mb_arrives() -> None:
    async with within(30), wire("trio", Link("echo")) as client:
        assert len(text(await client.call_tool("big", {"bytes": 20_000_000}))) == 20_000_000


async def test_an_answer_over_the_limit_is_a_typed_error_and_the_session_goes_on() -> None:
    async with within(30), wire("trio", Link("echo"), max_message=100_000) as client:
        with pytest.raises(MessageTooLargeError, match="echo"):
            await client.call_tool("big", {"bytes": 20_000_000})
        assert text(await client.call_tool("echo", {"text": "still here"})) == "still here"


async def test_garbage_and_a_bad_byte_cost_their_line_only() -> None:
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        heard.append(message)

    async with within(20), wire("trio", Link("echo"), message_handler=handler) as client:
        assert text(await client.call_tool("bad_utf8")) == "caf\N{REPLACEMENT CHARACTER}"
        assert text(await client.call_tool("garbage", {"binary": True})) == "after the garbage"
        assert text(await client.call_tool("echo", {"text": "fine"})) == "fine"
        assert [type(one) for one in heard] == [ValueError] * 4


async def test_garbage_costs_its_line_only_on_the_sdk_wire_too() -> None:
    async with within(20), wire("sdk", Link("echo")) as client:
        assert text(await client.call_tool("garbage")) == "after the garbage"


# Death.


async def test_R12_a_process_killed_while_idle_is_noticed_at_once(either: str) -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set)
    async with within(20), wire(either, link) as client:
        assert link.pid is not None
        os.kill(link.pid, signal.SIGKILL)
        with trio.fail_after(0.2):
            await lost.wait()
        with pytest.raises(mcp.MCPError, match="Connection closed"):
            await client.call_tool("echo")
        if either == "trio":
            with trio.fail_after(1):
                while Path(f"/proc/{link.pid}").exists():  # reaped
                    await trio.sleep(0.005)
            assert link.exit_status == -signal.SIGKILL


async def test_a_crash_under_calls_fails_them_all_and_says_why(either: str) -> None:
    statuses: list[int | None] = []
    link = Link("echo", on_lost=lambda: statuses.append(link.exit_status))
    failed: list[tuple[bool, bool]] = []
    async with within(20), wire(either, link) as client:

        async def doomed() -> None:
            call = Call(trio.CancelScope(), link)
            current_call.set(call)
            with pytest.raises(mcp.MCPError, match="Connection closed"):
                await client.call_tool("sleep", {"seconds": 600})
            failed.append((call.written, link.is_lost))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(doomed)
            await trio.sleep(0.1)
            with pytest.raises(mcp.MCPError):
                await client.call_tool("crash", {"status": 7})
        assert failed == [(True, True)] * 10
        assert statuses == [7]  # known before anybody is told
    assert "I am going down" in link.stderr_tail
    assert link.exit_status == 7


async def test_an_exit_is_death_even_when_a_grandchild_keeps_stdout_open() -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set)
    async with within(20), wire("trio", link) as client:
        await client.list_tools()  # or the client would ask for the list after the result
        pid = int(text(await client.call_tool("leave_grandchild")))  # the last answer is not lost either
        with trio.fail_after(1):
            await lost.wait()
    assert not link.killed  # it was asked, and went
    assert not runs(pid)


async def test_a_closed_stdout_is_death() -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set, close_timeout=0.4)
    async with within(20), wire("trio", link) as client:
        with pytest.raises(mcp.MCPError, match="Connection closed"):
            await client.call_tool("close_stdout")
        assert lost.is_set()


@pytest.mark.parametrize("frozen", ["stopped", "not reading"])
async def test_a_server_that_stops_reading_holds_nobody_and_is_dead_after_write_timeout(frozen: str) -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set, write_timeout=0.5, close_timeout=1)
    async with within(20), wire("trio", link) as client:
        assert link.pid is not None
        if frozen == "stopped":
            os.kill(link.pid, signal.SIGSTOP)
        else:
            await client.list_tools()
            await client.call_tool("wedge")
        calls: list[Call] = []
        ends: list[float] = []

        async def held(patience: float) -> None:
            call = Call(trio.CancelScope(), link)
            calls.append(call)
            current_call.set(call)
            with trio.move_on_after(patience):
                with pytest.raises(mcp.MCPError):
                    await client.call_tool("echo", {"text": "x" * 60_000})
            ends.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for patience in (0.1, 0.1, 0.1, 10):
                nursery.start_soon(held, patience)
            start = trio.current_time()
        assert [end - start < 0.35 for end in ends] == [True, True, True, False]
        assert ends[-1] - start < 2
        assert lost.is_set()
        assert isinstance(link.lost_cause, TimeoutError)
        assert [call.written for call in calls].count(True) <= 1  # a pipe holds one of them
    # SIGTERM ends the one that merely sleeps; a stopped process takes notice of SIGKILL only.
    assert link.killed == ([link.pid] if frozen == "stopped" else [])


# The handshake.


async def test_a_server_that_dies_in_the_handshake_raises_a_bare_error_with_its_last_words_known(either: str) -> None:
    known: list[Any] = []
    link = Link("echo", on_failing=lambda exc: known.append((type(exc), link.exit_status, link.stderr_tail)))
    link.keep_secret(["hunter2secret"])
    with pytest.raises(mcp.MCPError, match="Connection closed"):
        async with within(20), wire(either, link, "--die", "3"):
            raise AssertionError
    assert known[0][0] is mcp.MCPError
    assert known[0][2] == "cannot read the configuration: ***\n"
    if either == "trio":
        assert known[0][1] == 3


async def test_failing_is_said_before_the_clean_up() -> None:
    said: list[float] = []
    link = Link("echo", on_failing=lambda _: said.append(trio.current_time()), close_timeout=1)
    with pytest.raises(mcp.MCPError):
        async with within(20), wire("trio", link, "--mute", "--stubborn", mode="legacy", read_timeout_seconds=0.2):
            raise AssertionError
    assert trio.current_time() - said[0] > 0.5


async def test_a_missing_command_and_a_forbidden_one_come_out_as_they_are(either: str, tmp_path: Path) -> None:
    connect: Callable[..., Any] = (
        (
            lambda link, command: connect_stdio(
                link, command, [], {}, None, max_message=MAX_MESSAGE, max_values=1_000_000, client_options={}
            )
        )
        if either == "trio"
        else (lambda link, command: connect_sdk_stdio(link, command, [], {}, None, client_options={}))
    )
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for command, error in [("no-such-command-anywhere", FileNotFoundError), (str(plain), PermissionError)]:
        link = Link("echo")
        with pytest.raises(error):
            async with within(20), connect(link, command):
                raise AssertionError
        assert link.phase == "spawn"
        assert link.pid is None


@pytest.mark.parametrize("after", [0, 0.001, 0.003, 0.01, 0.03, 0.06])
async def test_a_dial_cancelled_at_any_point_leaves_nothing(either: str, after: float) -> None:
    async with within(20):
        with trio.move_on_after(after) as scope:
            async with wire(either, Link("echo", close_timeout=1), "--mute", "--stubborn"):
                raise AssertionError
        assert scope.cancelled_caught


# Leaving.


async def test_what_the_block_raises_comes_out_bare(either: str) -> None:
    with pytest.raises(KeyError):
        async with within(20), wire(either, Link("echo")):
            raise KeyError


@pytest.mark.parametrize("close_timeout", [0.0, 0.3, 1.0])
async def test_a_stubborn_server_is_gone_within_the_bound(either: str, close_timeout: float) -> None:
    link = Link("echo", close_timeout=close_timeout)
    async with within(20), wire(either, link, "--stubborn") as client:
        pid = int(text(await client.call_tool("grandchild")))
        start = trio.current_time()
    assert trio.current_time() - start < close_timeout + 0.5
    assert link.pid in link.killed
    assert pid in link.killed
    assert not runs(pid)


async def test_close_by_binds_where_it_is_earlier() -> None:
    link = Link("echo", close_timeout=60)
    async with within(20), wire("trio", link, "--stubborn") as client:
        await client.call_tool("echo")
        link.close_by = trio.current_time() + 0.4
        link.leaving = True
    assert trio.current_time() < link.close_by + 0.3
    assert link.exit_status == -signal.SIGKILL


async def test_a_server_that_ignores_only_the_end_of_stdin_gets_sigterm() -> None:
    link = Link("echo", close_timeout=1)
    async with within(20), wire("trio", link, "--ignore-eof") as client:
        await client.call_tool("echo")
    assert link.exit_status == -signal.SIGTERM
    assert not link.killed


async def test_a_cancelled_owner_kills_quickly() -> None:
    link = Link("echo", close_timeout=10)
    async with within(20):
        with trio.CancelScope() as scope:
            async with wire("trio", link, "--stubborn"):
                scope.cancel()
                start = trio.current_time()
                await trio.sleep_forever()
        assert trio.current_time() - start < 6  # of the ten that it had
    assert link.exit_status == -signal.SIGKILL


async def test_a_callback_that_shields_itself_does_not_keep_the_process_beyond_its_bound() -> None:
    holding = trio.Event()
    ended: list[float] = []

    async def sampling(context: Any, params: Any) -> Any:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 3):
            holding.set()
            await trio.sleep_forever()

    async def watch() -> None:
        while runs(pid):
            await trio.sleep(0.01)
        ended.append(trio.current_time())

    link = Link("echo", close_timeout=1)
    async with within(20), trio.open_nursery() as nursery:
        async with wire("trio", link, "--era", "legacy", "--stubborn", sampling_callback=sampling) as client:
            assert link.pid is not None
            pid = link.pid
            nursery.start_soon(client.call_tool, "ask")
            await holding.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                start = trio.current_time()
                nursery.start_soon(watch_shielded(watch))
                await trio.lowlevel.checkpoint()
    assert ended[0] - start < 6


def watch_shielded(function: Callable[[], Any]) -> Callable[[], Any]:
    async def run() -> None:
        with trio.CancelScope(shield=True):
            await function()

    return run


async def test_a_close_that_is_cancelled_goes_straight_to_the_signals() -> None:
    link = Link("echo", close_timeout=10)
    async with within(20):
        with trio.CancelScope() as scope:
            async with wire("trio", link, "--stubborn"):
                scope.deadline = trio.current_time() + 0.2
                start = trio.current_time()
        assert trio.current_time() - start < 6  # of the ten that it had
    assert link.exit_status == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="found through /proc")
async def test_R2_grandchildren_in_the_group_are_killed_and_escaped_ones_are_reported(
    either: str, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link("echo")
    async with within(20), wire(either, link) as client:
        inside = int(text(await client.call_tool("grandchild", {"setsid": False})))
        escaped = int(text(await client.call_tool("grandchild", {"setsid": True})))
    try:
        assert link.killed == [inside]
        assert not runs(inside)
        assert link.left_behind == [escaped]
        assert runs(escaped)
        assert str(escaped) in caplog.text
    finally:
        os.kill(escaped, signal.SIGKILL)


# Elsewhere.


def test_the_sdk_wire_imports_where_posix_is_not() -> None:
    code = (
        "import os, signal, subprocess, trio, anyio, mcp, mcp.client.stdio\n"
        "for name in 'killpg setsid set_blocking pidfd_open waitid getpgid'.split(): delattr(os, name)\n"
        "for name in 'SIGKILL SIGSTOP SIGCHLD'.split(): delattr(signal, name)\n"
        "import trio_mcp_pool._wire.stdio._sdk\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# The seam.


def test_the_seam_of_the_sdk_stands() -> None:
    """When this fails, `_seam.py` needs a look: the wire goes on working, at the speed of a plain transport."""
    assert _seam.seam_stands()


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_wire_works_without_the_seam(monkeypatch: pytest.MonkeyPatch, era: str) -> None:
    monkeypatch.setattr(_seam, "seam_stands", lambda: False)
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set)
    async with within(20), wire("trio", link, "--era", era) as client:
        call = Call(trio.CancelScope(), link)
        current_call.set(call)
        assert text(await client.call_tool("echo", {"text": "hi"})) == "hi"
        assert call.written
        assert text(await client.call_tool("bad_utf8")) == "caf\N{REPLACEMENT CHARACTER}"
        with pytest.raises(mcp.MCPError, match="Connection closed"):
            await client.call_tool("crash")
        assert lost.is_set()
    assert link.exit_status == 3
