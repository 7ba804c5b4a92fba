"""The handles of the bridges beside the pool's own: no verb is missing, and none differs."""

from __future__ import annotations

import inspect

import pytest

from trio_mcp_pool import Pool, ScopedPool, Session, bridge

PAIRS = [
    (Pool, bridge.BlockingPool),
    (ScopedPool, bridge.BlockingScopedPool),
    (Session, bridge.BlockingSession),
    (Pool, bridge.AsyncioPool),
    (ScopedPool, bridge.AsyncioScopedPool),
    (Session, bridge.AsyncioSession),
]
IDS = [mirror.__name__ for _, mirror in PAIRS]


def members(cls: type) -> dict[str, object]:
    return {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("source", "mirror"), PAIRS, ids=IDS)
def test_every_public_member_is_there_and_documented(source: type, mirror: type) -> None:
    missing = members(source).keys() - members(mirror).keys()
    assert missing == set()
    assert [name for name, member in members(mirror).items() if not inspect.getdoc(member)] == []


@pytest.mark.parametrize(("source", "mirror"), PAIRS, ids=IDS)
def test_every_verb_takes_what_the_pools_takes(source: type, mirror: type) -> None:
    different = {}
    for name, member in members(source).items():
        if not callable(member):
            continue
        theirs, ours = inspect.signature(member), inspect.signature(getattr(mirror, name))
        if any(p.kind is p.VAR_KEYWORD for p in ours.parameters.values()):
            named = [p for p in ours.parameters.values() if p.kind is not p.VAR_KEYWORD]
            same = [p.name for p in named] == list(theirs.parameters)[: len(named)]
        else:
            same = list(ours.parameters) == list(theirs.parameters)
        if not same:
            different[name] = (theirs, ours)
    assert different == {}


@pytest.mark.parametrize(("source", "mirror"), PAIRS, ids=IDS)
def test_in_asyncio_every_verb_is_awaited_or_entered_but_release_and_in_threads_none_is_awaited(
    source: type, mirror: type
) -> None:
    verbs = {name: member for name, member in members(mirror).items() if inspect.isfunction(member)}
    awaited = {name for name, member in verbs.items() if inspect.iscoroutinefunction(member)}
    if mirror.__name__.startswith("Blocking"):
        assert awaited == set()
    else:
        assert verbs.keys() - awaited <= {"session", "open_scope", "listen", "release", "notifications", "subscribe"}
