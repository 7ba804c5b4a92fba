"""From the bytes of a body or an event to JSON-RPC messages, and to the answer that a request waits for.

An answer belongs to the exchange that it came on. Ids are looked at all the same: a server that answers with the id of
another request has mixed them up, and to hand its answer over would give one caller the data of another. An error with
the id `null` is what a server says that could not read the request, and it can only mean this one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final, final

import outcome
import trio

from ..._errors import InvalidResultError, MessageTooLargeError, PoolError
from .._link import Link
from ..jsonrpc._context import Back
from ..jsonrpc._faults import FaultLog
from ..jsonrpc._inbound import Inbound
from ..jsonrpc._limits import too_many_values
from ..jsonrpc._long import Cut
from ..jsonrpc._messages import as_request_id, coerce_request_id, decode, invalid_answer, read_answer
from ..jsonrpc._outbound import Request
from ..jsonrpc._tolerant import ENDS, Unreadable, decode_tolerantly, describe, id_of_answer
from ._events import Event

logger = logging.getLogger("trio_mcp_pool.wire")

Answer = outcome.Outcome[dict[str, Any]]
Observer = Callable[[Exception], Awaitable[None]]

_METHOD_FIRST: Final = b'"method"'


@final
class Messages:
    """Reads what the server sends. All methods are synchronous."""

    def __init__(
        self, link: Link, inbound: Inbound, *, max_message: int, max_values: int, observer: Observer | None
    ) -> None:
        self.max_message: Final = max_message
        self._link = link
        self._inbound = inbound
        self._max_values = max_values
        self._observer = observer
        self._faults = FaultLog(link)

    # Answers.

    def read_body(self, body: bytes, request: Request, back: Back, context: Context, cut: Cut | None = None) -> Answer:
        """The answer in a JSON body; `cut`, if it is long. Whatever else is in it, as in a batch of an old version, is
        delivered."""
        try:
            message = self._decode(body, cut)
        except Unreadable as exc:
            return self._invalid(f"that cannot be read: its body {exc}")
        except MessageTooLargeError as exc:
            return outcome.Error(exc)
        answer = self._take(message, len(body), request, back, context)
        return answer or self._invalid("that holds no response to it", message)

    @trio.lowlevel.enable_ki_protection
    def read_event(self, event: Event, request: Request, back: Back, context: Context) -> Answer | None:
        """The answer, if that is what the event holds. Anything else is delivered, or reported."""
        if event.event != b"message" or not event.data:
            return None
        if event.tail is not None:
            return self._overlong(event, request)
        try:
            message = self._decode(event.data, event.cut)
        except MessageTooLargeError as exc:
            if _is_notification(event.data):
                self.report(f"an event has more than {self._max_values} JSON values and was skipped", event.data)
                return None
            return outcome.Error(exc)
        except Unreadable as exc:
            self.report(f"an event {exc}", event.data)
            if _is_notification(event.data):
                return None
            return self._invalid(f"that cannot be read: its event {exc}")
        return self._take(message, len(event.data), request, back, context)

    @trio.lowlevel.enable_ki_protection
    def read_unasked(self, event: Event, back: Back, resolve: Callable[[Any, Answer], bool]) -> None:
        """An event of a stream that belongs to no request. `resolve` is given responses that came on it."""
        if event.event != b"message" or not event.data:
            return
        if event.tail is not None:
            self._fail_unasked(event, self.too_large(self.max_message, "bytes"), resolve)
            return
        try:
            message = self._decode(event.data, event.cut)
        except MessageTooLargeError as exc:
            self._fail_unasked(event, exc, resolve)
            return
        except Unreadable as exc:
            self._fail_unasked(event, invalid_answer(self._link.server, f"that cannot be read: it {exc}"), resolve)
            return
        for one in message if type(message) is list else [message]:
            if type(one) is not dict:
                self.report("an event is no JSON-RPC message", event.data)
            elif one.get("method") is not None:
                self._deliver(one, len(event.data), back, None)
            elif (request_id := as_request_id(one.get("id"))) is None or not resolve(
                coerce_request_id(request_id), read_answer(one, self._link.server)
            ):
                logger.debug("server %s: dropped a response that nobody waits for", self._link.server)

    def read_refusal(self, body: bytes, request_key: Any) -> tuple[Answer | None, bool]:
        """The JSON-RPC error in the body of a response whose status is none of the 2xx, and whether it names the
        request."""
        try:
            message = self._decode(body)
        except (Unreadable, MessageTooLargeError):
            return None, False
        if type(message) is not dict or "error" not in message or "method" in message:
            return None, False
        answer = read_answer(message, self._link.server)
        if isinstance(answer, outcome.Error) and isinstance(answer.error, InvalidResultError):
            return None, False
        request_id = as_request_id(message.get("id"))
        if request_id is None:
            return answer, False
        named = coerce_request_id(request_id) == request_key
        return (answer, True) if named else (None, False)

    # Messages.

    def _decode(self, data: bytes, cut: Cut | None = None) -> Any:
        if len(data) > self._max_values and too_many_values(cut.rest if cut else data, self._max_values):
            raise self.too_large(self._max_values, "JSON values")
        try:
            return decode(data, cut)
        except ValueError:
            message, fault = decode_tolerantly(data)
            self.report(f"a message {fault}", data, message)
            return message

    def _take(self, message: Any, size: int, request: Request, back: Back, context: Context) -> Answer | None:
        if type(message) is dict:
            if message.get("method") is None:
                return self._own_answer(message, request)
            self._deliver(message, size, back, context)
            return None
        if type(message) is not list:
            self.report("a message is no JSON-RPC message", None)
            return None
        answer = None
        for one in message:
            if type(one) is not dict:
                self.report("a batch holds something that is no JSON-RPC message", None)
            elif one.get("method") is not None:
                self._deliver(one, size // len(message), back, context)
            else:
                answer = self._own_answer(one, request)
        return answer

    def _own_answer(self, message: dict[str, Any], request: Request) -> Answer:
        given = message.get("id")
        if given != request.id or given is True:
            request_id = as_request_id(given)
            if request_id is None:
                if given is not None or "error" not in message:
                    return self._invalid("without the id of the request", message)
            elif coerce_request_id(request_id) != request.key:
                return self._invalid("with the id of another request")
        return read_answer(message, self._link.server)

    def _deliver(self, message: dict[str, Any], size: int, back: Back, context: Context | None) -> None:
        fault = self._inbound.receive(message, size, back, context)
        if fault:
            self.report(f"a message {fault}", None)

    # What is wrong.

    def _overlong(self, event: Event, request: Request) -> Answer | None:
        assert event.tail is not None
        sure = id_of_answer(event.data, event.tail) == request.key
        if not sure and _is_notification(event.data):
            self.report(f"an event has more than {self.max_message} bytes and was skipped", None)
            return None
        error = self.too_large(self.max_message, "bytes")
        if not sure:
            error.outcome = "unknown"
        return outcome.Error(error)

    def _fail_unasked(self, event: Event, error: PoolError, resolve: Callable[[Any, Answer], bool]) -> None:
        tail = event.data[-ENDS:] if event.tail is None else event.tail
        key = id_of_answer(event.data[:ENDS], tail)
        if key is None or not resolve(key, outcome.Error(error)):
            self.report("an event cannot be read or is over a limit, and was skipped", None)

    def too_large(self, limit: int, unit: str) -> MessageTooLargeError:
        """The error for an answer over a limit."""
        server = self._link.server
        return MessageTooLargeError(
            f"server {server!r} sent an answer of more than {limit} {unit}",
            server=server,
            outcome="answered",
            limit=limit,
        )

    def _invalid(self, how: str, result: Any = None) -> Answer:
        return outcome.Error(invalid_answer(self._link.server, how, result))

    def report(self, what: str, data: bytes | None, message: Any = None) -> None:
        """Say that a message was bad, without anything of its content (R16)."""
        text = what if data is None else f"{what} ({describe(data, message)})"
        if self._observer is None:
            self._faults.warn(text)
        else:
            logger.debug("server %s: %s", self._link.server, text)
            self._inbound.observe(self._observer, ValueError(text))


def _is_notification(data: bytes) -> bool:
    """Whether a message that could not be read begins like a notification or a request, and so is no answer."""
    head = data[:256]
    return _METHOD_FIRST in head and b'"result"' not in head and b'"error"' not in head
