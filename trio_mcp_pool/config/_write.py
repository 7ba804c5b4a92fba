"""Our own file: entries written in our words, and shown without their secrets."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ._load import Entry

_HIDDEN = "***"
_ONLY_VARIABLES = re.compile(r"(?:(?:Bearer|Basic|Token) )?(?:\$\{[\w:]+\})+")


def config_schema() -> dict[str, Any]:
    """The JSON schema of our own file, for editors: `"$schema"` at the top of it names where it is kept. Synchronous."""
    text = importlib.resources.files("trio_mcp_pool.config").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _redacted(value: object) -> object:
    """A value that may be secret: kept where it is nothing but variables."""
    return value if isinstance(value, str) and _ONLY_VARIABLES.fullmatch(value) else _HIDDEN


def redact(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's settings as they may be shown: no value of `env` or `headers`, no argument after a word like `--token`."""
    shown = dict(settings)
    for name in ("env", "headers"):
        if name in shown:
            shown[name] = {key: _redacted(value) for key, value in shown[name].items()}
    if "url" in shown:
        parts = urlsplit(shown["url"]) if "[" not in shown["url"] else None
        if parts is not None:
            host = parts.netloc.rpartition("@")[2]
            shown["url"] = urlunsplit((parts.scheme, host, parts.path, _HIDDEN if parts.query else "", ""))
    if "args" in shown:
        shown["args"] = [
            _redacted(arg) if _secret_after(shown["args"], n) else arg for n, arg in enumerate(shown["args"])
        ]
        shown["args"] = [_without_value(str(arg)) for arg in shown["args"]]
    if "oauth" in shown and "client_secret" in shown["oauth"]:
        shown["oauth"] = {**shown["oauth"], "client_secret": _redacted(shown["oauth"]["client_secret"])}
    if "headersHelper" in shown:
        shown["headersHelper"] = _HIDDEN
    pool = shown.get("pool")
    if isinstance(pool, Mapping) and {"env_helper", "proxy"} & pool.keys():
        shown["pool"] = {key: _HIDDEN if key in ("env_helper", "proxy") else value for key, value in pool.items()}
    return shown


_SECRET_WORD = re.compile(
    r"token|secret|passw|api[-_]?key|auth|header|credential|bearer|cookie|(?<![a-z])key(?![a-z])", re.I
)


def _secret_after(args: list[str], number: int) -> bool:
    before = args[number - 1] if number else ""
    return (before.startswith("-") and "=" not in before and bool(_SECRET_WORD.search(before))) or before == "-H"


def _without_value(arg: str) -> str:
    name, equals, value = arg.partition("=")
    if equals and _SECRET_WORD.search(name):
        return f"{name}={_redacted(value)}"
    return re.sub(r"://[^/@\s]*@", "://", arg)


def dump_entries(entries: Iterable[Entry], *, redacted: bool = True) -> dict[str, Any]:
    """A configuration in our own words, as data for `json.dumps`: what `load_servers` reads back to the same servers.

    `redacted`, the default, leaves out what may be secret; such a text cannot be loaded again.
    """
    return {
        "mcpServers": {entry.name: redact(entry.settings) if redacted else dict(entry.settings) for entry in entries}
    }
