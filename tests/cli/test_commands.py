"""Every command through pipes, against real servers of two eras."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.driving import ECHO, EVERYTHING, NOTEBOOK, PROGRAM, ROOT, Cli

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals, and servers started as on POSIX")


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """The URL of a server that wants credentials."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/mcp"
        server.shutdown()
        thread.join()


class TestExitCodes:
    """The table of the documentation, row by row."""

    @pytest.mark.parametrize(
        ("words", "code", "kind"),
        [
            (["call", "echo.echo", "text=hi"], 0, ""),
            (["nonsense"], 1, "usage"),
            (["call"], 1, "usage"),
            (["call", "ehco.echo"], 1, "usage"),
            (["call", "notebook.wrte"], 1, "usage"),
            (["call", "notebook.write"], 1, "usage"),
            (["list", "off"], 1, "usage"),
            (["list", "wrong"], 1, "usage"),
            (["list", "nowhere.json"], 1, "usage"),
            (["list", "echo", "--timeout", "10"], 1, "usage"),
            (["list", "http://["], 1, "usage"),
            (["list", "echo", "--header", "A: b"], 1, "usage"),
            (["list", "echo", "--env", "A=b"], 1, "usage"),
            (["list", "LOCKED"], 3, "authentication"),
            (["call", "LOCKED", "tool"], 3, "authentication"),
            (["list", "gone"], 4, "unreachable"),
            (["call", "dies.tool"], 4, "unreachable"),
            (["list", "http://127.0.0.1:9/mcp"], 4, "unreachable"),
            (["call", "every.thing.fail", "why=because"], 5, "tool"),
            (["read", "every.thing", "nope://x"], 5, "tool"),
            (["call", "notebook.look_up", "text=x", "seconds=60", "--timeout", "1500ms"], 124, "deadline"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_each_kind_of_failure_has_its_own(
        self, cli: Cli, locked: str, words: list[str], code: int, kind: str
    ) -> None:
        words = [locked if word == "LOCKED" else word for word in words]
        done = cli(*words)
        assert done.code == code, done
        done = cli(*words, "--format", "json")
        assert done.code == code, done
        if code:
            assert (done.failure["code"], done.failure["kind"]) == (code, kind)
            assert done.failure["message"]

    def test_a_reader_that_goes_away_is_no_error_with_a_traceback(self, cli: Cli) -> None:
        command = f"{' '.join(PROGRAM)} config schema | head -c 1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=cli.folder,
            env=cli.env,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


class TestHelp:
    def test_neither_help_nor_version_nor_a_completed_word_loads_the_sdk(self) -> None:
        code = (
            "import sys; from trio_mcp_pool.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "assert not {'mcp', 'trio', 'anyio', 'pydantic'} & sys.modules.keys()"
        )
        for words in (["--help"], ["--version"], ["call", "--help"], ["__complete", "ca"], ["completion", "bash"]):
            subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, timeout=60, cwd=ROOT)

    @pytest.mark.exhaustive  # the test above is the reason, and does not depend on what else the machine does
    def test_help_takes_at_most_a_third_of_the_import_of_the_sdk(self, cli: Cli) -> None:
        def quickest(command: list[str]) -> float:
            times = []
            for _ in range(3):
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=ROOT)
                times.append(time.perf_counter() - began)
            return min(times)

        sdk = quickest([sys.executable, "-c", "import mcp"])
        assert quickest([*PROGRAM, "--help"]) <= sdk / 3
        assert quickest([*PROGRAM, "--version"]) <= sdk / 3


class TestList:
    def test_the_table_has_signatures_states_and_times(self, cli: Cli) -> None:
        done = cli("list")
        assert done.code == 4
        for text in ("notebook", "ready", "unreachable", "2025-11-25", "2026-07-28", "add(a: integer, b: integer = 1)"):
            assert text in done.out
        assert "wrong.command: it must be a string, not a number" in done.err
        assert "No such file or directory: 'no-such-server'" in done.err
        assert "no key was given" in done.err
        assert "no key was given" not in done.out

    def test_json_is_the_protocols_own(self, cli: Cli) -> None:
        done = cli("list", "notebook", "every.thing", "--resources", "--prompts", "--format", "json")
        assert done.code == 0, done
        assert done.err == "" or "warning" in done.err.lower()
        notebook, everything = done.json
        assert notebook["tools"][0]["inputSchema"]["required"] == ["text"]
        assert notebook["connectSeconds"] > 0
        assert [tool["name"] for tool in everything["tools"]] == ["add", "paint", "fail", "slow"]
        assert everything["resources"][0]["uri"] == "note://today"
        assert everything["resourceTemplates"][0]["uriTemplate"] == "note://{day}"
        assert everything["prompts"][0]["arguments"][0] == {"name": "name", "required": True}
        lines = cli("list", "notebook", "echo", "--format", "ndjson").out.splitlines()
        assert [json.loads(line)["server"] for line in lines] == ["notebook", "echo"]

    def test_schema_shows_the_schemas(self, cli: Cli) -> None:
        done = cli("list", "notebook", "--schema")
        assert "notebook.write\n{" in done.out

    def test_ten_servers_are_dialled_at_once(self, cli: Cli) -> None:
        """None of them starts to speak before all ten run."""
        waits = (
            "import os, sys, time; here, server = sys.argv[1:]; open(f'{here}/{os.getpid()}', 'w').close()\n"
            "while len(os.listdir(here)) < 10: time.sleep(0.01)\n"
            "os.execv(sys.executable, [sys.executable, '-S', server])"
        )
        started = cli.folder / "started"
        started.mkdir()
        entry = {"command": sys.executable, "args": ["-S", "-c", waits, str(started), ECHO[-1]]}
        cli.configure({f"s{number}": entry for number in range(10)})
        done = cli("list", "--format", "json")
        assert [server["state"] for server in done.json] == ["ready"] * 10

    def test_what_a_file_says_of_the_pool_holds(self, cli: Cli) -> None:
        servers = {name: {"command": ECHO[0], "args": ECHO[1:]} for name in ("a", "b")}
        path = cli.folder / "two.json"
        path.write_text(json.dumps({"mcpServers": servers, "pool": {"max_sessions_total": 1}}))
        words = ("--duration", "2s", "--every", "20ms", "--format", "json", "--config", "two.json")
        (cli.folder / "load").write_text("a.echo text=x\nb.echo text=x\n")
        done = cli("top", "--script", "load", *words)
        assert done.code == 0, done
        looks = [json.loads(line)["servers"] for line in done.out.splitlines()]
        assert max(sum(server["state"] == "ready" for server in look) for look in looks) == 1
        assert sum(server["dials"] for server in looks[-1]) > 2, "each made room for the other"
        path.write_text(json.dumps({"mcpServers": servers, "pool": {"max_sessions_total": 1, "min_sessions": 1}}))
        done = cli("list", "two.json")
        assert done.code == 1, done
        assert "max_sessions_total" in done.err
        path.write_text(json.dumps({"mcpServers": servers, "pool": {"max_sessions_total": 0}}))
        assert "pool.max_sessions_total: it must be a whole number, at least 1" in cli("list", "two.json").err

    @pytest.mark.parametrize(
        "target", [["mcp.json:notebook"], ["one.json"], ["URL"], ["--", *NOTEBOOK], ["--", *EVERYTHING]]
    )
    def test_each_kind_of_target_is_understood(self, cli: Cli, url: str, target: list[str]) -> None:
        cli.configure({"one": {"command": NOTEBOOK[0], "args": NOTEBOOK[1:]}}, "one.json")
        done = cli("list", "--format", "json", *[url if word == "URL" else word for word in target])
        assert done.code == 0, done
        assert done.json[0]["tools"]


class TestCall:
    @pytest.mark.parametrize(
        "words",
        [
            ["every.thing.add", "a=2", "b=3"],
            ["every.thing", "add", "a=2", "b:=3"],
            ["mcp.json:every.thing.add", "a=2", "b=3"],
            ["mcp.json:every.thing", "add", "a=2", "b=3"],
            ["every.thing.add", "--json", '{"a": 2, "b": 3}'],
            ["every.thing.add", "b=3", "@a.json"],
            ["every.thing.add", "b=3", "-"],
            ["URL", "add", "a=2", "b=3"],
            ["add", "a=2", "b=3", "--", *EVERYTHING],
        ],
        ids=lambda words: " ".join(words[:3]),
    )
    def test_a_tool_and_its_arguments_in_every_form(self, cli: Cli, url: str, words: list[str]) -> None:
        (cli.folder / "a.json").write_text('{"a": 2}')
        words = [url if word == "URL" else word for word in words]
        before = words.index("--") if "--" in words else len(words)
        done = cli("call", *words[:before], "--format", "json", *words[before:], stdin='{"a": 2}')
        assert done.code == 0, done
        assert done.json["structuredContent"] == {"result": 5}
        assert done.json["content"] == [{"type": "text", "text": "5"}]
        assert done.err == "" or done.err.startswith("mcp.json:")

    def test_the_table_is_the_text_and_nothing_else_is_on_stdout(self, cli: Cli) -> None:
        done = cli("call", "every.thing.add", "a=2")
        assert (done.code, done.out) == (0, "3\n")

    def test_a_tools_error_goes_to_stderr_and_its_result_to_the_json(self, cli: Cli) -> None:
        done = cli("call", "every.thing.fail", "why=because")
        assert (done.code, done.out) == (5, "")
        assert "the tool 'fail' of server 'every.thing' failed" in done.err
        done = cli("call", "every.thing.fail", "why=because", "--format", "ndjson")
        assert done.json["isError"] is True
        assert len(done.out.splitlines()) == 1
        assert done.failure["server"] == "every.thing"

    def test_a_missing_argument_is_named_with_the_signature(self, cli: Cli) -> None:
        done = cli("call", "every.thing.add", "b=1")
        assert "the argument 'a' must be given: add(a: integer, b: integer = 1)" in done.err

    def test_many_calls_come_out_in_the_order_of_their_lines(self, cli: Cli) -> None:
        lines = "".join(json.dumps({"text": str(n), "seconds": 0.3 - n / 100}) + "\n" for n in range(20))
        (cli.folder / "each.ndjson").write_text(lines)
        done = cli("call", "notebook.look_up", "--each", "each.ndjson", "--jobs", "10", "--format", "ndjson")
        assert done.code == 0, done
        answers = [json.loads(line) for line in done.out.splitlines()]
        assert [answer["line"] for answer in answers] == list(range(1, 21))
        assert [answer["result"]["content"][0]["text"] for answer in answers] == [str(n) for n in range(20)]
        done = cli("call", "notebook.echo", "--each", "-", stdin='{"text": "a"}\n\n{"text": "b"}\n')
        assert done.out == "a\nb\n"

    def test_of_many_calls_those_that_fail_are_told_and_counted_in_the_exit_status(self, cli: Cli) -> None:
        done = cli(
            "call", "every.thing.fail", "--each", "-", "--format", "ndjson", stdin='{"why": "a"}\n{"why": "b"}\n'
        )
        assert done.code == 5
        assert [json.loads(line)["result"]["isError"] for line in done.out.splitlines()] == [True, True]
        done = cli("call", "every.thing.add", "--each", "-", stdin='{"a": 1}\n{"b": 1}\n')
        assert done.code == 1
        assert "line 2: the argument 'a' must be given" in done.err


class TestOtherVerbs:
    def test_read(self, cli: Cli, url: str) -> None:
        assert cli("read", "every.thing", "note://monday").out == "much on monday\n"
        assert cli("read", url, "note://today", "--format", "json").json["contents"][0]["text"] == "nothing"

    def test_prompt(self, cli: Cli) -> None:
        assert cli("prompt", "every.thing.greet", "name=Ada").out == "user: Greet Ada, kind\n"
        assert "the prompt 'greet' needs 'name'" in cli("prompt", "every.thing.greet").err
        assert "did you mean 'greet'?" in cli("prompt", "every.thing.gret").err

    def test_complete(self, cli: Cli, url: str) -> None:
        assert cli("complete", url, "greet", "name=A").out == "Ada\nAlan\n"
        assert cli("complete", url, "note://{day}", "day=B", "--format", "json").json["completion"]["values"] == ["Ben"]

    def test_grep(self, cli: Cli, url: str) -> None:
        done = cli("grep", "NOTE|Greet", url)
        assert done.code == 0
        done = cli("grep", "do(ne)?\\b", url, "--format", "ndjson")
        assert [json.loads(line)["kind"] for line in done.out.splitlines()] == ["resource", "template"]
        assert cli("grep", "nothing like it", url).code == 1
        assert "no regular expression" in cli("grep", "(", url).err


class TestServersThatListBadly:
    SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    has = {"tools": {}, "prompts": {}}
    result = {"protocolVersion": "2025-11-25", "capabilities": has, "serverInfo": {"name": "b", "version": "1"}}
    if message["method"] == "tools/list":
        result = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}], "nextCursor": "1"}
    error = {"code": -32601, "message": "no such method"}
    known = message["method"] in ("initialize", "tools/list")
    answer = {"result": result} if known else {"error": error}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""

    @pytest.mark.parametrize("words", [["list"], ["grep", "x"], ["check"], ["call", "t"]], ids=" ".join)
    def test_a_list_without_an_end_is_found_out_and_told(self, cli: Cli, words: list[str]) -> None:
        (cli.folder / "bad.py").write_text(self.SERVER)
        done = cli(*words, "--format", "json", "--", sys.executable, "-S", "bad.py")
        assert done.code == 5, done
        assert "lists tools without end" in done.failure["message"]

    def test_a_server_that_does_not_know_what_it_announces_has_nothing_of_it(self, cli: Cli) -> None:
        (cli.folder / "bad.py").write_text(self.SERVER.replace('"nextCursor": "1"', '"nextCursor": None'))
        done = cli("list", "--prompts", "--format", "json", "--", sys.executable, "-S", "bad.py")
        assert done.code == 0, done
        assert (len(done.json[0]["tools"]), done.json[0]["prompts"]) == (1, [])


