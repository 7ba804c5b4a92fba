"""Arguments as they are typed, and the signatures of tools."""

from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_pool.cli._failures import Usage
from trio_mcp_pool.cli._values import Values, signature

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "times": {"type": "integer", "default": 1},
        "share": {"type": "number"},
        "loud": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "mode": {"enum": ["fast", "slow", 3]},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "where": {"type": "object"},
        "free": {},
    },
    "required": ["text"],
}


def test_a_signature_has_what_must_be_given_first_and_the_defaults() -> None:
    assert signature("say", SCHEMA) == (
        'say(text: string, times: integer = 1, share?: number, loud?: boolean, tags?: string[], mode?: "fast"|"slow"|3, '
        "maybe?: string|null, count?: integer|null, where?: object, free?: any)"
    )


@pytest.mark.parametrize("schema", [None, {}, [], "x", {"properties": []}, {"properties": {"a": 3}, "required": 5}])
def test_a_schema_that_is_none_does_not_hurt(schema: Any) -> None:
    assert signature("say", schema).startswith("say(")
    assert Values(["a=1"]).fitted("say", schema)["a"] in (1, "1")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("times=3", 3),
        ("share=0.5", 0.5),
        ("share=2", 2),
        ("loud=true", True),
        ('tags=["a"]', ["a"]),
        ("mode=fast", "fast"),
        ("mode=3", 3),
        ("maybe=3", "3"),
        ("maybe=null", None),
        ("count=null", None),
        ("where={}", {}),
        ("free=5", 5),
        ("free=five", "five"),
        ("times:=7", 7),
        ("text=a=b", "a=b"),
        ("text=", ""),
    ],
)
def test_a_value_is_read_as_the_schema_wants_it(word: str, value: object) -> None:
    name = word.partition("=")[0].rstrip(":")
    assert Values(["text=x", word]).fitted("say", SCHEMA)[name] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the argument 'text' must be given: say(text: string, "),
        (["text=x", "times=many"], "the argument 'times' must be of type integer; write times:=JSON"),
        (["text=x", "times=1.5"], "the argument 'times' must be of type integer"),
        (["text=x", "loud=1"], "the argument 'loud' must be of type boolean"),
        (["text=x", "mode=slw"], "the argument 'mode' must be of type"),
        (["text=x", "tiems=1"], "there is no argument 'tiems'; did you mean 'times'?"),
        (["x"], "'x' is no argument; write name=value or name:=JSON"),
        (["a:={"], "the value of 'a' is no JSON; write a=TEXT for a text"),
        (["@/no/such/file"], "/no/such/file: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_with_the_mend(words: list[str], message: str) -> None:
    with pytest.raises(Usage) as raised:
        Values(words).fitted("say", SCHEMA)
    assert message in str(raised.value)


def test_json_and_files_are_merged_and_words_win(tmp_path: Any) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"text": "file", "share": 1}')
    values = Values([f"@{file}", "times=2"], '{"text": "json", "loud": true}')
    assert values.fitted("say", SCHEMA) == {"text": "file", "loud": True, "share": 1, "times": 2}
    for text in ("[1]", "{", "1"):
        with pytest.raises(Usage, match="--json"):
            Values([], text)
