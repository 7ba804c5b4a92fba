"""The demo shows what it says, and fails when it does not."""

from __future__ import annotations

import signal
import subprocess
import sys

from trio_mcp_pool.cli import _demo
from trio_mcp_pool.cli._report import NotShown, Report, expect
from trio_mcp_pool.cli._scenes import Stage


def test_the_demo_succeeds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trio_mcp_pool.cli", "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for shown in ("The figures", "Fifty calls at once", "Ada wrote", "OutcomeUnknownError", "none is left"):
        assert shown in done.stdout


async def test_a_scene_that_does_not_happen_is_named_and_the_others_go_on() -> None:
    said: list[str] = []
    stage = Stage(pool=None, report=Report(said.append), url="", notebook=[])  # type: ignore[arg-type]

    async def wrong(stage: Stage) -> None:
        expect(False, "two and two were five")

    async def broken(stage: Stage) -> None:
        raise ExceptionGroup("several", [NotShown("the pool slept"), ValueError("x")])

    async def fine(stage: Stage) -> None:
        expect(True, "nothing")

    assert await _demo.play("Sums", wrong, stage) == ["Sums: two and two were five"]
    assert await _demo.play("Sleep", broken, stage) == ["Sleep: the pool slept; ValueError: x"]
    assert await _demo.play("Fine", fine, stage) == []
    assert "  NOT SHOWN: two and two were five" in said


def test_control_c_ends_the_demo_with_130_and_one_line() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "trio_mcp_pool.cli", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if "a session each" in line:
                break
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.stderr.read() == "interrupted\n"
        # An interrupt inside `exec`, which imports of pydantic's do, makes Python end by the signal itself.
        assert demo.wait(timeout=120) in (130, -signal.SIGINT)


def test_a_wrong_command_line_exits_with_one_and_the_version_is_printed() -> None:
    wrong = subprocess.run(
        [sys.executable, "-m", "trio_mcp_pool.cli", "demoo"], capture_output=True, text=True, timeout=300, check=False
    )
    assert wrong.returncode == 1
    assert "did you mean 'demo'?" in wrong.stderr
    version = subprocess.run(
        [sys.executable, "-m", "trio_mcp_pool.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert version.stdout.startswith("trio-mcp-pool 0.")
