"""The HTTP wire against the SDK's own server, in a process of its own, on every kind of endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import httpx2
import mcp_types as types
import pytest
import trio
import trio.testing

from tests.real.http_dial import dialled, transport_of
from tests.servers.http import Kind, running
from trio_mcp_pool._wire._link import Call


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Kind], str]]:
    """Addresses of servers that live as long as this module's tests."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        urls: dict[str, str] = {}

        def start(kind: Kind) -> str:
            if kind not in urls:
                urls[kind] = stack.enter_context(running(kind))
            return urls[kind]

        # All at once: a test that started one would be found to have left it behind.
        for kind in get_args(Kind):
            start(kind)
        yield start


ERAS = [
    pytest.param("plain", "legacy", id="legacy"),
    pytest.param("plain", "auto", id="modern"),
    pytest.param("json", "legacy", id="legacy-json"),
    pytest.param("json", "auto", id="modern-json"),
    pytest.param("stateless", "legacy", id="stateless"),
    pytest.param("sse", "legacy", id="sse"),
]


@pytest.mark.parametrize(("kind", "mode"), ERAS)
async def test_fifty_concurrent_calls_get_their_own_answers(
    serve: Callable[[Kind], str], kind: Kind, mode: str
) -> None:
    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        answers: dict[int, str] = {}
        calls = [Call(trio.CancelScope(), connection.link) for _ in range(50)]

        async def one(number: int) -> None:
            answers[number] = await connection.call("echo", calls[number], text=f"text {number}")

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert answers == {number: f"text {number}" for number in range(50)}
        assert [(call.written, call.failure) for call in calls] == [(True, None)] * 50
        assert connection.link.phase != "connect"
        assert connection.link.heard_at <= trio.current_time()
    assert not connection.link.is_lost


@pytest.mark.parametrize(("kind", "mode"), ERAS)
async def test_a_cancelled_caller_leaves_at_once_and_its_tool_is_stopped(
    serve: Callable[[Kind], str], kind: Kind, mode: str
) -> None:
    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        finished = await connection.call("executed", tool="slow finished")
        started = int(await connection.call("executed", tool="slow"))
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(trio.Cancelled):
                    await connection.call("slow", text="x", seconds=1)

            nursery.start_soon(one)
            while int(await connection.call("executed", tool="slow")) == started:
                pass
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 0.5
        assert await connection.call("echo", text="after") == "after"
        assert not connection.link.is_lost
        # Without a session a notice has nobody to reach, and a modern server that answers with JSON does not look
        # whether its client is still there.
        if kind != "stateless" and (kind, mode) != ("json", "auto"):
            await trio.sleep(1.2)
            assert await connection.call("executed", tool="slow finished") == finished


@pytest.mark.parametrize(("kind", "mode"), [("plain", "legacy"), ("plain", "auto"), ("sse", "legacy")])
async def test_progress_arrives_before_the_answer(serve: Callable[[Kind], str], kind: Kind, mode: str) -> None:
    seen: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with dialled(serve(kind), mode=mode, transport=transport_of(kind)) as connection:
        result = await connection.client.call_tool("count", {"to": 3}, progress_callback=progress)
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "done"
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [1, 2, 3]


@pytest.mark.parametrize("kind", ["plain", "sse"])
async def test_a_server_may_ask_its_client_back_in_the_middle_of_a_call(
    serve: Callable[[Kind], str], kind: Kind
) -> None:
    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async with dialled(serve(kind), transport=transport_of(kind), elicitation_callback=elicit) as connection:
        assert await connection.call("ask") == "Ada"


async def test_connections_are_used_again(serve: Callable[[Kind], str]) -> None:
    """The SDK closes the connection after every answer that came as a stream of events."""
    ports = set()
    async with dialled(serve("plain")) as connection:
        for _ in range(10):
            ports.add(await connection.call("client_port"))
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert len(ports) < 5


async def test_the_session_is_ended_on_the_server(serve: Callable[[Kind], str]) -> None:
    url = serve("plain")
    session_ids = set()

    async def remember(response: httpx2.Response) -> None:
        session_ids.add(response.headers.get("mcp-session-id"))

    async with dialled(url) as connection:
        await connection.call("echo", text="x")
        session_id = await connection.call("session_id")
    async with httpx2.AsyncClient() as http:
        answer = await http.post(
            url,
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            headers={"mcp-session-id": session_id, "accept": "application/json, text/event-stream"},
        )
    assert answer.status_code == 404


async def test_an_answer_of_three_megabytes_is_an_everyday_answer(serve: Callable[[Kind], str]) -> None:
    async with dialled(serve("plain"), max_message=1 << 26) as connection:
        assert len(await connection.call("big", size=3_000_000)) == 3_000_000
