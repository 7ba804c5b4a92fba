"""What `load_servers` makes of a configuration, beside what the golden files show."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
from pathlib import Path

import httpx2
import jsonschema
import pytest
import trio

import trio_mcp_pool
from trio_mcp_pool import Backoff, HttpServer, PoolPolicy, StdioServer, open_pool
from trio_mcp_pool.config import (
    ConfigError,
    Input,
    OAuth,
    Problem,
    config_schema,
    discover_configs,
    dump_entries,
    load_servers,
    parse_duration,
)
from trio_mcp_pool.config._policy import FILE_KEYS, OWN_KEYS, POLICY_KEYS, SERVER_KEYS

GOLDEN = Path(__file__).parent / "golden"
ENVIRON = {"HOME": "/home/ada", "TOKEN": "t0ken-hunter2", "WHO": "ada", "LEVEL": "high"}


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def told(problems: tuple[Problem, ...]) -> list[str]:
    return [f"{problem.field}: {problem.message}" for problem in problems]


async def test_what_is_loaded_goes_into_a_pool_as_it_is(tmp_path: Path) -> None:
    server = {"command": sys.executable, "args": ["-m", "tests.servers.echo_stdio"], "env": {"NOTE": "${WHO:-nobody}"}}
    path = write(tmp_path / "mcp.json", {"mcpServers": {"echo": server}})
    servers = load_servers(path, environ={})
    with trio.fail_after(30):
        async with open_pool(servers, **servers.options) as pool:
            result = await pool.call_tool("echo", "env", {"name": "NOTE"})
    assert result.content[0].text == "nobody"


def test_a_mapping_is_read_like_a_file() -> None:
    servers = load_servers({"a": {"command": Path("/bin/a")}, "b": {"url": "http://127.0.0.1/mcp", "x": 1}})
    assert servers == {"a": StdioServer("/bin/a", env={}), "b": HttpServer("http://127.0.0.1/mcp")}
    assert servers.source == "<mapping>"
    assert [str(problem) for problem in servers.problems] == [
        "<mapping>: warning: b.x: this field is not known. Remove it, or see the documentation of the format."
    ]


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_servers(tmp_path / "mcp.json")
    with pytest.raises(ConfigError, match="no ordinary file"):
        load_servers("/dev/zero")
    with pytest.raises(ConfigError, match="no ordinary file"):
        load_servers(tmp_path)


def test_an_unknown_host_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="host must be one of trio-mcp-pool, claude-desktop"):
        load_servers({}, host="emacs")


def test_the_error_has_all_problems_and_survives_pickle_and_copy() -> None:
    with pytest.raises(ConfigError) as raised:
        load_servers({"mcpServers": {"a": {}, "b": 3}}, strict=True)
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
        assert isinstance(error, ConfigError)
        assert isinstance(error, ValueError)
        assert told(error.problems) == [
            "mcpServers.a: neither command nor url is given",
            "mcpServers.b: it must be an object, not a number",
        ]
        assert error.outcome == "not run"
        assert str(error).startswith("<mapping> has 2 problems:\n  <mapping>: error: mcpServers.a: ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("never", float("inf"))]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "", "s", "-1s", "1 year", "1e3s", "9" * 1000])
def test_what_has_no_unit_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a number and its unit"):
        parse_duration(text)


class TestInputs:
    CONFIG = GOLDEN / "vscode" / ".vscode" / "mcp.json"

    def test_each_is_asked_for_once_and_only_if_a_server_needs_it(self) -> None:
        asked: list[Input] = []

        def ask(wanted: Input) -> str:
            asked.append(wanted)
            return "us" if wanted.options else "hunter2"

        servers = load_servers(self.CONFIG, environ=ENVIRON, ask=ask)
        assert [(i.id, i.password, i.options, i.default, i.description) for i in asked] == [
            ("region", False, ("eu", "us"), "eu", "Where"),
            ("key", True, (), None, "The key"),
            ("ext", False, (), None, ""),
        ] or {i.id for i in asked} == {"key", "region", "ext"}
        assert len(asked) == 3
        assert servers.problems == ()
        search = servers["search"]
        assert isinstance(search, StdioServer)
        assert search.args == ("search", "us")
        assert search.env == {
            "FROM_FILE": "a b",
            "QUOTED": "# kept",
            "WHO": "ada",
            "API_KEY": "hunter2",
            "HOUSE": "/home/ada",
        }
        assert search.cwd == str(GOLDEN / "vscode" / "tools")
        assert servers.files == (self.CONFIG, GOLDEN / "vscode" / ".env")

    def test_an_answer_must_be_one_of_the_options_and_none_is_a_problem(self) -> None:
        servers = load_servers(self.CONFIG, environ=ENVIRON, ask=lambda i: "mars" if i.options else None)
        assert "servers.search.args[1]: the answer for the input 'region' is none of its options" in told(
            servers.problems
        )
        assert "servers.remote.headers.X-Key: the input 'ext' has no value: no answer was given" in told(
            servers.problems
        )
        assert list(servers) == ["relative"]


class TestAuth:
    CONFIG = GOLDEN / "cursor" / ".cursor" / "mcp.json"

    def test_the_function_is_told_what_the_file_says(self) -> None:
        wanted: list[OAuth] = []
        auth = httpx2.BasicAuth("ada", "hunter2")

        def log_in(oauth: OAuth) -> httpx2.Auth:
            wanted.append(oauth)
            return auth

        servers = load_servers(self.CONFIG, environ=ENVIRON, auth=log_in)
        remote = servers["remote"]
        assert isinstance(remote, HttpServer)
        assert remote.auth is auth
        assert wanted == [OAuth("remote", "https://mcp.example.org/mcp", "me", "t0ken-hunter2", ("read", "write"))]
        assert "hunter2" not in repr(wanted)


class TestHelpers:
    """R16: secrets from a command, run for every dial."""

    @staticmethod
    def server(command: str, **more: object) -> HttpServer:
        entry = {"type": "http", "url": "http://127.0.0.1/mcp", "headersHelper": command, **more}
        server = load_servers({"mcpServers": {"a": entry}})["a"]
        assert isinstance(server, HttpServer)
        return server

    async def test_what_it_prints_is_added_to_the_headers(self) -> None:
        command = (
            'printf \'{"X-Name": "%s", "X-Url": "%s"}\' "$CLAUDE_CODE_MCP_SERVER_NAME" "$CLAUDE_CODE_MCP_SERVER_URL"'
        )
        server = self.server(command, headers={"X-Fixed": "1"})
        assert callable(server.headers)
        with trio.fail_after(20):
            got = await server.headers()  # type: ignore[misc, call-arg]
        assert got == {"X-Fixed": "1", "X-Name": "a", "X-Url": "http://127.0.0.1/mcp"}
        assert server == self.server(command, headers={"X-Fixed": "1"})
        assert server != self.server(command, headers={"X-Fixed": "2"})

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("echo hunter2; exit 3", "ended with status 3"),
            ("echo hunter2", "printed no JSON"),
            ("echo '{\"hunter2\": 2}'", "must print a JSON object of strings"),
            ("echo [1]", "must print a JSON object of strings"),
            ("yes hunter2", "printed more than 1048576 bytes"),
        ],
    )
    async def test_a_failure_names_the_server_and_repeats_nothing(self, command: str, message: str) -> None:
        server = self.server(command)
        with trio.fail_after(20):
            with pytest.raises(RuntimeError) as raised:
                await server.headers()  # type: ignore[misc, call-arg, operator]
        assert message in str(raised.value)
        assert "'a'" in str(raised.value)
        assert "hunter2" not in str(raised.value) + repr(server) + repr(server.headers)

    async def test_one_that_hangs_is_ended_with_all_that_it_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """R15."""
        monkeypatch.setattr("trio_mcp_pool.config._secrets.COMMAND_SECONDS", 0.3)
        server = self.server("sleep 600 & sleep 600")
        with trio.fail_after(20):
            with pytest.raises(RuntimeError, match="did not end within 0.3 s"):
                await server.headers()  # type: ignore[misc, call-arg, operator]

    async def test_an_env_helper_does_the_same_for_a_process(self) -> None:
        entry = {"command": "s", "env": {"A": "1"}, "pool": {"env_helper": 'echo \'{"B": "2"}\''}}
        server = load_servers({"a": entry})["a"]
        assert isinstance(server, StdioServer)
        with trio.fail_after(20):
            assert await server.env() == {"A": "1", "B": "2"}  # type: ignore[misc, call-arg, operator]


class TestOurKeys:
    def test_a_servers_keys_change_those_of_the_file_and_of_the_program(self) -> None:
        config = {
            "pool": {"idle_timeout": "1m", "max_sessions": 3, "trusted": True},
            "mcpServers": {
                "a": {"command": "s"},
                "b": {"command": "s", "pool": {"max_sessions": 1, "backoff": {"first": 1}, "trusted": False}},
            },
        }
        base = PoolPolicy(drain_timeout=5, max_in_flight=2)
        servers = load_servers(config, policy=base)
        assert servers["a"].policy == dataclasses.replace(base, idle_timeout=60, max_sessions=3)
        assert servers["b"].policy == dataclasses.replace(
            base, idle_timeout=60, max_sessions=1, backoff=Backoff(first=1)
        )
        assert (servers["a"].trusted, servers["b"].trusted) == (True, False)
        assert servers.problems == ()

    def test_a_server_without_keys_keeps_the_pools_policy(self) -> None:
        assert load_servers({"a": {"command": "s"}})["a"].policy is None

    def test_numbers_that_only_together_are_wrong_are_a_problem_of_the_server(self) -> None:
        config = {
            "pool": {"min_sessions": 2, "max_sessions": 4},
            "mcpServers": {"a": {"command": "s", "pool": {"max_sessions": 1}}},
        }
        servers = load_servers(config)
        assert servers == {}
        assert told(servers.problems) == ["mcpServers.a.min_sessions: it must be at most max_sessions (1)"]

    def test_the_schema_has_every_key_and_no_other(self) -> None:
        schema = config_schema()
        jsonschema.Draft7Validator.check_schema(schema)
        keys = schema["definitions"]["pool"]["properties"].keys()
        assert keys == {*POLICY_KEYS, *SERVER_KEYS, *OWN_KEYS} | {"max_overlap"}
        assert schema["properties"]["pool"]["properties"].keys() == {*keys, *FILE_KEYS} - {"env_helper"}
        backoff = schema["definitions"]["pool"]["properties"]["backoff"]["properties"]
        assert backoff.keys() == {field.name for field in dataclasses.fields(Backoff)}

    def test_the_schema_has_the_policys_defaults(self) -> None:
        properties = config_schema()["definitions"]["pool"]["properties"]
        plain = PoolPolicy()
        for name in POLICY_KEYS:
            if "default" in properties[name]:
                given = properties[name]["default"]
                assert (float("inf") if given == "inf" else given) == getattr(plain, name), name

    @pytest.mark.parametrize(
        "pool", [{"idle_timeout": "5"}, {"max_sesions": 1}, {"backoff": {"jitter": 2}}, {"wire": "x"}]
    )
    def test_the_schema_refuses_what_the_reader_reports(self, pool: object) -> None:
        config = {"mcpServers": {"a": {"command": "s", "pool": pool}}}
        assert load_servers(config).problems
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(config, config_schema())


@pytest.mark.parametrize(
    "name",
    [
        "claude_desktop_config.json",
        "claude-code/.mcp.json",
        "vscode/.vscode/mcp.json",
        "cursor/.cursor/mcp.json",
        "fastmcp.json",
        "gemini/.gemini/settings.json",
        "codex/.codex/config.toml",
        "cline_mcp_settings.json",
        "roo/.roo/mcp.json",
        "ours/mcp.json",
    ],
)
def test_each_format_written_in_our_words_gives_the_same_servers(name: str, tmp_path: Path) -> None:
    path = GOLDEN / name

    def ask(wanted: Input) -> str:
        return wanted.options[0] if wanted.options else "answer"

    auth = httpx2.BasicAuth("a", "b")
    theirs = load_servers(path, environ=ENVIRON, ask=ask, auth=lambda _: auth)
    ours = dump_entries(theirs.entries.values(), redacted=False)
    ours["inputs"] = [{"id": i.id, "type": "promptString"} for i in theirs.inputs]
    jsonschema.validate(ours, config_schema())
    written = write(tmp_path / "mcp.json", ours)
    workspace = path.parent.parent if path.parent.name.startswith(".") else path.parent
    again = load_servers(
        written,
        environ=ENVIRON,
        workspace=workspace,
        ask=lambda i: "eu" if i.id == "region" else "answer",
        auth=lambda _: auth,
    )
    if name == "ours/mcp.json":
        # The "pool" at the top of the file is no server's.
        for name, server in theirs.items():
            assert again[name]._same_but_policy(server)
    else:
        assert again == theirs
    assert {n: e.enabled for n, e in again.entries.items()} == {n: e.enabled for n, e in theirs.entries.items()}
    assert [(e.include_tools, e.exclude_tools, e.approved_tools) for e in again.entries.values()] == [
        (e.include_tools, e.exclude_tools, e.approved_tools) for e in theirs.entries.values()
    ]


def test_what_is_shown_hides_what_may_be_secret() -> None:
    """R16."""
    config = {
        "a": {
            "command": "s",
            "args": [
                "--api-key",
                "hunter2",
                "--token=hunter2",
                "-H",
                "X: hunter2",
                "https://u:hunter2@h/",
                "--level",
                "info",
            ],
            "env": {"A": "hunter2", "B": "${B}", "C": "Bearer ${C}", "D": "${D:-hunter2}"},
            "pool": {"env_helper": "echo hunter2"},
        },
        "b": {
            "url": "https://u:hunter2@h.example:8080/mcp?key=hunter2",
            "headers": {"Authorization": "Bearer hunter2", "X": "${X}"},
            "headersHelper": "print hunter2",
            "oauth": {"clientSecret": "hunter2", "clientId": "me"},
            "pool": {"proxy": "http://u:hunter2@proxy"},
        },
    }
    shown = dump_entries(load_servers(config, environ=dict.fromkeys("BCDX", "v")).entries.values())
    assert "hunter2" not in json.dumps(shown)
    assert shown["mcpServers"]["a"]["args"] == [
        "--api-key",
        "***",
        "--token=***",
        "-H",
        "***",
        "https://h/",
        "--level",
        "info",
    ]
    assert shown["mcpServers"]["a"]["env"] == {"A": "***", "B": "${B}", "C": "Bearer ${C}", "D": "***"}
    assert shown["mcpServers"]["b"]["url"] == "https://h.example:8080/mcp?***"


class TestDiscovery:
    def test_the_projects_files_come_first_and_ours_before_the_hosts(self, tmp_path: Path) -> None:
        home, project = tmp_path / "home", tmp_path / "home" / "work" / "project"
        (project / ".git").mkdir(parents=True)
        inside = project / "src" / "deep"
        inside.mkdir(parents=True)
        for place in ("mcp.json", ".mcp.json", ".vscode/mcp.json", ".codex/config.toml", "src/.cursor/mcp.json"):
            write(project / place, {})
        write(home / "work" / ".mcp.json", {})  # above the repository
        user = home / ".config" / "Code" / "User"
        for path in (
            home / ".claude.json",
            home / ".cursor" / "mcp.json",
            home / ".gemini" / "settings.json",
            home / ".config" / "trio-mcp-pool" / "mcp.json",
            home / ".config" / "Claude" / "claude_desktop_config.json",
            user / "mcp.json",
            user / "globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
            user / "globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json",
        ):
            write(path, {})
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").mkdir()  # no file
        found = discover_configs(inside, environ={"HOME": str(home)}, platform="linux")
        assert [(f.host, f.scope, str(f.path.relative_to(home))) for f in found] == [
            ("cursor", "project", "work/project/src/.cursor/mcp.json"),
            ("trio-mcp-pool", "project", "work/project/mcp.json"),
            ("claude-code", "project", "work/project/.mcp.json"),
            ("vscode", "project", "work/project/.vscode/mcp.json"),
            ("codex", "project", "work/project/.codex/config.toml"),
            ("trio-mcp-pool", "user", ".config/trio-mcp-pool/mcp.json"),
            ("claude-code", "user", ".claude.json"),
            ("claude-desktop", "user", ".config/Claude/claude_desktop_config.json"),
            ("vscode", "user", ".config/Code/User/mcp.json"),
            (
                "cline",
                "user",
                ".config/Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
            ),
            ("roo", "user", ".config/Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json"),
            ("cursor", "user", ".cursor/mcp.json"),
            ("gemini", "user", ".gemini/settings.json"),
        ]

    @pytest.mark.parametrize(
        ("platform", "place"),
        [
            ("darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
            ("win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ],
    )
    def test_other_systems_keep_them_elsewhere(self, platform: str, place: str, tmp_path: Path) -> None:
        write(tmp_path / place, {})
        found = discover_configs(tmp_path, environ={"HOME": str(tmp_path)}, platform=platform)
        assert [(f.host, str(f.path.relative_to(tmp_path))) for f in found] == [("claude-desktop", place)]


def test_what_claude_code_keeps_for_one_project_counts_for_that_project(tmp_path: Path) -> None:
    path = write(
        tmp_path / ".claude.json",
        {
            "numStartups": 5,
            "mcpServers": {"all": {"command": "a"}, "both": {"command": "a"}},
            "projects": {"/work": {"mcpServers": {"mine": {"command": "b"}, "both": {"command": "b"}}}},
        },
    )
    servers = load_servers(path, workspace="/work")
    assert {name: getattr(server, "command", None) for name, server in servers.items()} == {
        "all": "a",
        "both": "b",
        "mine": "b",
    }
    assert list(load_servers(path, workspace="/elsewhere")) == ["all", "both"]


def test_the_old_place_in_the_settings_of_vs_code_is_read_too(tmp_path: Path) -> None:
    path = write(
        tmp_path / ".vscode" / "settings.json", {"editor.tabSize": 2, "mcp": {"servers": {"a": {"command": "s"}}}}
    )
    servers = load_servers(path)
    assert list(servers) == ["a"]
    assert servers.problems == ()


def test_the_names_of_the_package_are_documented_and_say_where_they_live() -> None:
    from trio_mcp_pool import config

    public = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    classes = {name: value for name, value in public.items() if isinstance(value, type)}
    assert [name for name, value in classes.items() if not value.__doc__] == []
    assert {value.__module__ for value in classes.values()} == {"trio_mcp_pool.config"}
    assert issubclass(ConfigError, trio_mcp_pool.PoolError)
