"""What is usually wrong where a command cannot be started.

The operating system's error names one file and says that it is missing: whether that is the command, the working directory or
the interpreter of a script, and why, has to be found out by looking. This looks only once starting has failed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping


def spawn_trouble(error: OSError, command: str, env: Mapping[str, str], cwd: str | None) -> str:
    """What to say beside the error; empty where the error says enough. `env` is what the child was to get."""
    if cwd is not None and not os.path.isdir(cwd):
        what = "is not a directory" if os.path.exists(cwd) else "does not exist"
        return f"the working directory (cwd) {what}{_tilde(cwd, 'cwd')}"
    if isinstance(error, FileNotFoundError):
        return _missing(command, env, cwd)
    if isinstance(error, PermissionError):
        if os.path.isdir(_under(command, cwd)):
            return "the command is a directory"
        return "the command may not be executed: make it executable, or run its interpreter and put it into args"
    return ""


def _missing(command: str, env: Mapping[str, str], cwd: str | None) -> str:
    if command.startswith("~"):
        return f"the command does not exist{_tilde(command, 'command')}"
    if os.path.exists(_under(command, cwd)) and os.sep in command:
        return "the command exists, so the interpreter that its first line names does not"
    first, *rest = command.split()
    if rest and (os.path.exists(_under(first, cwd)) or shutil.which(first, path=env.get("PATH")) or first[0] != os.sep):
        return f"the command is one name or path, and arguments go into args: StdioServer({first!r}, [...])"
    if os.sep in command:
        return "the command does not exist" + ("" if os.path.isabs(command) else ", seen from cwd")
    return "the command is not on the PATH that the server is given; name it by its full path, or set PATH in env"


def _under(path: str, cwd: str | None) -> str:
    return os.path.join(cwd, path) if cwd is not None else path


def _tilde(path: str, field: str) -> str:
    return f"; '~' is for shells: write {field}=os.path.expanduser(...)" if path.startswith("~") else ""
