"""A crowd of callers: what is sent in one tick goes out in one piece, and each call still knows whether it was written."""

from __future__ import annotations

import trio
import trio.testing

from ..pipes import rig

settled = trio.testing.wait_all_tasks_blocked


async def test_what_a_crowd_sends_in_one_tick_goes_out_in_one_write() -> None:
    async with rig() as r:
        pipe = r.pipe
        for _ in range(50):
            r.start_call()
        await settled()
        assert sorted(message["id"] for message in pipe.messages()) == list(range(1, 51))
        assert pipe.writes <= 6  # the first few each by themselves, the rest together
        for number in range(1, 51):
            pipe.answer(number)
        await settled()
        assert r.pending == 0


async def test_R13_a_crowd_on_a_full_pipe_is_written_exactly_as_far_as_bytes_were_accepted() -> None:
    async with rig(room=0) as r:
        pipe = r.pipe
        calls = [r.start_call() for _ in range(20)]
        await settled()
        assert not any(asked.call.written for asked in calls)
        pipe.make_room(200)
        await settled()
        whole = len(pipe.messages())
        assert 0 < whole < 20
        assert len(pipe.sent) == 200
        assert sum(asked.call.written for asked in calls) == whole
        pipe.make_room()
        await settled()
        assert all(asked.call.written for asked in calls)
        assert sorted(message["id"] for message in pipe.messages()) == list(range(1, 21))


async def test_a_caller_cancelled_before_the_crowd_is_sent_is_not_sent() -> None:
    async with rig() as r:
        for _ in range(5):
            r.start_call()
        await settled()
        for _ in range(20):  # Trio runs the two in either order
            asked = r.start_call("never")

            async def cancel(scope: trio.CancelScope = asked.scope) -> None:
                scope.cancel()

            r.nursery.start_soon(cancel)
            await settled()
            assert not asked.call.written
        r.start_call("after")
        await settled()
        assert [message["method"] for message in r.pipe.messages()] == ["m"] * 5 + ["after"]
