"""The arguments of the command line, for argparse, which is always there.

A library of the extra would need a second way for those who do not have it. This module must stay quick to import: `--help` and
completion run nothing else.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from typing import Any, NoReturn

EXIT_USAGE = 1

_TARGETS = """\
A TARGET is the name of a server in a configuration file that is found here (see `config discover`), `file.json:name`,
`file.json` for all servers of a file, a URL, or, after everything else, `-- COMMAND ARGUMENTS...` to start one.
A tool is written `target.tool`, or as a word of its own after the target.

exit status: 0 ok, 1 usage, 3 authentication, 4 unreachable, 5 the tool's error, 124 deadline, 130 and 143 signals
"""
_VALUES = """\
Arguments are `name=value` (read as the tool's schema says), `name:=JSON`, `--json '{...}'`, `@file` with a JSON object, or
`-` to read one from stdin.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, and exits with 1."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2]), n=1)
            message = f"no such command or choice: {found[1]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        message += f" (see `{self.prog} --help`)"
        if _wants_json(sys.argv):
            line = json.dumps({"error": {"code": EXIT_USAGE, "kind": "usage", "message": message}})
            self.exit(EXIT_USAGE, line + "\n")
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def _wants_json(arguments: list[str]) -> bool:
    text = " ".join(arguments)
    return re.search(r"--format[ =](nd)?json\b", text) is not None


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import importlib.metadata  # takes a while, so only when it is asked for

        sys.stdout.write(f"trio-mcp-pool {importlib.metadata.version('trio-mcp-pool')}\n")
        parser.exit()


def _common() -> Parser:
    common = Parser(add_help=False)
    group = common.add_argument_group("options of every command")
    group.add_argument(
        "--format",
        choices=["table", "json", "ndjson"],
        default="table",
        help="how results are written to stdout; JSON is the protocol's own result object. Default: table",
    )
    group.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="look for names in this file only; may be repeated",
    )
    group.add_argument(
        "--timeout",
        metavar="DURATION",
        help="give up after this long, such as 500ms, 10s, 5m (exit status 124). Default: never",
    )
    group.add_argument(
        "--connect-timeout", metavar="DURATION", help="how long a dial may take. Default: 30s, or what the file says"
    )
    group.add_argument("-v", "--verbose", action="store_true", help="show what servers write to stderr, and tracebacks")
    adhoc = common.add_argument_group("options of a target that is a URL or a command")
    adhoc.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="a header of every request")
    adhoc.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable")
    adhoc.add_argument("--cwd", metavar="FOLDER", help="the working directory of the command")
    adhoc.add_argument(
        "--transport",
        choices=["http", "sse"],
        help="how the URL is spoken to. Default: http, or sse if it ends in /sse",
    )
    return common


