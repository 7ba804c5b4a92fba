"""Leaving a child process and its group: everybody is asked, has the time that was promised, and is gone afterwards (R2)."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.processes import runs
from trio_mcp_pool._wire._link import Link

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")

if os.name == "posix":
    from trio_mcp_pool._wire.stdio import _descendants, _process
    from trio_mcp_pool._wire.stdio._connect import connect_stdio

SERVER = str(Path(__file__).parents[1] / "servers" / "echo_stdio.py")


def direct(link: Link, *args: str) -> Any:
    return connect(link, sys.executable, "-S", SERVER, *args)


def behind_a_shell(link: Link, *args: str) -> Any:
    """As `npx` does it: the child waits for the server, and SIGTERM ends it at once."""
    server = shlex.join([sys.executable, "-S", SERVER, *args])
    return connect(link, "sh", "-c", f"{server}; true")


def connect(link: Link, command: str, *args: str) -> Any:
    limits = {"max_message": 1_000_000, "max_values": 100_000}
    return connect_stdio(link, command, list(args), {}, None, **limits, client_options={})


def text(result: Any) -> str:
    said: str = result.content[0].text
    return said


def exists(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_behind_a_wrapper_the_server_keeps_the_grace_that_it_was_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link("echo", close_timeout=2)
    done = tmp_path / "done"
    with trio.fail_after(20):
        async with behind_a_shell(link, "--ignore-eof", "--cleanup", str(done)) as client:
            server = int(text(await client.call_tool("pid")))
            assert server != link.pid
    assert done.read_text() == "clean"
    assert link.exit_status == -signal.SIGTERM
    assert (link.killed, link.left_behind) == ([], [])
    assert not caplog.records
    assert not runs(server)
    assert not exists(link.pid)


async def test_behind_a_wrapper_a_server_that_will_not_end_is_killed_when_its_grace_is_over() -> None:
    link = Link("echo", close_timeout=1)
    with trio.fail_after(20):
        async with behind_a_shell(link, "--stubborn") as client:
            server = int(text(await client.call_tool("pid")))
            start = trio.current_time()
        took = trio.current_time() - start
    assert 0.7 < took < 6
    assert link.killed == [server]  # the shell, which went when it was asked, is not named
    assert not link.left_behind
    assert not runs(server)


async def test_a_wrapper_that_crashes_leaves_its_server_time_to_end_before_the_session_is_left(tmp_path: Path) -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set)
    done = tmp_path / "done"
    with trio.fail_after(20):
        async with behind_a_shell(link, "--ignore-eof", "--cleanup", str(done)) as client:
            server = int(text(await client.call_tool("pid")))
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
            with trio.fail_after(0.2):
                await lost.wait()
            while runs(server) or exists(link.pid):
                await trio.sleep(0.01)
    assert done.read_text() == "clean"
    assert (link.exit_status, link.killed, link.left_behind) == (-signal.SIGKILL, [], [])


async def test_a_cancelled_owner_gives_the_group_little_time() -> None:
    link = Link("echo", close_timeout=10)
    with trio.fail_after(20):
        with trio.CancelScope() as scope:
            async with behind_a_shell(link, "--stubborn") as client:
                server = int(text(await client.call_tool("pid")))
                start = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert trio.current_time() - start < 6  # of the ten that it had
    assert link.killed == [server]
    assert not runs(server)


async def none_to_be_had(*_: object, **__: object) -> Any:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("how", ["it dies", "it is left"])
async def test_a_child_is_reaped_where_no_thread_is_to_be_had(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set, close_timeout=1)
    with trio.fail_after(20):
        async with direct(link, "--stubborn") as client:
            inside = int(text(await client.call_tool("grandchild")))
            monkeypatch.setattr(trio.to_thread, "run_sync", none_to_be_had)
            if how == "it dies":
                assert link.pid is not None
                os.kill(link.pid, signal.SIGKILL)
                with trio.fail_after(0.5):
                    await lost.wait()
    assert not exists(link.pid)
    assert not runs(inside)
    assert inside in link.killed
    assert not link.left_behind


async def test_where_no_pidfd_and_no_thread_are_to_be_had_a_child_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_pidfd", lambda _: None)
    monkeypatch.setattr(trio.Process, "wait", none_to_be_had)
    lost = trio.Event()
    link = Link("echo", on_lost=lost.set)
    with trio.fail_after(20):
        async with direct(link):
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
            with trio.fail_after(0.5):
                await lost.wait()
    assert link.exit_status == -signal.SIGKILL
    assert not exists(link.pid)


@pytest.mark.parametrize("pidfd", [True, False])
async def test_where_sigchld_is_ignored_the_exit_status_is_unknown_and_not_0(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.setattr(_process, "_pidfd", lambda _: None)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        lost = trio.Event()
        link = Link("echo", on_lost=lost.set, close_timeout=1)
        with trio.fail_after(20):
            async with direct(link) as client:
                inside = int(text(await client.call_tool("grandchild")))
                assert link.pid is not None
                os.kill(link.pid, signal.SIGKILL)
                with trio.fail_after(0.5):
                    await lost.wait()
        assert link.exit_status is None
        assert inside in link.killed
        assert not runs(inside)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_reused_number_is_never_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has reaped the child, and its number may mean anybody."""
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, sig: signalled.append(pid))
    link = Link("echo", close_timeout=0.5)
    with trio.fail_after(20):
        async with direct(link):
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
            os.waitpid(link.pid, 0)  # noqa: ASYNC222 (it is dead)
    assert not signalled
    assert link.exit_status is None


async def test_a_child_that_the_kernel_ends_late_is_reported_once_and_reaped_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(_process, "_REAP", 0.2)
    monkeypatch.setattr(os, "killpg", lambda *_: None)  # a kernel that takes its time
    link = Link("echo", close_timeout=0.2)
    with trio.fail_after(20):
        async with direct(link, "--stubborn"):
            pass
        assert link.pid is not None
        assert link.left_behind == [link.pid]
        os.kill(link.pid, signal.SIGKILL)
        while exists(link.pid):  # not even as a zombie
            await trio.sleep(0.01)


async def test_a_pid_that_means_somebody_else_by_now_is_not_waited_for() -> None:
    with trio.fail_after(5):
        await _descendants.wait_gone([os.getpid()], group=os.getpgid(0) + 1)
