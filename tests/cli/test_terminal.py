"""The command line in a real pseudo-terminal, and what signals leave behind at each stage: nothing."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.cli.driving import NOTEBOOK, PLAIN, ROOT, Cli, assert_none_left, processes_with

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")

NEVER_READY = "import sys, time; time.sleep(600)"


@pytest.fixture
def token(cli: Cli) -> str:
    """A word in the command line of every server of the configuration, by which its processes are found."""
    word = f"mark-{uuid.uuid4().hex}"
    servers = ROOT / "tests" / "servers"
    cli.configure(
        {
            "mute": {"command": sys.executable, "args": ["-S", "-c", NEVER_READY, word]},
            "notebook": {
                "command": sys.executable,
                "args": [str(ROOT / "trio_mcp_pool" / "cli" / "_servers" / "notebook.py"), word],
            },
            "stubborn": {
                "command": sys.executable,
                "args": [
                    "-S",
                    "-c",
                    "import signal, runpy, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                    "sys.argv = sys.argv[:1]; "
                    f"runpy.run_path({str(servers / 'echo_stdio.py')!r}, run_name='__main__')",
                    word,
                ],
            },
            "all": {"command": sys.executable, "args": [str(ROOT / "tests" / "cli" / "everything.py"), word]},
        }
    )
    return word


STAGES = {
    "importing": (["list", "notebook"], None),
    "dialling": (["call", "mute.tool"], "mute"),
    "calling": (["call", "notebook.look_up", "text=x", "seconds=60"], "calling"),
    "benching": (["bench", "notebook.echo", "text=x", "--duration", "60s", "--concurrency", "3"], "calling"),
    "watching": (["top", "notebook.echo", "text=x", "--duration", "60s"], "calling"),
    "in the shell": (["shell", "notebook"], "shell"),
    "many calls": (["call", "notebook.look_up", "--each", "each", "--jobs", "5"], "calling"),
}


# Both signals take the same way from the moment that they arrive, so by default each stage is tried with one of them.
SIGNALS = [
    pytest.param(
        stage, number, id=f"{number.name}-{stage}", marks=[] if (index + turn) % 2 else [pytest.mark.exhaustive]
    )
    for index, stage in enumerate(STAGES)
    for turn, number in enumerate((signal.SIGTERM, signal.SIGINT))
]


@pytest.mark.parametrize(("stage", "number"), SIGNALS)
def test_a_signal_at_each_stage_leaves_no_process_and_no_traceback(
    cli: Cli, token: str, stage: str, number: signal.Signals
) -> None:
    words, wait_for = STAGES[stage]
    (cli.folder / "each").write_text('{"text": "x", "seconds": 60}\n' * 20)
    process = cli.start(*words)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if wait_for == "shell":
            process.stdin.write("notebook.look_up text=x seconds=60\n")
            process.stdin.flush()
        began = time.monotonic()
        # While it is imported, or when a server runs. After that any moment will do: nothing may be left at none of them.
        maps = Path(f"/proc/{process.pid}/maps")
        while not ("pydantic" in maps.read_text() if wait_for is None else processes_with(token)):
            assert time.monotonic() - began < 30
            time.sleep(0.005)
        time.sleep(0 if wait_for is None else 1)
        process.send_signal(number)
        if wait_for == "shell" and number == signal.SIGINT:
            time.sleep(0.5)  # ends the call that runs, not the shell
            process.stdin.close()
        process.wait(timeout=30)
        err = process.stderr.read()
        process.stdout.read()
    assert "Traceback" not in err, err
    expected = {128 + number, -number} if wait_for is None else {128 + number}
    assert process.returncode in expected, (process.returncode, err)
    assert_none_left(token)


def test_more_signals_change_nothing(cli: Cli, token: str) -> None:
    process = cli.start("call", "stubborn.sleep", "seconds:=60", "--format", "json")
    with process:
        assert process.stderr is not None
        while not processes_with(token):
            time.sleep(0.02)
        time.sleep(1)
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        process.wait(timeout=30)
        err = process.stderr.read()
    assert process.returncode == 130, err
    assert err.count("\n") == 1
    assert '"kind": "interrupted"' in err
    assert_none_left(token)


@pytest.mark.parametrize(
    "extra", [pytest.param(True, id="with the extra"), pytest.param(False, id="plain", marks=pytest.mark.exhaustive)]
)
def test_progress_is_drawn_on_a_terminal_only(cli: Cli, token: str, extra: bool) -> None:
    program = cli if extra else Cli(cli.folder, tuple(PLAIN))
    with program.terminal("call", "all.slow", "seconds=1") as terminal:
        assert terminal.wait() == 0
    assert "step" in terminal.text
    assert "slept in" in terminal.text
    done = cli("call", "all.slow", "seconds=0.2")
    assert done.err == ""
    assert done.out.startswith("slept in")


@pytest.mark.parametrize(
    "extra", [pytest.param(True, id="with the extra"), pytest.param(False, id="plain", marks=pytest.mark.exhaustive)]
)
def test_a_table_on_a_terminal_obeys_no_server(cli: Cli, token: str, extra: bool) -> None:
    program = cli if extra else Cli(cli.folder, tuple(PLAIN))
    with program.terminal("list", "all") as terminal:
        assert terminal.wait() == 0
    assert "add(a: integer" in terminal.text
    assert "\x1b]0;" not in terminal.text, "the server would have set the terminal's title"
    with program.terminal("list", "all", NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
    assert "\x1b[36m" not in terminal.text


def test_control_c_in_the_shell_ends_the_call_and_not_the_shell(cli: Cli, token: str) -> None:
    pytest.importorskip("prompt_toolkit")
    with cli.terminal("shell", "notebook", PROMPT_TOOLKIT_NO_CPR="1") as terminal:
        terminal.read_until(">")
        terminal.type("notebook.look_up text=x seconds=60\r")
        time.sleep(2)
        terminal.type("\x03")
        terminal.read_until("interrupted")
        terminal.read_until(">")
        terminal.type("notebook.write text=again\r")
        terminal.read_until("line 1 written")
        terminal.read_until(">")  # before it, the terminal itself would take the key
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert_none_left(token)
    history = cli.folder / "home" / ".local" / "share" / "trio-mcp-pool" / "history"
    assert "text=again" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_the_shell_completes_servers_tools_and_arguments(cli: Cli, token: str) -> None:
    pytest.importorskip("prompt_toolkit")
    with cli.terminal("shell", "notebook", PROMPT_TOOLKIT_NO_CPR="1") as terminal:
        terminal.read_until(">")
        terminal.type("list notebook\r")
        terminal.read_until("process id of this")
        terminal.read_until(">")
        time.sleep(2)  # it asks the server what it has meanwhile
        terminal.type("notebook.wr\t")
        terminal.read_until("ite")
        terminal.type(" te\t")
        terminal.read_until("text=")
        terminal.type("hello\r")
        terminal.read_until("line 1 written")
        terminal.type("quit\r")
        assert terminal.wait() == 0


def test_the_plain_shell_works_on_a_terminal_too(cli: Cli, token: str) -> None:
    with Cli(cli.folder, tuple(PLAIN)).terminal("shell", "notebook") as terminal:
        terminal.read_until("> ")
        terminal.type("notebook.echo text=hello-there\n")
        terminal.read_until("\r\nhello-there")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert_none_left(token)


def test_top_draws_over_itself_on_a_terminal(cli: Cli, token: str) -> None:
    with cli.terminal("top", "notebook.echo", "text=x", "--duration", "500ms", "--every", "100ms") as terminal:
        assert terminal.wait() == 0
    assert terminal.text.count("\x1b[H") >= 3
    assert "MEMORY" in terminal.text


def test_a_person_is_asked_for_an_input_on_a_terminal_only(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".vscode").mkdir()
    script = f'test "$KEY" = the-answer && exec {shlex.join(NOTEBOOK)}'
    (tmp_path / ".vscode" / "mcp.json").write_text(
        json.dumps(
            {
                "inputs": [{"id": "key", "type": "promptString", "description": "Your key", "password": True}],
                "servers": {"asks": {"command": "sh", "args": ["-c", script], "env": {"KEY": "${input:key}"}}},
            }
        )
    )
    with cli.terminal("call", "asks.echo", "text=well") as terminal:
        terminal.read_until("Your key")
        time.sleep(0.3)
        terminal.type("the-answer\n")
        assert terminal.wait() == 0
    assert "well" in terminal.text
    assert "the-answer" not in terminal.text, "it is not shown while it is typed"
    done = cli("list", "asks")
    assert done.code == 1
    assert "the input 'key' has no value: a person must be asked for it" in done.err
