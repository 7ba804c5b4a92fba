"""The table of gates: what it takes, and which gate it gives for which passage."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from trio_mcp_pool.testing import GateTable, ScriptedServer, error, hold, never, ok, slow


def test_all_gates_are_open_at_first() -> None:
    assert dict(GateTable()) == dict.fromkeys(("spawn", "handshake", "call", "stream", "close"), ok)


def test_a_stage_that_does_not_exist_is_a_key_error_that_names_those_that_do() -> None:
    table = GateTable()
    for use in (lambda: table["conect"], lambda: table.__setitem__("conect", ok), lambda: GateTable({"conect": ok})):
        with pytest.raises(KeyError, match=r"no stage 'conect'.*spawn, handshake, call, stream, close"):
            use()


@pytest.mark.parametrize("value", [1, None, "never", [ok, 1], error, slow, hold, OSError("bare")])
def test_a_value_that_is_no_gate_is_a_type_error_that_names_the_stage(value: Any) -> None:
    with pytest.raises(TypeError, match="call"):
        ScriptedServer().gates["call"] = value


def test_error_and_slow_refuse_what_they_cannot_use() -> None:
    with pytest.raises(TypeError, match="exception"):
        error("boom")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seconds"):
        slow("1")  # type: ignore[arg-type]
    for seconds in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite"):
            slow(seconds)


def test_several_gates_are_used_in_order_and_then_all_is_ok() -> None:
    table = GateTable({"spawn": [never, slow(1)]})
    assert [table._draw("spawn") for _ in range(4)] == [never, slow(1), ok, ok]
    table["spawn"] = itertools.cycle([ok, never])
    assert [table._draw("spawn") for _ in range(3)] == [ok, never, ok]
    del table["spawn"]
    assert table["spawn"] is ok
    assert table.passages["spawn"] == 7


def test_a_function_is_called_with_the_number_of_the_passage() -> None:
    table = GateTable({"call": lambda number: never if number == 2 else ok})
    assert [table._draw("call") for _ in range(3)] == [ok, never, ok]
    table["call"] = lambda number: number
    with pytest.raises(TypeError, match="passage 4"):
        table._draw("call")


def test_gates_show_themselves_as_they_are_written() -> None:
    door = hold()
    assert [repr(gate) for gate in (ok, never, slow(2), slow(2, shielded=True), door)] == [
        "ok",
        "never",
        "slow(2.0)",
        "slow(2.0, shielded=True)",
        "<hold, shut>",
    ]
    door.open()
    assert repr(door) == "<hold, open>"
    assert repr(GateTable({"call": never})) == "<gates call=never>"
    assert repr(error(OSError)).startswith("error(")
