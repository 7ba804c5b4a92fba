"""`python -m benchmarks.capacity`: what one process carries. The figures of docs/guide/scaling.md.

Sessions, memory and descriptors are counted by the kernel, in a process of its own for each row, so that no row is paid for
with memory that another has freed. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from trio_mcp_pool import HttpServer, Pool, PoolPolicy, Server, StdioServer, open_pool

from . import report

ECHO = str(Path(__file__).with_name("echo_server.py"))
HTTP = """
import sys
from mcp.server import MCPServer
server = MCPServer("echo", log_level="ERROR")
@server.tool()
def echo(text: str) -> str:
    return text
server.run("streamable-http", port=int(sys.argv[1]), stateless_http=False)
"""
PAGE = Path(__file__).parents[1] / "docs" / "guide" / "scaling.md"


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def http_server() -> Iterator[HttpServer]:
    """The SDK's own server, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", HTTP, str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            give_up = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 0.2).close()
                    break
                except OSError:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(0.05)
            yield HttpServer(f"http://127.0.0.1:{port}/mcp")
        finally:
            server.terminate()


@contextmanager
def server(kind: str) -> Iterator[Server]:
    """The echo server of this kind."""
    if kind == "stdio":
        yield StdioServer(sys.executable, (ECHO,))
        return
    with http_server() as described:
        if kind == "http-legacy":
            described = HttpServer(described.url, mode="legacy")
        yield described


async def sessions(described: Server, number: int) -> dict[str, Any]:
    """What so many sessions take, and how long it takes to open them."""
    async with open_pool({"echo": described}) as pool:
        # What is imported and cached with the first is not the second's.
        await pool.call_tool("echo", "echo", {"text": "x"}, scope="first")
        gc.collect()
        memory, files, began = resident(), descriptors(), time.perf_counter()
        async with trio.open_nursery() as nursery:
            for key in range(number):
                nursery.start_soon(call, pool, key)
        took = time.perf_counter() - began
        gc.collect()
        return {
            "memory": (resident() - memory) / number,
            "descriptors": (descriptors() - files) / number,
            "seconds": took / number,
        }


async def call(pool: Pool, key: int) -> None:
    """The first call of one scope."""
    await pool.call_tool("echo", "echo", {"text": "x"}, scope=key)


async def rate(described: Server, concurrent: int, held: int, seconds: float) -> dict[str, Any]:
    """Calls per second of so many tasks, over so many sessions."""
    policy = PoolPolicy(max_sessions=held, max_in_flight=-(-concurrent // held))
    done = 0
    async with open_pool({"echo": described}, policy=policy) as pool:
        await pool.wait_ready()

        async def caller() -> None:
            nonlocal done
            while True:
                await pool.call_tool("echo", "echo", {"text": "hello"})
                done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(concurrent):
                nursery.start_soon(caller)
            await trio.sleep(seconds / 2)
            done, began, cpu = 0, time.perf_counter(), time.process_time()
            await trio.sleep(seconds)
            took, busy = time.perf_counter() - began, time.process_time() - cpu
            nursery.cancel_scope.cancel()
    return {"rate": done / took, "busy": busy / took, "cpu": busy / max(done, 1)}


def one(options: dict[str, Any]) -> dict[str, Any]:
    """One row, in this process."""
    with ExitStack() as stack:
        described = stack.enter_context(server(options["kind"]))
        if options["what"] == "sessions":
            return trio.run(sessions, described, options["number"])
        return trio.run(rate, described, options["concurrent"], options["sessions"], options["seconds"])


def in_process_of_its_own(**options: Any) -> dict[str, Any]:
    """One row, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.capacity", "--one", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table(plan: dict[str, Any]) -> str:
    """All rows, as Markdown."""
    lines = ["| sessions of | memory each | descriptors each | opening each |", "| --- | --- | --- | --- |"]
    names = {"stdio": "stdio", "http-legacy": "HTTP, handshake era", "http": "HTTP, modern"}
    for kind, name in names.items():
        got = in_process_of_its_own(what="sessions", kind=kind, number=plan["number"])
        lines.append(
            f"| {name} | {got['memory'] / 1000:.0f} kB | {got['descriptors']:.1f} | {got['seconds'] * 1000:.0f} ms |"
        )
    lines += [
        "",
        "| calls at once | over | calls per second | CPU per call | of one core |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, concurrent, held in plan["rates"]:
        got = in_process_of_its_own(
            what="rate", kind=kind, concurrent=concurrent, sessions=held, seconds=plan["seconds"]
        )
        lines.append(
            f"| {concurrent} | {held} {names[kind]} | {got['rate']:,.0f} | {got['cpu'] * 1e6:.0f} µs | {got['busy']:.0%} |"
        )
    with subprocess.Popen([sys.executable, ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        time.sleep(0.5)
        lines += [
            "",
            f"The echo server itself, in Python with the standard library alone: {resident(child.pid) / 1e6:.0f} MB.",
        ]
        child.kill()
    taken = ", ".join(f"{name} {value}" for name, value in report.surroundings().items())
    return "\n".join(lines) + f"\n\nTaken with {taken}.\n"


def main() -> int:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything small, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"replace the figures in {PAGE.name}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(one(json.loads(options.one))))
        return 0
    rates = [("stdio", 1, 1), ("stdio", 10, 1), ("stdio", 50, 1), ("stdio", 200, 1), ("stdio", 200, 4), ("http", 1, 1)]
    rates += [("http", 50, 1)]
    plan = {"number": 30, "seconds": 1.0, "rates": rates}
    if options.quick:
        plan = {"number": 5, "seconds": 0.2, "rates": rates[:2]}
    text = table(plan)
    print(text)
    if options.write:
        report.write_page(PAGE, "capacity", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
