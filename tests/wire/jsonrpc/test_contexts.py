"""Progress callbacks run in the context variables of their caller (R4)."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import trio
import trio.testing

from ..pipes import line, rig

settled = trio.testing.wait_all_tasks_blocked
caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_a_progress_callback_sees_the_variables_of_its_own_caller() -> None:
    seen: dict[Any, str] = {}

    async def on_notify(context: Any, method: str, params: Any) -> None:
        seen["a handler of no call"] = caller.get()

    async with rig(on_notify=on_notify) as r:

        async def call(name: str) -> None:
            caller.set(name)

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                seen[progress] = caller.get()
                caller.set("changed by the callback")

            await r.dispatcher.send_raw_request("m", None, {"request_id": name, "on_progress": on_progress})
            seen[name] = caller.get()

        for name in ("ada", "bob"):
            r.nursery.start_soon(call, name)
        await settled()
        for number, name in enumerate(("ada", "bob", "ada")):
            params = {"progressToken": name, "progress": number}
            r.pipe.give(line({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
            await settled()
        r.pipe.answer("ada")
        r.pipe.answer("bob")
        await settled()
    assert seen == {0: "ada", 1: "bob", 2: "ada", "ada": "ada", "bob": "bob", "a handler of no call": "nobody"}
