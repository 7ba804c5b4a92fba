"""Completion of words in bash, zsh and fish. The scripts ask this program, so that one place knows the words.

Commands and options come without the MCP SDK; only where a server's name belongs are configuration files read. No server is
dialled: a key that is pressed must not start processes.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from ._parser import build_parser

_BASH = """\
_trio_mcp_pool() {
    local IFS=$'\\n'
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=($(trio-mcp-pool __complete "${words[@]}" 2>/dev/null))
    compopt -o nosort 2>/dev/null
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null
}
complete -F _trio_mcp_pool trio-mcp-pool
"""
_ZSH = """\
#compdef trio-mcp-pool
_trio_mcp_pool() {
    local -a found
    found=("${(@f)$(trio-mcp-pool __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[*]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
compdef _trio_mcp_pool trio-mcp-pool
"""
_FISH = """\
function __trio_mcp_pool
    set -l words (commandline -opc) (commandline -ct)
    trio-mcp-pool __complete $words[2..-1] 2>/dev/null
end
complete -c trio-mcp-pool -a '(__trio_mcp_pool)'
"""
_WITH_SERVERS = frozenset(
    {"list", "call", "read", "prompt", "complete", "grep", "check", "bench", "top", "login", "logout", "shell"}
)


def print_script(shell: str) -> int:
    """Print a shell's script; gives the exit status."""
    sys.stdout.write({"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell])
    return 0


def print_words(words: list[str]) -> int:
    """Print what may stand for the last of these words, one a line; gives the exit status."""
    sys.stdout.write("".join(f"{word}\n" for word in candidates(words)))
    return 0


def candidates(words: list[str]) -> list[str]:
    """What may stand for the last of these words. An empty list means: a file, or anything."""
    *before, current = words or [""]
    parser: argparse.ArgumentParser = build_parser()
    path: list[str] = []
    for word in before:
        inner = _subparsers(parser).get(word)
        if inner is not None:
            path.append(word)
            parser = inner
    choices = _subparsers(parser)
    if current.startswith("-"):
        return sorted(option for option in parser._option_string_actions if option.startswith(current))
    option = parser._option_string_actions.get(before[-1]) if before else None
    if option is not None and option.nargs != 0:
        return sorted(str(choice) for choice in option.choices or () if str(choice).startswith(current))
    if choices:
        return sorted(name for name in choices if name.startswith(current) and not name.startswith("_"))
    positional = next((action for action in parser._actions if not action.option_strings and action.choices), None)
    if positional is not None:
        return sorted(str(choice) for choice in positional.choices or () if str(choice).startswith(current))
    if path and path[0] in _WITH_SERVERS:
        return sorted(name for name in _server_names() if name.startswith(current))
    return []


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _server_names() -> list[str]:
    from ..config import ConfigError, discover_configs, load_servers

    names: dict[str, None] = {}
    for found in discover_configs(os.getcwd()):
        try:
            names.update(dict.fromkeys(load_servers(found.path).entries))
        except (ConfigError, OSError):
            continue
    return list(names)