class TestCheck:
    def test_it_says_how_each_server_is_and_why(self, cli: Cli) -> None:
        done = cli("check")
        assert done.code == 4
        assert "everything 7" in done.out
        assert "tools, resources, prompts" in done.out or "prompts, resources, tools" in done.out or "tools" in done.out
        assert "no key was given" in done.err
        assert "the command is not on the PATH that the server is given" in done.err

    def test_a_lock_tells_what_has_changed(self, cli: Cli) -> None:
        assert cli("check", "notebook", "--write-lock", "lock.json").code == 0
        assert cli("check", "notebook", "--lock", "lock.json").code == 0
        path = cli.folder / "lock.json"
        lock = json.loads(path.read_text())
        tools = lock["servers"]["notebook"]
        tools["write"]["description"] = "other"
        tools["old"] = tools.pop("pid")
        path.write_text(json.dumps(lock))
        done = cli("check", "notebook", "--lock", "lock.json")
        assert done.code == 5
        for line in (
            "notebook.pid: new",
            "notebook.old: gone",
            "notebook.write: changed: description",
            "3 differences",
        ):
            assert line in done.err
        assert "is no lock" in cli("check", "notebook", "--lock", "mcp.json").err

    def test_the_hammer_finds_a_tool_that_loses_writes_and_no_other(self, cli: Cli, tmp_path: Path) -> None:
        loses = tmp_path / "loses.py"
        loses.write_text(
            "import asyncio\nfrom mcp.server import MCPServer\n"
            "server = MCPServer('loses')\nkept = []\n"
            "@server.tool()\n"
            "async def put(text: str) -> str:\n"
            "    global kept\n    before = list(kept)\n    await asyncio.sleep(0.01)\n"
            "    kept = [*before, text]\n    return 'ok'\n"
            "@server.tool()\n"
            "async def show() -> list[str]:\n    return kept\n"
            "server.run('stdio')\n"
        )
        done = cli(
            "check",
            "--hammer",
            "put",
            "--arg",
            "text={i}",
            "--then",
            "show",
            "--calls",
            "20",
            "--",
            sys.executable,
            str(loses),
        )
        assert done.code == 5, done
        assert "20 calls at once gave the same answers as in sequence" in done.out
        assert "afterwards: different" in done.out
        assert '"max_in_flight": 1' in done.err
        done = cli("check", "--hammer", "notebook.write", "--arg", "text={i}", "--then", "read", "--calls", "20")
        assert done.code == 0, done
        assert "afterwards: the same" in done.out


