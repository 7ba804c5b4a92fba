"""Runs one command: resolves its targets, opens what it needs, and turns what happens into an exit status.

A signal cancels the command, so that the pool closes and its processes end; further ones change nothing, because closing is
bounded. Python's own way, a `KeyboardInterrupt` wherever the program happens to be, would need every clean-up to be proof
against a second one.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from . import _failures
from ._context import Context
from ._failures import Failed, Failure
from ._output import Output

_MODULES = {"config": "_config_files", "prompt": "_read", "complete": "_read", "logout": "_login"}


def _log(options: argparse.Namespace) -> None:
    """Warnings of the pool go to stderr; with `--verbose`, what servers write there too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    verbose = getattr(options, "verbose", False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("trio_mcp_pool").setLevel(logging.DEBUG if verbose else logging.WARNING)
    # What a server writes is shown where it explains a failure, and all of it if that is asked for.
    logging.getLogger("trio_mcp_pool.stderr").setLevel(logging.DEBUG if verbose else logging.CRITICAL + 1)
    # The SDK logs with its traceback what it raises all the same.
    logging.getLogger("mcp").setLevel(logging.WARNING if verbose else logging.CRITICAL + 1)


async def supervised(context: Context, function: Callable[[], Awaitable[int]]) -> int:
    """Run a command's function until it is done, its time is over, or a signal comes; gives the exit status."""
    status = 0
    stopped = 0
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        watching = trio.CancelScope(shield=True)

        async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            nonlocal stopped
            with watching, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for number in signals:
                    if number == signal.SIGINT and context.interrupt is not None:
                        context.interrupt()
                        continue
                    stopped = stopped or 128 + number
                    nursery.cancel_scope.cancel(reason="a signal")

        await nursery.start(watch)
        try:
            with trio.move_on_after(context.timeout) as scope:
                status = await function()
            if scope.cancelled_caught:
                error = trio.TooSlowError(f"not done after {context.timeout:g} s")
        except Exception as exc:
            error = exc
        finally:
            watching.cancel()
    if stopped:
        raise Failed(stopped, "interrupted" if stopped == 130 else "terminated")
    if error is not None:
        raise error
    return status


def module_of(command: str) -> Any:
    """The module of a command: it has `prepare`, which must not need Trio, and `run`."""
    name = _MODULES.get(command, f"_{command}")
    return importlib.import_module(f".{name}", __package__)


def run_command(options: argparse.Namespace) -> int:
    """Run a command; gives the exit status."""
    _log(options)
    out = Output(getattr(options, "format", "table"))
    module = module_of(options.command)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        context = Context(options, out)
        # Before Trio runs, because a person may be asked for something, and control-C must end that too.
        plan = module.prepare(context)
        if plan is None:
            return 0
        if isinstance(plan, int):
            return plan
        return trio.run(supervised, context, lambda: module.run(context, plan))
    except BrokenPipeError:
        # Whoever read our output has gone, as in `list | head`. Python would complain again while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _failures.report(Failure(130, "interrupted"), out.format)
    except Exception as error:
        if getattr(options, "verbose", False) and not isinstance(error, _failures.Usage | Failed):
            import traceback

            traceback.print_exc()
        return _failures.report(_failures.explain(error), out.format)
