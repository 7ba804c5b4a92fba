"""`shell`: a prompt over one open pool, with the same words as the commands.

With `prompt_toolkit` (the extra `cli`) there is completion and a history; otherwise lines are read as they come, which also
makes the shell usable in a pipe.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import trio

from .. import Pool, Server
from . import _failures
from ._context import Context
from ._inventory import Inventory, read_all
from ._output import Output
from ._parser import build_parser, parse
from ._run import module_of
from ._targets import Targets
from ._tokens import folder

WORDS = ("list", "call", "read", "prompt", "complete", "grep", "check", "stats", "servers", "help", "quit")
_HELP = """\
list [TARGET]            what servers have
TARGET.TOOL NAME=VALUE   call a tool; `call` may stand before it
read, prompt, complete, grep, check     as the commands
servers                  the servers of this shell
stats                    the pool's sessions and calls
quit, or control-D       leave; control-C ends a call that runs
"""


def prepare(context: Context) -> Mapping[str, Server]:
    """The servers of the shell."""
    return context.targets.many(context.options.words)


class Shell:
    """One shell: its pool, and what it knows of the servers for completion."""

    def __init__(self, context: Context, pool: Pool, targets: Targets) -> None:
        self.context = context
        self.pool = pool
        self.targets = targets
        self.known: dict[str, Inventory] = {}
        self.parser = build_parser()
        self.status = 0

    async def learn(self) -> None:
        """Ask every server what it has, for completion."""
        for inventory in await read_all(self.pool, list(self.targets.open_servers)):
            self.known[inventory.server] = inventory

    def words(self, before: str) -> Iterator[str]:
        """What may stand after this text."""
        parts = before.split(" ")
        tools = [f"{name}.{tool.name}" for name, inventory in self.known.items() for tool in inventory.tools]
        if len(parts) == 1:
            yield from (word for word in (*WORDS, *self.targets.open_servers, *tools) if word.startswith(parts[0]))
            return
        name = next((part for part in parts[:-1] if part in tools), None)
        if name is None:
            yield from (word for word in (*tools, *self.targets.open_servers) if word.startswith(parts[-1]))
            return
        server = max((server for server in self.known if name.startswith(f"{server}.")), key=len)
        tool = next(tool for tool in self.known[server].tools if f"{server}.{tool.name}" == name)
        properties = tool.input_schema.get("properties") or {}
        yield from (f"{argument}=" for argument in properties if f"{argument}=".startswith(parts[-1]))

    async def line(self, text: str) -> bool:
        """Run one line; gives whether the shell goes on."""
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            self.context.out.note(f"trio-mcp-pool: {error}")
            return True
        if not words:
            return True
        if words[0] in ("quit", "exit"):
            return False
        if words[0] == "help":
            self.context.out.text(_HELP.rstrip())
        elif words[0] == "servers":
            self.context.out.rows(
                ("SERVER", "REACHED BY"), [(n, repr(s)) for n, s in self.targets.open_servers.items()]
            )
        elif words[0] == "stats":
            self._stats()
        else:
            self.status = await self._command(words)
        return True

    def _stats(self) -> None:
        servers = self.pool.statistics().servers
        heads = ("SERVER", "STATE", "SESSIONS", "LEASES", "CALLS", "LOST")
        rows = [(n, s.state, s.size, s.leases_in_flight, s.acquires, s.sessions_lost) for n, s in servers.items()]
        self.context.out.rows(heads, [tuple(map(str, row)) for row in rows])

    async def _command(self, words: list[str]) -> int:
        if words[0] not in WORDS:
            words = ["call", *words]
        try:
            options = parse(words, self.parser)
        except SystemExit as error:  # argparse has said what is wrong
            return int(error.code or 0)
        out = Output(options.format)
        try:
            context = Context(options, out, (self.pool, self.targets))
            context.times = self.context.times
            module: Any = module_of(options.command)
            plan = module.prepare(context)
            with trio.CancelScope() as scope:
                self.context.interrupt = scope.cancel
                with trio.fail_after(context.timeout):
                    return int(await module.run(context, plan))
            self.context.out.note("interrupted")
            return 130
        except Exception as error:
            return _failures.report(_failures.explain(error), out.format)
        finally:
            self.context.interrupt = None


async def run(context: Context, servers: Mapping[str, Server]) -> int:
    """Read lines and run them; gives the exit status: in a pipe, of the last line that failed."""
    async with context.new_pool(servers, context.times) as pool:
        context.targets.open_servers = dict(servers)
        shell = Shell(context, pool, context.targets)
        read_line = _reader(shell)
        failed = 0
        async with trio.open_nursery() as nursery:
            if sys.stdin.isatty():
                nursery.start_soon(shell.learn)
            while (text := await trio.to_thread.run_sync(read_line, abandon_on_cancel=True)) is not None:
                shell.status = 0
                if not await shell.line(text):
                    break
                failed = shell.status or failed
            nursery.cancel_scope.cancel(reason="the shell has ended")
    return 0 if sys.stdin.isatty() else failed


def _reader(shell: Shell) -> Callable[[], str | None]:
    """What reads a line, in a thread; `None` at the end."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        toolkit = _toolkit(shell)
        if toolkit is not None:
            return toolkit
    return partial(_plain_line, sys.stdin.isatty())


def _plain_line(prompts: bool) -> str | None:
    if prompts:
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline() or None


def _toolkit(shell: Shell) -> Callable[[], str | None] | None:
    try:
        completion: Any = importlib.import_module("prompt_toolkit.completion")
        history: Any = importlib.import_module("prompt_toolkit.history")
        toolkit: Any = importlib.import_module("prompt_toolkit")
    except ImportError:
        return None

    class Words(completion.Completer):  # type: ignore[misc]
        def get_completions(self, document: Any, event: Any) -> Iterator[Any]:
            before = document.text_before_cursor
            for word in shell.words(before):
                yield completion.Completion(word, start_position=-len(before.rsplit(" ", 1)[-1]))

    path = folder() / "history"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT, 0o600))  # what was typed may hold secrets
    session = toolkit.PromptSession(
        history=history.FileHistory(str(path)), completer=Words(), complete_while_typing=False
    )

    def read() -> str | None:
        while True:
            try:
                return str(session.prompt("> ", handle_sigint=False))
            except KeyboardInterrupt:
                continue  # the line is given up, not the shell
            except EOFError:
                return None

    return read