class TestConfig:
    def test_show_hides_secrets_and_says_from_where(self, cli: Cli) -> None:
        cli.configure({"a": {"command": "s", "args": ["--token", "hunter2"], "env": {"KEY": "hunter2"}}}, "mcp.json")
        for words in (["show"], ["show", "--format", "json"], ["show", "mcp.json", "--format", "ndjson"]):
            done = cli("config", *words)
            assert done.code == 0, done
            assert "hunter2" not in done.out + done.err
            assert "mcp.json:1:" in done.out

    def test_validate_gives_every_problem_with_its_place(self, cli: Cli) -> None:
        done = cli("config", "validate", "--format", "ndjson")
        assert done.code == 1
        (problem,) = [json.loads(line) for line in done.out.splitlines()]
        assert problem["field"] == "mcpServers.wrong.command"
        assert problem["line"] == 1
        cli.configure({"a": {"command": "s"}})
        assert cli("config", "validate").out == f"{cli.folder}/mcp.json: 1 servers, no problem\n"

    def test_discover_and_schema(self, cli: Cli) -> None:
        cli.configure({}, "home/.cursor/mcp.json")
        done = cli("config", "discover", "--format", "json")
        assert [(row["host"], row["scope"], row["servers"]) for row in done.json] == [
            ("trio-mcp-pool", "project", "7"),
            ("cursor", "user", "0"),
        ]
        assert cli("config", "schema").json["title"] == "MCP servers for trio_mcp_pool"

    @pytest.mark.parametrize(
        ("host", "path", "text"),
        [
            (
                "claude-desktop",
                "home/.config/Claude/claude_desktop_config.json",
                '{"mcpServers": {"n": {"command": C, "args": A}}}',
            ),
            ("claude-code", ".mcp.json", '{"mcpServers": {"n": {"type": "stdio", "command": C, "args": A}}}'),
            ("vscode", ".vscode/mcp.json", '{/* c */ "servers": {"n": {"type": "stdio", "command": C, "args": A,},}}'),
            (
                "cursor",
                ".cursor/mcp.json",
                '{"mcpServers": {"n": {"command": C, "args": A, "env": {"H": "${env:HOME}"}}}}',
            ),
            (
                "fastmcp",
                "fastmcp.json",
                '{"mcpServers": {"n": {"transport": "stdio", "command": C, "args": A, "timeout": 30000}}}',
            ),
            (
                "gemini",
                ".gemini/settings.json",
                '{"mcpServers": {"n": {"command": C, "args": A, "env": {"H": "$HOME"}, "trust": true}}}',
            ),
            ("codex", ".codex/config.toml", "[mcp_servers.n]\ncommand = C\nargs = A\nstartup_timeout_sec = 20"),
            (
                "cline",
                "cline_mcp_settings.json",
                '{"mcpServers": {"n": {"command": C, "args": A, "timeout": 60, "disabled": false}}}',
            ),
            ("roo", ".roo/mcp.json", '{"mcpServers": {"n": {"command": C, "args": A, "alwaysAllow": ["read"]}}}'),
        ],
    )
    def test_import_from_each_host_then_list(self, cli: Cli, host: str, path: str, text: str) -> None:
        (cli.folder / "mcp.json").unlink()
        file = cli.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace('command": C', f'command": {json.dumps(NOTEBOOK[0])}').replace(
            "= C", f"= {json.dumps(NOTEBOOK[0])}"
        )
        file.write_text(
            text.replace('args": A', f'args": {json.dumps(NOTEBOOK[1:])}').replace(
                "= A", f"= {json.dumps(NOTEBOOK[1:])}"
            )
        )
        done = cli("config", "import", path if host == "cline" else host)
        assert (done.code, done.err) == (0, ""), done
        assert "n: imported from" in done.out
        assert (cli.folder / "mcp.json").stat().st_mode & 0o777 == 0o600
        done = cli("list", "mcp.json", "--format", "json")
        assert done.code == 0, done
        assert len(done.json[0]["tools"]) == 5
        again = cli("config", "import", path)
        assert again.out == "n: there already, the same\n"

    def test_import_keeps_what_is_there_unless_told_to_replace_it(self, cli: Cli) -> None:
        cli.configure({"n": {"command": "mine"}, "m": {"command": "mine"}})
        cli.configure({"n": {"command": "theirs", "env": {"KEY": "${NOT_SET}"}}, "bad": {}}, "their.json")
        done = cli("config", "import", "their.json")
        assert "n: there already, and different; kept" in done.err
        assert "bad: left out" in done.err
        done = cli("config", "import", "their.json", "--replace")
        assert "n: replaced from" in done.out
        ours = json.loads((cli.folder / "mcp.json").read_text())["mcpServers"]
        assert ours == {
            "n": {"type": "stdio", "command": "theirs", "env": {"KEY": "${NOT_SET}"}},
            "m": {"command": "mine"},
        }

    def test_import_does_not_write_over_comments(self, cli: Cli) -> None:
        (cli.folder / "mcp.json").write_text('{"mcpServers": {}} // mine')
        cli.configure({"n": {"command": "s"}}, "their.json")
        done = cli("config", "import", "their.json")
        assert done.code == 1
        assert "its comments would be lost" in done.err
        assert (cli.folder / "mcp.json").read_text().endswith("// mine")


