"""The handle mirrors `mcp.Client`: the same verbs, the same arguments, and an error of the pool's where the session is gone."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import mcp
import mcp_types as types
import pytest
import trio
import trio.testing

from trio_mcp_pool import Pool, PoolClosedError, PoolPolicy, ScopedPool, Session, SessionLostError, open_pool
from trio_mcp_pool.testing import ScriptedServer

from .books import settle

CLIENT_VERBS = sorted(
    name for name, value in vars(mcp.Client).items() if inspect.isfunction(value) and not name.startswith("_")
)
# What makes sense on one session only: it changes that session's state, or speaks of something that was asked on it.
ON_ONE_SESSION = {
    "send_progress_notification",
    "send_roots_list_changed",
    "set_logging_level",
    "subscribe_resource",
    "unsubscribe_resource",
}
POOL_VERBS = [name for name in CLIENT_VERBS if name not in ON_ONE_SESSION]
# A session can be told to hand over a server's questions instead of answering them by the callbacks.
MAY_REQUIRE_INPUT = {"call_tool", "read_resource", "get_prompt"}
OWN_CALLBACKS = [(name, inspect.Parameter.KEYWORD_ONLY, None) for name in ("on_elicit", "on_progress")]
ALLOW_INPUT_REQUIRED = ("allow_input_required", inspect.Parameter.KEYWORD_ONLY, False)


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each parameter beside `self`."""
    return [(p.name, p.kind, p.default) for p in list(inspect.signature(function).parameters.values())[1:]]


def test_the_verbs_of_the_client_are_those_that_this_page_knows() -> None:
    assert {"call_tool", "listen", "complete", *ON_ONE_SESSION} <= set(CLIENT_VERBS)


@pytest.mark.parametrize("verb", CLIENT_VERBS)
def test_a_verb_of_the_session_takes_what_the_clients_takes(verb: str) -> None:
    more = (OWN_CALLBACKS if verb == "call_tool" else []) + (
        [ALLOW_INPUT_REQUIRED] if verb in MAY_REQUIRE_INPUT else []
    )
    assert parameters(getattr(Session, verb)) == parameters(getattr(mcp.Client, verb)) + more


@pytest.mark.parametrize("verb", POOL_VERBS)
@pytest.mark.parametrize("handle", [Pool, ScopedPool])
def test_a_verb_of_the_pool_takes_a_server_and_a_scope_beside_that(handle: type, verb: str) -> None:
    (server, *given), client = parameters(getattr(handle, verb)), parameters(getattr(mcp.Client, verb))
    scope = ("scope", inspect.Parameter.KEYWORD_ONLY, None)
    assert server[0] == "server"
    assert scope in given
    given.remove(scope)
    assert given == client + (OWN_CALLBACKS if verb == "call_tool" else [])


@pytest.mark.parametrize(
    "name", ["protocol_version", "server_info", "server_capabilities", "instructions"], ids=lambda n: str(n)
)
async def test_what_the_client_knows_of_the_server_the_session_knows(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    assert isinstance(inspect.getattr_static(mcp.Client, name), property)
    async with open_pool({"s": ScriptedServer()}) as pool, pool.session("s") as session:
        assert getattr(session, name) == getattr(session.client, name)


async def listen(session: Session) -> None:
    async with session.listen(tools_list_changed=True):
        raise AssertionError("it listens to nobody")


def ask(name: str) -> Callable[[Session], Awaitable[object]]:
    async def look(session: Session) -> object:
        return getattr(session, name)

    return look


ASKED: dict[str, Callable[[Session], Awaitable[object]]] = {
    "call_tool": lambda s: s.call_tool("echo", {"text": "x"}),
    "list_tools": lambda s: s.list_tools(),
    "list_resources": lambda s: s.list_resources(),
    "list_resource_templates": lambda s: s.list_resource_templates(),
    "list_prompts": lambda s: s.list_prompts(),
    "read_resource": lambda s: s.read_resource("memo://x"),
    "get_prompt": lambda s: s.get_prompt("x"),
    "complete": lambda s: s.complete(types.PromptReference(name="x"), {"name": "a", "value": "b"}),
    "send_ping": lambda s: s.send_ping(),
    "set_logging_level": lambda s: s.set_logging_level("info"),
    "subscribe_resource": lambda s: s.subscribe_resource("memo://x"),
    "unsubscribe_resource": lambda s: s.unsubscribe_resource("memo://x"),
    "send_roots_list_changed": lambda s: s.send_roots_list_changed(),
    "send_progress_notification": lambda s: s.send_progress_notification("token", 0.5),
    "send_request": lambda s: s.send_request(types.PingRequest(), types.EmptyResult),
    "listen": listen,
    **{name: ask(name) for name in ("protocol_version", "server_info", "server_capabilities", "instructions")},
}


def test_every_verb_is_called_below() -> None:
    assert set(CLIENT_VERBS) <= set(ASKED)


@pytest.mark.parametrize("verb", ASKED)
async def test_R13_on_a_dead_session_every_verb_says_that_nothing_was_sent(
    verb: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    async with open_pool({"s": server}) as pool, pool.session("s") as session:
        server.kill()
        await settle()
        with pytest.raises(SessionLostError) as caught:
            await ASKED[verb](session)
        assert caught.value.server == "s"


@pytest.mark.parametrize(("end", "kind"), [("kill", SessionLostError), ("close", PoolClosedError)])
async def test_R15_a_task_that_waits_for_a_stream_of_changes_gets_an_error_when_the_session_ends(
    end: str, kind: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    server = ScriptedServer()
    told: list[type[BaseException]] = []
    async with open_pool({"s": server}, policy=PoolPolicy(drain_timeout=1)) as pool, trio.open_nursery() as nursery:

        async def wait() -> None:
            async with pool.session("s") as session:
                server.stop("all")
                try:
                    await listen(session)
                except (SessionLostError, PoolClosedError) as why:
                    told.append(type(why))

        nursery.start_soon(wait)
        await settle()
        if end == "kill":
            server.kill("all")
        else:
            await pool.aclose()
    assert told == [kind]
