"""How far one request has come, for the call that it belongs to (R13, R18)."""

from __future__ import annotations

import math
from typing import final

from .._link import Call
from ..jsonrpc._outbound import Request


class CutOff(Exception):
    """The call was ended before its request began to be sent: somebody may have been told already that it was not."""


@final
class Delivery:
    """How far one request has come, for its call and its timeout (`Sending`)."""

    __slots__ = ("_call", "_request", "written_before")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._call: Call | None = request.call
        # An earlier request of the same call may have run, whatever becomes of this one.
        self.written_before = self._call is not None and self._call.written
        # Until a byte of it leaves, there is nothing to tell the server of.
        request.withdrawn = True

    def begins(self) -> None:
        call = self._call
        if call is not None and (call.is_cut or call.link.leaving or call.link.is_lost):
            raise CutOff
        self._request.withdrawn = False

    def written(self) -> None:
        if self._call is not None:
            self._call.written = True
        self._request.start_clock()

    def refused(self) -> None:
        if self._call is not None:
            self._call.written = self.written_before
        if self._request.scope is not None:
            # New credentials may take a person to log in.
            self._request.scope.deadline = math.inf
