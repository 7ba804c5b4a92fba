"""The activities of a worker: one for each verb of each server, on the worker's pool.

An activity heartbeats from beginning to end, for without that a lost worker is noticed only after its start-to-close timeout,
and a cancelled workflow never reaches the server. It fails with what the pool knows (see `_failures`). One that is cancelled
because its worker shuts down says that the outcome is unknown, unless it was still waiting for a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from temporalio import activity

from trio_mcp_pool import Server
from trio_mcp_pool.bridge import AsyncioPool, AsyncioScopedPool
from trio_mcp_pool.bridge._asyncio import call_when_ready

from ._failures import failure, from_error
from ._names import CALL_TOOL, HEARTBEAT_TIMEOUT, LARGEST_PAYLOAD, READS, Answer, Request, activity_name
from ._scopes import Scopes

VERBS = {CALL_TOOL: "call_tool", **READS}


@contextmanager
def heartbeats() -> Iterator[None]:
    """Heartbeat while the block runs, at a third of the timeout: the SDK sends what is due and drops the rest.

    The first comes after that time: a heartbeat is a request to the server, and most calls end before they need one.
    """
    every = (activity.info().heartbeat_timeout or HEARTBEAT_TIMEOUT).total_seconds() / 3
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def beat() -> None:
        activity.heartbeat()
        timers[0] = loop.call_later(every, beat)

    timers.append(loop.call_later(every, beat))
    try:
        yield
    finally:
        timers[0].cancel()


def with_origin(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the workflow that they come from in `_meta`, where the verb takes that."""
    info = activity.info()
    origin = {
        "io.temporal/workflowId": info.workflow_id,
        "io.temporal/runId": info.workflow_run_id,
        "io.temporal/activityId": info.activity_id,
    }
    return {**arguments, "meta": {**origin, **(arguments.get("meta") or {})}}


def build(
    servers: Mapping[str, Server], prefix: str, find_pool: Callable[[], AsyncioPool], scopes: Scopes
) -> list[Callable[..., Any]]:
    """The activities, by the names of the servers at this moment."""
    return [
        _activity(server, bool(getattr(described, "trusted", False)), operation, verb, prefix, find_pool, scopes)
        for server, described in servers.items()
        for operation, verb in VERBS.items()
    ]


def _activity(
    server: str,
    trusted: bool,
    operation: str,
    verb: str,
    prefix: str,
    find_pool: Callable[[], AsyncioPool],
    scopes: Scopes,
) -> Callable[..., Any]:
    @activity.defn(name=activity_name(prefix, server, operation))
    async def call(request: Request) -> Answer:
        # `complete` takes no `_meta`.
        arguments = request.arguments if operation == "complete" else with_origin(request.arguments)
        with heartbeats():
            if request.scope is None:
                result = await _run(find_pool(), server, verb, arguments)
            else:
                with scopes.use(request.scope, server) as scope:
                    result = await _run(scope, server, verb, arguments)
        answer = Answer(result.model_dump(mode="json", by_alias=True, exclude_none=True), trusted)
        size = sum(payload.ByteSize() for payload in activity.payload_converter().to_payloads([answer]))
        if size > LARGEST_PAYLOAD:
            raise failure(
                "ResultTooLargeError",
                f"the result of {operation} of server {server!r} takes {size:,} bytes and Temporal carries "
                f"{LARGEST_PAYLOAD:,}: have the tool store it and return a reference",
                server=server,
                outcome="answered",
                limit=LARGEST_PAYLOAD,
            )
        return answer

    return call


async def _run(pool: AsyncioPool | AsyncioScopedPool, server: str, verb: str, arguments: dict[str, Any]) -> BaseModel:
    written = False

    def note() -> None:
        nonlocal written
        written = True

    try:
        if isinstance(pool, AsyncioPool):
            result: BaseModel = await call_when_ready(pool, server, verb, arguments, note)
            return result
        note()
        method: Callable[..., Awaitable[BaseModel]] = getattr(pool, verb)
        return await method(server, **arguments)
    except asyncio.CancelledError:
        if activity.is_worker_shutdown():
            raise failure(
                "OutcomeUnknownError" if written else "PoolClosedError",
                f"the worker shut down during {verb} of server {server!r}"
                + (", which may have run" if written else ", before it was sent"),
                server=server,
                outcome="unknown" if written else "not run",
            ) from None
        raise
    except Exception as error:
        raise from_error(error, server) from None
