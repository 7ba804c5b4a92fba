"""`config show`, `validate`, `discover`, `schema` and `import`."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..config import ConfigError, Entry, Problem, Servers, config_schema, discover_configs, dump_entries, load_servers
from ._context import Context
from ._failures import USAGE, Usage
from ._output import Output
from ._targets import ask, did_you_mean


def prepare(context: Context) -> int:
    """Do it all: nothing here needs Trio. Gives the exit status."""
    verb = {"show": _show, "validate": _validate, "discover": _discover, "schema": _schema, "import": _import}
    return verb[context.options.verb](context)


async def run(context: Context, plan: object) -> int:
    """Never called: `prepare` does it all."""
    raise AssertionError(plan)


def _files(context: Context) -> list[tuple[Path, str | None]]:
    """The files that the words name, or those of this project, or of this person."""
    found = discover_configs()
    if context.options.words:
        return [
            _file(word, [f.host for f in found], {f.host: f.path for f in reversed(found)})
            for word in context.options.words
        ]
    chosen = [file for file in found if file.scope == "project"] or found
    if not chosen:
        raise Usage("there is no configuration file here; name one")
    return [(file.path, file.host) for file in chosen]


def _file(word: str, hosts: list[str], by_host: dict[str, Path]) -> tuple[Path, str | None]:
    if word in by_host:
        return by_host[word], word
    path = Path(word).expanduser()
    if not path.exists():
        raise Usage(f"there is no file {word!r}{did_you_mean(word, hosts)}")
    return path, None


def _load(path: Path, host: str | None, *, asking: bool = False) -> Servers | tuple[Problem, ...]:
    """The servers of a file, or the problems that keep it from being read."""
    try:
        return load_servers(path, host=host, ask=ask if asking else lambda wanted: wanted.default or "")
    except ConfigError as error:
        return error.problems


def _problem(problem: Problem) -> dict[str, Any]:
    place = problem.place
    row = {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "severity": problem.severity,
        "server": problem.server,
        "field": problem.field,
        "message": problem.message,
        "mend": problem.mend,
    }
    return {name: value for name, value in row.items() if value not in (None, "")}


def _show(context: Context) -> int:
    status = 0
    shown: list[dict[str, Any]] = []
    for path, host in _files(context):
        loaded = _load(path, host)
        problems = loaded.problems if isinstance(loaded, Servers) else loaded
        for problem in problems:
            context.out.note(str(problem))
        if not isinstance(loaded, Servers):
            status = USAGE
            continue
        for entry in loaded.entries.values():
            settings = dump_entries([entry])["mcpServers"][entry.name]
            usable = "off" if not entry.enabled else "ready" if entry.name in loaded else "unusable"
            shown.append(
                {
                    "server": entry.name,
                    "state": usable,
                    "host": entry.host,
                    "place": str(entry.place),
                    "settings": settings,
                }
            )
    if context.out.is_table:
        rows = [(s["server"], s["state"], s["host"], _short(s["settings"]), s["place"]) for s in shown]
        context.out.rows(("SERVER", "STATE", "FORMAT", "REACHED BY", "FROM"), rows)
    else:
        for item in shown if context.out.format == "ndjson" else [shown]:
            context.out.json(item)
    return status


def _short(settings: dict[str, Any]) -> str:
    if "url" in settings:
        return f"{settings['url']} ({settings.get('type', '?')})"
    return " ".join([str(settings.get("command", "?")), *map(str, settings.get("args", ()))])


def _validate(context: Context) -> int:
    wrong = 0
    for path, host in _files(context):
        loaded = _load(path, host)
        problems = loaded.problems if isinstance(loaded, Servers) else loaded
        wrong += len(problems)
        for problem in problems:
            if context.out.is_table:
                context.out.text(str(problem))
            else:
                Output("ndjson").json(_problem(problem))
        if context.out.is_table and not problems:
            context.out.text(f"{path}: {len(loaded)} servers, no problem")
    return USAGE if wrong else 0


def _discover(context: Context) -> int:
    rows = []
    for found in discover_configs():
        loaded = _load(found.path, found.host)
        servers = str(len(loaded.entries)) if isinstance(loaded, Servers) else "unreadable"
        rows.append((str(found.path), found.host, found.scope, servers))
    if context.out.is_table:
        context.out.rows(("FILE", "FORMAT", "OF THIS", "SERVERS"), rows)
        return 0
    lines = [dict(zip(("path", "host", "scope", "servers"), row, strict=True)) for row in rows]
    for line in lines if context.out.format == "ndjson" else [lines]:
        context.out.json(line)
    return 0


def _schema(context: Context) -> int:
    Output("json").json(config_schema())
    return 0


def _import(context: Context) -> int:
    """Merge files into ours. Comments in ours would be lost, so a file that has any is not written over."""
    options, out = context.options, context.out
    if not options.words:
        raise Usage("name the file to import, or a host: see `config discover`")
    into = Path(options.into).expanduser()
    ours = _our_file(into)
    servers: dict[str, Any] = ours.setdefault("mcpServers", {})
    for path, host in _files(context):
        loaded = _load(path, host)
        if not isinstance(loaded, Servers):
            raise ConfigError.of(str(path), loaded)
        wrong = {
            problem.server for problem in loaded.problems if problem.severity == "error" and not _is_missing(problem)
        }
        for problem in loaded.problems:
            out.note(str(problem))
        for entry in loaded.entries.values():
            _take(out, servers, entry, options.replace, entry.name in wrong)
        inputs = {
            item.id: {"id": item.id, "description": item.description, "password": item.password}
            for item in loaded.inputs
        }
        for item in loaded.inputs:
            if item.options:
                inputs[item.id]["options"] = list(item.options)
            if item.default is not None:
                inputs[item.id]["default"] = item.default
        known = {item.get("id") for item in ours.get("inputs", [])}
        more = [item for identity, item in inputs.items() if identity not in known]
        if more:
            ours["inputs"] = [*ours.get("inputs", []), *more]
    _write(into, json.dumps(ours, indent=2, ensure_ascii=False) + "\n")
    return 0


def _is_missing(problem: Problem) -> bool:
    """Whether only a value is missing here and now: the entry itself is right, and is imported."""
    return "is not set" in problem.message or "has no value" in problem.message


def _our_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        ours = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise Usage(
            f"{path} is no plain JSON, and its comments would be lost; import into another file by --into"
        ) from None
    if not isinstance(ours, dict) or not isinstance(ours.get("mcpServers", {}), dict):
        raise Usage(f'{path} has no "mcpServers" to import into')
    return ours


def _take(out: Output, servers: dict[str, Any], entry: Entry, replace: bool, wrong: bool) -> None:
    if wrong:
        out.note(f"{entry.name}: left out, because of the problem above")
        return
    if entry.name in servers and servers[entry.name] == dict(entry.settings):
        out.text(f"{entry.name}: there already, the same")
    elif entry.name in servers and not replace:
        out.note(f"{entry.name}: there already, and different; kept (--replace takes the new one)")
    else:
        out.text(f"{entry.name}: {'replaced' if entry.name in servers else 'imported'} from {entry.place}")
        servers[entry.name] = dict(entry.settings)


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that nobody reads half of it; only its owner may read it, because secrets may be in it."""
    folder = path.absolute().parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            os.chmod(name, path.stat().st_mode & 0o777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
