"""What came of the calls that a model asked for, and how each provider wants to be told.

The rule: an answer has the shape of its request, and every request is answered, because a provider refuses a conversation in
which one is not. The obvious way, a list of results and another of errors, loses both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, final, overload

from .._errors import CallOutcome
from ._content import Part, anthropic_content, cut_text, parts_of, plain_text, responses_output
from ._explain import explain
from ._requests import ToolRequest

if TYPE_CHECKING:
    import mcp_types as types


@final
class Outcome:
    """What came of one call. Made by `ToolSet.run` and `ToolSet.run_each`."""

    __slots__ = ("_max_chars", "_parts", "error", "outcome", "request", "result", "seconds", "server", "tool")

    def __init__(
        self,
        request: ToolRequest,
        *,
        server: str | None,
        tool: str | None,
        result: types.CallToolResult | None,
        error: Exception | None,
        outcome: CallOutcome,
        seconds: float,
        max_chars: int | None = None,
    ) -> None:
        self.request: ToolRequest = request
        """What the model asked for."""
        self.server: str | None = server
        """The server's name; `None` where the set has no such tool."""
        self.tool: str | None = tool
        """The tool's name on its server; `None` where the set has no such tool."""
        self.result: types.CallToolResult | None = result
        """What the server answered; `None` where it did not."""
        self.error: Exception | None = error
        """Why there is no result, or what a hook raised although there is one."""
        self.outcome: CallOutcome = outcome
        """What is known of the call: `"answered"`, `"not run"`, or `"unknown"`, which means that it may have run."""
        self.seconds: float = seconds
        """How long it took, on Trio's clock, hooks and waiting for its turn included."""
        self._max_chars = max_chars
        self._parts: list[Part] | None = None

    def __repr__(self) -> str:
        what = type(self.error).__name__ if self.error is not None else "a tool error" if self.is_error else "a result"
        return f"<Outcome of {self.request.name!r}: {what}, {self.seconds:.3f} s>"

    @property
    def is_error(self) -> bool:
        """Whether the model is told of an error: there is no result, a hook failed, or the tool itself says so."""
        return self.error is not None or self.result is None or bool(self.result.is_error)

    def _content(self) -> list[Part]:
        if self._parts is None:
            if self.error is not None or self.result is None:
                said = explain(self.error, self.outcome) if self.error is not None else "There is no result."
                self._parts = [Part(cut_text(said, self._max_chars))]
            else:
                self._parts = parts_of(self.result, self._max_chars)
        return self._parts

    @property
    def text(self) -> str:
        """Everything in words: the result, or the error as a model can act on it, without a prefix."""
        return plain_text(self._content())

    def to_anthropic(self) -> dict[str, Any]:
        """A `tool_result` block. Synchronous. Raises `ValueError` where the request had no id, as a pair has none."""
        # In an error Anthropic takes nothing but text.
        parts = [Part(part.text) for part in self._content()] if self.is_error else self._content()
        return {
            "type": "tool_result",
            "tool_use_id": self._id(),
            "content": anthropic_content(parts),
            "is_error": self.is_error,
        }

    def to_openai(self) -> dict[str, Any]:
        """A `tool` message for a chat completion's request, a `function_call_output` for any other. Synchronous.

        Raises `ValueError` where the request had no id, as a pair has none.
        """
        call_id = self._id()
        prefix = "Error: " if self.is_error else ""
        if self.request.shape == "chat":
            return {"role": "tool", "tool_call_id": call_id, "content": prefix + self.text}
        return {"type": "function_call_output", "call_id": call_id, "output": responses_output(self._content(), prefix)}

    def _id(self) -> str:
        if self.request.id is None:
            raise ValueError(
                f"the request for {self.request.name!r} has no id that an answer could repeat: give run the model's own "
                "message, or use `text`"
            )
        return self.request.id


@final
class Outcomes(Sequence[Outcome]):
    """What came of all calls of one response, in the order asked. Empty, and so false, where none was asked for."""

    __slots__ = ("_all",)

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._all = tuple(outcomes)

    def __repr__(self) -> str:
        failed = sum(outcome.is_error for outcome in self._all)
        return f"<Outcomes: {len(self._all)} calls, {failed} with errors>"

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        """The outcome at a place, or several."""
        return self._all[index]

    def to_anthropic(self) -> dict[str, Any]:
        """One user message that answers all: `messages.append(outcomes.to_anthropic())`. As `Outcome.to_anthropic`."""
        role: Literal["user"] = "user"
        return {"role": role, "content": [outcome.to_anthropic() for outcome in self._all]}

    def to_openai(self) -> list[dict[str, Any]]:
        """Messages, or items of the Responses API, one for each: `messages += outcomes.to_openai()`. As `Outcome.to_openai`."""
        return [outcome.to_openai() for outcome in self._all]
