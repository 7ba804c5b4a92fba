"""A web application on Trio whose requests share one pool.

The pool opens when the application starts and closes when it stops. A request that is cancelled, because its client has
gone, disturbs no other.

    python examples/web_handler.py            start, ask ourselves twenty things at once, stop
    python examples/web_handler.py --serve    stay up on http://127.0.0.1:8321/look-up/WORD
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import trio
from _servers import notebook_command
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trio_mcp_pool import ConnectError, OutcomeUnknownError, Pool, StdioServer, open_pool


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Pool]]:
    """One pool for as long as the application runs."""
    async with open_pool({"words": StdioServer(*notebook_command)}) as pool:
        yield {"pool": pool}


async def look_up(request: Request) -> JSONResponse:
    """Answer from an MCP server."""
    pool: Pool = request.state.pool
    with trio.move_on_after(5):
        try:
            arguments = {"text": request.path_params["word"], "seconds": 0.2}
            result = await pool.call_tool("words", "look_up", arguments)
        except ConnectError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": f"{error.retry_after:.0f}"})
        except OutcomeUnknownError as error:
            return JSONResponse({"error": str(error)}, 502)
        return JSONResponse(result.structured_content)
    return JSONResponse({"error": "the server took too long"}, 504)


app = Starlette(routes=[Route("/look-up/{word}", look_up)], lifespan=lifespan)


async def ask_ourselves(url: str) -> None:
    """Twenty requests at once; all are answered by one process."""
    answers: list[dict[str, object]] = []

    async def ask(client: httpx2.AsyncClient, word: str) -> None:
        response = await client.get(f"{url}/look-up/{word}")
        response.raise_for_status()
        answer = response.json()
        assert answer["text"] == word, answer
        answers.append(answer)

    async with httpx2.AsyncClient(timeout=10) as client, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, client, f"word-{number}")
    processes = {answer["pid"] for answer in answers}
    print(f"{len(answers)} requests answered by {len(processes)} process")
    assert len(processes) == 1


async def main() -> None:
    """Serve; without `--serve` only until our own requests are answered."""
    config = Config()
    config.errorlog = None  # hypercorn's own start and stop lines
    stay = "--serve" in sys.argv
    config.bind = ["127.0.0.1:8321" if stay else "127.0.0.1:0"]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        print(f"serving on {bound[0]}")
        if not stay:
            await ask_ourselves(bound[0])
            stop.set()


if __name__ == "__main__":
    trio.run(main)