class TestLoads:
    def test_bench_compares_the_two_ways(self, cli: Cli) -> None:
        done = cli("bench", "echo.echo", "--duration", "500ms", "--concurrency", "2", "--format", "json")
        assert done.code == 0, done
        alone, pool = done.json
        assert (alone["way"], pool["way"]) == ("session per call", "pool")
        assert pool["perSecond"] > alone["perSecond"]
        assert pool["p50Seconds"] <= pool["p90Seconds"] <= pool["p99Seconds"]
        done = cli("bench", "echo.echo", "--duration", "300ms", "--rate", "50")
        assert "P99" in done.out
        assert "#" in done.out

    def test_a_rate_bounds_the_calls(self, cli: Cli) -> None:
        done = cli("bench", "echo.echo", "--duration", "1s", "--rate", "20", "--concurrency", "4", "--format", "json")
        assert done.json[1]["calls"] <= 20

    def test_top_looks_at_the_pool_while_it_works(self, cli: Cli) -> None:
        done = cli("top", "notebook.echo", "text=x", "--duration", "600ms", "--every", "100ms", "--format", "json")
        assert done.code == 0, done
        looks = [json.loads(line) for line in done.out.splitlines()]
        assert len(looks) >= 3
        assert looks[-1]["calls"] > looks[0]["calls"]
        (server,) = looks[-1]["servers"]
        assert server["sessions"] == 1
        assert server["memory"] is None or server["memory"] > 1_000_000

    def test_top_runs_a_script(self, cli: Cli) -> None:
        (cli.folder / "load").write_text("call notebook.echo text='a b' # one\n\necho.echo text=y\n")
        done = cli("top", "--script", "load", "--duration", "300ms", "--every", "100ms")
        assert done.code == 0, done
        assert "notebook" in done.out
        assert "echo" in done.out