def build_parser() -> Parser:
    """The parser of the whole command line. Words after `--` are taken out beforehand."""
    parser = Parser(
        prog="trio-mcp-pool",
        description="Try MCP servers, and the pool that holds their sessions.",
        epilog=_TARGETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    common = _common()

    def command(name: str, text: str, epilog: str = _TARGETS) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    listing = command("list", "list the tools of servers, with their signatures")
    listing.add_argument(
        "words", nargs="*", metavar="TARGET", help="default: all servers of the files found for this project"
    )
    listing.add_argument("--resources", action="store_true", help="list resources and their templates too")
    listing.add_argument("--prompts", action="store_true", help="list prompts too")
    listing.add_argument("--schema", action="store_true", help="show the schema of each tool's arguments")

    call = command("call", "call a tool", _VALUES + "\n" + _TARGETS)
    call.add_argument("words", nargs="*", metavar="TARGET.TOOL ARGUMENT", help="the tool and its arguments")
    call.add_argument("--json", dest="json_arguments", metavar="OBJECT", help="the arguments as a JSON object")
    call.add_argument("--each", metavar="FILE", help="call once for each line of a file of JSON objects; - for stdin")
    call.add_argument("--jobs", type=_count, default=8, metavar="N", help="calls at a time with --each. Default: 8")

    read = command("read", "read a resource")
    read.add_argument("words", nargs="*", metavar="TARGET URI", help="the server and the resource's URI")
    prompt = command("prompt", "get a prompt", _VALUES + "\n" + _TARGETS)
    prompt.add_argument("words", nargs="*", metavar="TARGET.PROMPT NAME=VALUE", help="the prompt and its arguments")
    complete = command("complete", "ask a server to complete an argument of a prompt or of a resource template")
    complete.add_argument(
        "words",
        nargs="*",
        metavar="TARGET.PROMPT NAME=START",
        help="the prompt, or TARGET and a template's URI; what was typed so far",
    )

    grep = command("grep", "search the names and descriptions of everything that servers have")
    grep.add_argument("pattern", metavar="PATTERN", help="a regular expression; small letters match capitals too")
    grep.add_argument(
        "words", nargs="*", metavar="TARGET", help="default: all servers of the files found for this project"
    )

    check = command("check", "dial servers and say how they are")
    check.add_argument(
        "words", nargs="*", metavar="TARGET", help="default: all servers of the files found for this project"
    )
    check.add_argument(
        "--lock", metavar="FILE", help="compare tools and schemas with this file; exit status 5 if they differ"
    )
    check.add_argument("--write-lock", metavar="FILE", help="write tools and schemas to this file")
    check.add_argument(
        "--hammer",
        metavar="TARGET.TOOL",
        help="call a tool many times at once and in sequence, and compare the answers",
    )
    check.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument for --hammer; {i} is the call's number, {run} the run's, also in the server's args and env",
    )
    check.add_argument(
        "--then", metavar="TOOL", help="with --hammer: a tool whose answer after each run is compared too"
    )
    check.add_argument("--calls", type=_count, default=50, metavar="N", help="calls for --hammer. Default: 50")

    _config(commands, common)

    bench = command("bench", "compare a session per call with the pool", _VALUES + "\n" + _TARGETS)
    bench.add_argument("words", nargs="*", metavar="TARGET.TOOL ARGUMENT", help="the tool and its arguments")
    bench.add_argument("--json", dest="json_arguments", metavar="OBJECT", help="the arguments as a JSON object")
    bench.add_argument("--concurrency", type=_count, default=8, metavar="N", help="callers at a time. Default: 8")
    bench.add_argument(
        "--duration", default="3s", metavar="DURATION", help="how long each way is measured. Default: 3s"
    )
    bench.add_argument(
        "--rate", type=float, metavar="CALLS", help="calls begun per second, over all callers. Default: as many as go"
    )

    top = command("top", "watch the pool under a load", _VALUES + "\n" + _TARGETS)
    top.add_argument("words", nargs="*", metavar="TARGET.TOOL ARGUMENT", help="the tool to call, and its arguments")
    top.add_argument("--json", dest="json_arguments", metavar="OBJECT", help="the arguments as a JSON object")
    top.add_argument("--script", metavar="FILE", help="instead of one tool: a file of `call` lines, run over and over")
    top.add_argument("--concurrency", type=_count, default=8, metavar="N", help="callers at a time. Default: 8")
    top.add_argument("--duration", default="10s", metavar="DURATION", help="how long. Default: 10s")
    top.add_argument("--every", default="500ms", metavar="DURATION", help="how often to look. Default: 500ms")

    login = command("login", "log in to a server by OAuth, in the browser")
    login.add_argument("words", nargs="*", metavar="TARGET", help="a name from a file, or a URL")
    login.add_argument("--no-browser", action="store_true", help="print the URL instead of opening it")
    logout = command("logout", "forget the tokens of a server")
    logout.add_argument("words", nargs="*", metavar="TARGET", help="a name from a file, or a URL")

    shell = command("shell", "a prompt over one open pool, with the same words as the commands")
    shell.add_argument(
        "words", nargs="*", metavar="TARGET", help="default: all servers of the files found for this project"
    )

    completion = commands.add_parser(
        "completion", help="print the completion script of a shell", description="Prints a script for a shell."
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    hidden = commands.add_parser("__complete")
    hidden.add_argument("words", nargs="*")
    # Without a help text it would be shown as an empty line.
    commands._choices_actions = [action for action in commands._choices_actions if action.dest != "__complete"]
    _demo(commands)
    return parser


def _config(commands: Any, common: Parser) -> None:
    config = commands.add_parser(
        "config", help="show, check and import configuration files", description="Configuration files."
    )
    verbs = config.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    show = verbs.add_parser("show", parents=[common], help="what was read, from where; secrets are hidden")
    show.add_argument("words", nargs="*", metavar="FILE", help="default: the files found for this project")
    validate = verbs.add_parser(
        "validate", parents=[common], help="all problems of a file; exit status 1 if there is any"
    )
    validate.add_argument("words", nargs="*", metavar="FILE", help="default: the files found for this project")
    verbs.add_parser("discover", parents=[common], help="which files are there")
    verbs.add_parser("schema", help="print the JSON schema of our own file, for editors")
    merge = verbs.add_parser("import", parents=[common], help="merge a host's file into ours")
    merge.add_argument(
        "words", nargs="*", metavar="FILE", help="the host's file, or the host's name as `config discover` shows it"
    )
    merge.add_argument("--into", default="mcp.json", metavar="FILE", help="our file. Default: mcp.json")
    merge.add_argument(
        "--replace", action="store_true", help="replace servers of the same name instead of keeping them"
    )


def _demo(commands: Any) -> None:
    commands.add_parser(
        "demo",
        help="show on real servers what the pool does, in under twenty seconds",
        description="Starts two small servers and shows what a session per call costs and what the pool does instead. "
        "Exits with 1, naming what failed, if anything it shows did not happen.",
    )
    serve = commands.add_parser(
        "demo-server",
        help="run one of the demo's servers, to try a client on",
        description="Runs one of the demo's servers until its stdin ends.",
    )
    serve.add_argument(
        "name",
        choices=["notebook", "board"],
        help="notebook speaks over stdin and stdout; board over HTTP, and prints its port",
    )
    serve.add_argument("--port", type=int, default=0, help="board only: the port on 127.0.0.1; 0, the default, is any")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 10000 is needed")
    return int(text)


def parse(arguments: list[str], parser: Parser | None = None) -> argparse.Namespace:
    """The options; `server_command` has what stood after `--`. Exits with 1 where they are wrong."""
    parser = parser or build_parser()
    before, after = arguments, []
    if "--" in arguments and arguments[:1] != ["__complete"]:
        at = arguments.index("--")
        before, after = arguments[:at], arguments[at + 1 :]
    if arguments[:1] == ["__complete"]:
        return argparse.Namespace(command="__complete", words=arguments[1:], server_command=[])
    options, more = parser.parse_known_args(before)
    wrong = [word for word in more if word.startswith("-") and word != "-"]
    if wrong or (more and not hasattr(options, "words")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or more)}")
    if more:
        options.words = [*options.words, *more]  # positional words after an option
    options.server_command = after
    if after and options.command in ("config", "completion", "demo", "demo-server"):
        parser.error(f"{options.command} takes no command after --")
    return options


def colour_wanted() -> bool:
    """Whether colour may be used at all: see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
