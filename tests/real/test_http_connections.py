"""Connections kept alive, used again and looked at before; requests that did not leave whole; what is no HTTP."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import pytest
import trio
import trio.testing

from tests.real.http_dial import Dialled, dialled, swallow
from tests.servers import raw_http as raw
from tests.servers.raw_http import raw_server
from trio_mcp_pool import _errors as errors
from trio_mcp_pool._wire._link import Call

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def raw_bytes(make: Any) -> raw.Plan:
    """Exactly these bytes, then the end of the connection."""

    async def plan(exchange: raw.Exchange) -> None:
        await exchange.stream.send_all(make(exchange) if callable(make) else make)
        await exchange.stream.aclose()

    return plan


def answer(exchange: raw.Exchange) -> bytes:
    import json

    return json.dumps({"jsonrpc": "2.0", "id": exchange.message["id"], "result": raw.tool_result("ok")}).encode()


# Used again.


async def settle(server: raw.RawServer, connection: Dialled) -> None:
    """Until the session has asked for whatever it asks for at its beginning."""
    while "GET" not in server.seen:
        await trio.sleep(0.005)
    await connection.client.list_tools()
    await connection.call("good")


async def test_one_connection_carries_calls_in_sequence() -> None:
    async with raw_server() as server, dialled(server.url) as connection:
        await settle(server, connection)
        before = server.connections
        for _ in range(20):
            await connection.call("good")
        assert server.connections == before


@pytest.mark.parametrize("delay", [0, 0.1])
async def test_a_connection_whose_last_chunk_comes_in_a_packet_of_its_own_is_used_again(delay: float) -> None:
    async def split(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(exchange.result_event("ok"))
        await trio.sleep(delay)
        await exchange.stream.send_all(b"0\r\n\r\n")

    async with raw_server({"split": split}) as server, dialled(server.url) as connection:
        await settle(server, connection)
        for _ in range(10):
            before = trio.current_time()
            assert await connection.call("split") == "ok"
            assert delay == 0 or trio.current_time() - before < delay
            await trio.sleep(delay * 1.5)
        assert server.connections <= 4


async def test_a_stream_that_goes_on_after_the_answer_is_closed() -> None:
    async def endless(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.chunk(exchange.result_event("ok"))
        await exchange.wait_gone()

    async with raw_server({"endless": endless}) as server, dialled(server.url) as connection:
        assert await connection.call("endless") == "ok"
        with trio.fail_after(3):
            while "endless" not in server.gone:
                await trio.sleep(0.01)
        assert await connection.call("good") == "ok"


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used() -> None:
    """Twenty times, for a request that crosses with the end of its connection would be lost."""

    async def close_after(exchange: raw.Exchange) -> None:
        await raw.ok(exchange)
        await exchange.stream.aclose()

    async with raw_server({"last": close_after}) as server, dialled(server.url) as connection:
        await settle(server, connection)
        for _ in range(20):
            assert await connection.call("last") == "ok"
            await trio.sleep(0.002)
        assert server.seen.count("last") == 20


@pytest.mark.parametrize(
    ("header", "reused"), [("x: y", False), ("keep-alive: timeout=60", True), ("keep-alive: timeout=1", False)]
)
async def test_a_connection_lies_idle_for_as_long_as_its_server_says(
    header: str, reused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trio_mcp_pool._wire.http import _connections

    monkeypatch.setattr(_connections, "_IDLE", 0.3)

    async def plan(exchange: raw.Exchange) -> None:
        await exchange.result(raw.tool_result("ok"), header)

    async with raw_server({"kept": plan}) as server, dialled(server.url) as connection:
        await settle(server, connection)
        await connection.call("kept")
        before = server.connections
        await trio.sleep(1)
        assert (server.open == 1) is reused  # not only unused, but closed
        await connection.call("kept")
        assert (server.connections == before) is reused


async def test_a_burst_of_fifty_opens_fifty_connections_once() -> None:
    together = trio.Event()

    async def meet(exchange: raw.Exchange) -> None:
        if server.seen.count("meet") % 50 == 0:
            together.set()
        await together.wait()
        await raw.ok(exchange)

    async with raw_server({"meet": meet}) as server, dialled(server.url) as connection:
        for _ in range(3):
            together = trio.Event()
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(connection.call, "meet")
        assert server.connections <= 52


# How many.


async def test_max_connections_is_kept_and_its_queue_is_fair() -> None:
    order: list[int] = []

    async def slow(exchange: raw.Exchange) -> None:
        await trio.sleep(0.02)
        await raw.ok(exchange)

    async with raw_server({"slow": slow}) as server, dialled(server.url, max_connections=3) as connection:
        await settle(server, connection)

        async def one(number: int) -> None:
            await connection.call("slow")
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(15):
                nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
        assert server.most_open <= 3
        # Three are under way at a time, so that nobody can be further than that from his turn.
        assert sorted(order) == list(range(15))
        assert all(abs(place - number) <= 3 for place, number in enumerate(order)), order


async def test_standing_streams_take_no_place() -> None:
    async def get(exchange: raw.Exchange) -> None:
        await exchange.start_events()
        await exchange.wait_gone()

    async with raw_server({"GET": get}) as server, dialled(server.url, max_connections=1) as connection:
        while server.seen.count("GET") < 1:
            await trio.sleep(0.005)
        assert await connection.call("good") == "ok"


async def test_a_caller_who_leaves_the_queue_costs_nobody_a_place() -> None:
    async with raw_server({"slow": raw.hang}) as server, dialled(server.url, max_connections=1) as connection:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(swallow, connection, "slow")
            await server.hanging.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert await connection.call("good") == "ok"
        assert server.seen.count("slow") == 1


async def test_a_place_whose_dial_failed_goes_to_the_next() -> None:
    async with raw_server(keep_alive=False) as server, dialled(server.url, max_connections=1) as connection:
        await server.stop_listening()
        for _ in range(3):
            with pytest.raises(errors.SessionLostError):
                await connection.call("good")
        await server.listen()
        assert await connection.call("good") == "ok"


# Not sent whole.


async def drop_idle(server: raw.RawServer, connection: Dialled) -> None:
    """Let the server close what lies idle, so that the next call dials."""
    server.plans["last"] = raw.ok
    await settle(server, connection)
    server.plans["last"] = raw_bytes(lambda exchange: JSON + b"connection: close\r\n\r\n" + answer(exchange))
    assert await connection.call("last") == "ok"


@pytest.mark.parametrize("status", [401, 413, 429])
async def test_an_early_refusal_of_a_large_body_is_read_before_the_send_is_blamed(status: int) -> None:
    """The server answers after the head, and reads nothing of the rest."""

    async def refuse(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        await trio.sleep(0.05)
        await stream.aclose()

    async with raw_server() as server, dialled(server.url) as connection:
        await drop_idle(server, connection)
        server.early = refuse
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises((errors.HttpStatusError, errors.AuthenticationError)) as caught:
            await connection.call("good", call, text="x" * 20_000_000)
        assert getattr(caught.value, "status") == status  # noqa: B009
        assert (caught.value.outcome, call.written) == ("not run", False)
        server.early = None
        assert await connection.call("good") == "ok"


async def test_a_server_that_takes_no_byte_for_write_timeout_fails_that_call_alone() -> None:
    async def stall(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with raw_server() as server, dialled(server.url, write_timeout=0.2) as connection:
        await drop_idle(server, connection)
        server.early = stall
        call = Call(trio.CancelScope(), connection.link)
        with pytest.raises(errors.SessionLostError, match=r"no byte was accepted for 0.2 s"):
            await connection.call("good", call, text="x" * 20_000_000)
        assert not call.written
        server.early = None
        assert await connection.call("good") == "ok"
        assert not connection.link.is_lost


# Redirects.


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_the_origin_is_followed_with_method_and_body(status: int) -> None:
    async def moved(exchange: raw.Exchange) -> None:
        if exchange.target == "/mcp":
            await exchange.reply(status, b"moved", "location: /other?x=1")
        else:
            await raw.ok(exchange)

    async with raw_server({"moved": moved}) as server, dialled(server.url) as connection:
        assert await connection.call("moved") == "ok"
        assert "/other?x=1" in server.targets


@pytest.mark.parametrize(
    ("status", "location"),
    [(302, "/other"), (303, "/other"), (307, "http://elsewhere.invalid/mcp?key=xyzzy"), (307, "//ada:xyzzy@%s/mcp")],
)
async def test_R16_any_other_redirect_is_an_error_that_names_where_to(status: int, location: str) -> None:
    async def moved(exchange: raw.Exchange) -> None:
        there = location % f"127.0.0.1:{exchange.server.port}" if "%s" in location else location
        await exchange.reply(status, b"", f"location: {there}")

    headers = {"Authorization": "Bearer token"}
    async with raw_server({"moved": moved}) as server, dialled(server.url, headers=headers) as connection:
        with pytest.raises(errors.HttpStatusError, match="a redirect to http://") as caught:
            await connection.call("moved")
        assert caught.value.status == status
        assert "xyzzy" not in str(caught.value)
        assert server.seen.count("moved") == 1


async def test_a_redirect_in_a_circle_ends() -> None:
    async with raw_server({"moved": raw.status(307, "location: /mcp")}) as server:
        async with dialled(server.url) as connection:
            with pytest.raises(errors.OutcomeUnknownError, match="in a circle"):
                await connection.call("moved")


# HTTP, and what is none.

FINE = {
    "informational": lambda e: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        + JSON
        + b"content-length: %d\r\n\r\n" % len(answer(e))
        + answer(e)
    ),
    "until-the-end": lambda e: JSON + b"\r\n" + answer(e),
    "http-1.0": lambda e: JSON.replace(b"1.1", b"1.0") + b"\r\n" + answer(e),
    "trailers": lambda e: (
        JSON + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(answer(e)), answer(e))
    ),
    "headers-of-50-kib": lambda e: (
        JSON + b"x-large: %b\r\ncontent-length: %d\r\n\r\n" % (b"y" * 50_000, len(answer(e))) + answer(e)
    ),
    "chunks-of-one-byte": lambda e: (
        JSON
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in answer(e))
        + b"0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
async def test_a_response_that_is_unusual_is_read(make: Any) -> None:
    async with raw_server({"odd": raw_bytes(make)}) as server, dialled(server.url) as connection:
        await settle(server, connection)
        assert await connection.call("odd") == "ok"
        await trio.sleep(0.02)  # its end is on the way
        assert await connection.call("good") == "ok"


NO_HTTP = {
    "a-coding-before-chunked": (
        JSON + b"transfer-encoding: gzip, chunked\r\n\r\n",
        "transfer coding other than chunked",
    ),
    "http-2-only": (
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
        "does not begin with an HTTP/1.1 status line",
    ),
    "a-bare-101": (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\n\r\n", "another protocol"),
    "endless-headers": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "longer than 64 KiB"),
    "two-lengths": (JSON + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}", "Content-Length"),
    "a-bad-header": (b"HTTP/1.1 200 OK\r\nBearer xyzzy\r\n\r\n", "a header line"),
    "another-protocol": (b"SSH-2.0-OpenSSH_9\r\n\r\n", "does not begin with"),
    "nothing": (b"", "closed the connection without an answer"),
}


@pytest.mark.parametrize(("data", "words"), NO_HTTP.values(), ids=NO_HTTP)
async def test_R16_what_is_no_http_is_named_and_not_quoted(data: bytes, words: str) -> None:
    async with raw_server({"bad": raw_bytes(data)}) as server, dialled(server.url) as connection:
        with pytest.raises(errors.OutcomeUnknownError, match=words) as caught:
            await connection.call("bad")
        assert "xyzzy" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert await connection.call("good") == "ok"


# Nothing stays.


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
async def test_R2_no_descriptor_is_left_after_calls_of_every_kind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    plans = {"hang": raw.hang, "reset": raw.reset, "events": raw.hanging_events}
    async with raw_server(plans) as server:
        listening = len(os.listdir("/proc/self/fd")) - before
        async with dialled(server.url) as connection:
            with trio.move_on_after(0.3):
                async with trio.open_nursery() as nursery:
                    for tool in ("good", "hang", "reset", "events") * 10:
                        nursery.start_soon(swallow, connection, tool)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(os.listdir("/proc/self/fd")) - before == listening
    assert len(os.listdir("/proc/self/fd")) == before


async def test_an_ipv6_address_is_reached() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="::1")
        server = raw.RawServer(port=listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, server._talk, listeners)
        async with dialled(f"http://[::1]:{server.port}/mcp") as connection:
            assert await connection.call("good") == "ok"
            assert server.headers[0]["host"] == f"[::1]:{server.port}"
        nursery.cancel_scope.cancel()


async def test_a_length_that_is_no_number_a_machine_can_hold_is_no_crash() -> None:
    data = JSON + b"content-length: " + b"9" * 5000 + b"\r\n\r\n{}"
    async with raw_server({"bad": raw_bytes(data)}) as server, dialled(server.url) as connection:
        with pytest.raises((errors.OutcomeUnknownError, errors.MessageTooLargeError)):
            await connection.call("bad")
        assert await connection.call("good") == "ok"