class TestShell:
    LINES = (
        "list notebook\nnotebook.write text='a b'\ncall notebook read\nnotebook.wrte\nstats\nservers\nhelp\n'\n\n"
        "quit\nlist\n"
    )

    def test_the_same_words_over_one_open_pool(self, cli: Cli) -> None:
        done = cli("shell", "notebook", stdin=self.LINES)
        assert "line 1 written\na b\n" in done.out, done
        assert "did you mean 'write'?" in done.err
        assert "No closing quotation" in done.err
        assert done.out.count("CONNECTED IN") == 1, "nothing is read after quit"
        assert done.code == 1, "of the line that failed"

    def test_another_server_joins_the_pool_when_it_is_named(self, cli: Cli) -> None:
        done = cli("shell", "notebook", stdin="echo.echo text=hi\nservers\n")
        assert done.code == 0, done
        assert "hi\n" in done.out
        assert done.out.count("StdioServer") == 2


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_each_shell_accepts_its_script(self, cli: Cli, shell: str) -> None:
        script = cli("completion", shell).out
        assert "__complete" in script
        if subprocess.run(["which", shell], capture_output=True, check=False).returncode == 0:
            subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=20)

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["ca"], ["call"]),
            (["co"], ["complete", "completion", "config"]),
            (["config", "s"], ["schema", "show"]),
            (["call", "--fo"], ["--format"]),
            (["list", "--format", ""], ["json", "ndjson", "table"]),
            (["completion", "b"], ["bash"]),
            (["call", "ev"], ["every.thing"]),
            (["list", "e"], ["echo", "every.thing"]),
            (["list", "--config", ""], []),
        ],
    )
    def test_words_servers_and_options_are_completed(self, cli: Cli, words: list[str], found: list[str]) -> None:
        assert cli("__complete", *words).out.split() == found

    def test_bash_completes_in_earnest(self, cli: Cli) -> None:
        script = cli("completion", "bash").out
        program = f'trio-mcp-pool() {{ {" ".join(PROGRAM)} "$@"; }}; COMP_WORDS=(trio-mcp-pool call ev); COMP_CWORD=2'
        command = f"{script}\n{program}; _trio_mcp_pool 2>/dev/null; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True, cwd=cli.folder, env=cli.env
        )
        assert done.stdout == "every.thing\n"


@pytest.mark.parametrize(
    "words",
    [
        ["check", "notebook"],
        pytest.param(["list", "notebook"], marks=pytest.mark.exhaustive),
        pytest.param(["call", "notebook.echo", "text=x"], marks=pytest.mark.exhaustive),
    ],
    ids=" ".join,
)
def test_without_the_extra_everything_still_works(plain_cli: Cli, words: list[str]) -> None:
    done = plain_cli(*words)
    assert done.code == 0, done
