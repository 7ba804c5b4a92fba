"""Calls over HTTP: the pool beside `mcp.Client`, on servers in processes of their own.

The raw server does as little as a server can, because a slow one hides what its client costs. The SDK's own server is such
a slow one: beside it only the client's processing time says something.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client

from trio_mcp_pool import HttpServer, PoolPolicy, open_pool

from .contests import Plan, Told, at_once, in_sequence, through
from .measure import Row, Sample, interleave

Mode = Literal["legacy", "auto"]
ERAS: dict[Mode, str] = {"legacy": "2025-11-25", "auto": "2026-07-28"}
ANSWERS = {
    "json": ("JSON", 0.45, 0.25),
    "events": ("events", 0.30, 0.20),
    "split": ("events, the last chunk in a packet of its own", 0.30, 0.20),
}
"""What the raw server answers with, and the most that a call in sequence and one of many may take of the client's time."""
SECONDS = 0.2
"""How long a call of the crowd takes at the server."""


class Stamp(httpx2.Auth):
    """Puts a token on each request, as authentication mostly does."""

    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["authorization"] = "Bearer x"
        yield request


@contextmanager
def server(kind: str) -> Iterator[str]:
    """A server of that kind; gives its address."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.http_server", kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@asynccontextmanager
async def open_client(url: str, mode: Mode, auth: httpx2.Auth | None = None) -> AsyncIterator[mcp.Client]:
    """What a user writes by hand, with as many connections as it wants."""
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(timeout=None, auth=auth, limits=limits) as http,
        mcp.Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        await client.list_tools()
        yield client


async def _compare(plan: Plan, told: Told, url: str, mode: Mode, auth: httpx2.Auth | None = None) -> list[list[Sample]]:
    """Ours and theirs in sequence, ours and theirs at once."""
    async with open_pool({"s": HttpServer(url, mode=mode, auth=auth)}) as pool, open_client(url, mode, auth) as client:
        callers = {"ours": through(pool, "s"), "theirs": client.call_tool}
        one = {name: in_sequence(call, plan.calls) for name, call in callers.items()}
        many = {name: at_once(call, plan.calls, plan.concurrent) for name, call in callers.items()}
        first = await interleave(one, plan.http_rounds, told=told)
        second = await interleave(many, plan.http_rounds, told=told)
    return [first["ours"], first["theirs"], second["ours"], second["theirs"]]


async def http(plan: Plan, told: Told) -> list[Row]:
    """Warm calls in both eras, through an authentication, in a crowd of slow calls, and on the SDK's own server."""
    rows: list[Row] = []
    ours, theirs = "pool.call_tool", "mcp.Client"

    def add(key: str, title: str, bounds: tuple[float, float], got: list[list[Sample]]) -> None:
        rows.append(Row(key, f"{title}, in sequence", ours, theirs, bounds[0], got[0], got[1]))
        together = f"{title}, {plan.concurrent} at once"
        rows.append(Row(f"{key}-{plan.concurrent}", together, ours, theirs, bounds[1], got[2], got[3]))

    for kind, (what, one, many) in ANSWERS.items():
        with server(kind) as url:
            for mode, era in ERAS.items():
                got = await _compare(plan, told, url, mode)
                add(f"http-{kind}-{mode}", f"HTTP {era}, {what}", (one, many), got)
            if kind == "json":
                add("http-auth", "HTTP, JSON, auth=", (0.50, 0.27), await _compare(plan, told, url, "auto", Stamp()))
    for kind, what, bound in (("sdk-json", "JSON", 0.40), ("sdk-events", "events", 0.33)):
        with server(kind) as url:
            got = await _compare(plan, told, url, "auto")
        title = f"HTTP, {what}, processing time of the client, the SDK's own server"
        rows.append(Row(f"http-{kind}", title, ours, theirs, bound, _cpu(got[0]), _cpu(got[1])))
    return [*rows, *await _crowd(plan, told)]


def _cpu(samples: list[Sample]) -> list[Sample]:
    return [Sample(sample.cpu, sample.cpu) for sample in samples]


async def _crowd(plan: Plan, told: Told) -> list[Row]:
    """Many slow calls at once: how long all of them take, against the time that one takes."""
    cold: list[Sample] = []
    warm: list[Sample] = []
    with server("slow") as url:
        for _ in range(plan.big_rounds):
            policy = PoolPolicy(max_in_flight=plan.crowd)
            async with open_pool({"s": HttpServer(url, mode="legacy")}, policy=policy) as pool:
                await pool.list_tools("s")
                for samples in (cold, warm):
                    samples.append(await at_once(through(pool, "s"), plan.crowd, plan.crowd)())
            told()
    # A turn gives what one call took, and all of them are one turn.
    took = {"cold": cold, "warm": warm}
    ideal = [Sample(SECONDS, SECONDS)] * plan.big_rounds
    title = f"HTTP, {plan.crowd} calls at once of {SECONDS:g} s each"
    return [
        Row(
            f"http-crowd-{name}",
            f"{title}, {name}",
            "the last answer",
            "one call",
            bound,
            _whole(took[name], plan),
            ideal,
        )
        for name, bound in (("cold", 2.5), ("warm", 1.8))
    ]


def _whole(samples: list[Sample], plan: Plan) -> list[Sample]:
    return [Sample(sample.wall * plan.crowd, sample.cpu * plan.crowd) for sample in samples]
