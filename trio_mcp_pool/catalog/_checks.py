"""Checking a call's arguments against the tool's schema, before anything is sent.

The rule: a checker either gives the verdict of `jsonschema`, or says why it gives none and lets the call through. It works in
the event loop only as long as that is short (R19). The obvious way, `jsonschema.validate(arguments, schema)`, compiles the
schema for every call, fetches what it refers to, lets a pattern backtrack for ever, and quotes the arguments in its errors.

Arguments that fit a plain schema are let through by `_plain.py`, and with `jsonschema-rs` installed (the extra `fast`) those
that fit any other by that, both many times faster. What they refuse is asked of `jsonschema`, so that the verdict and the
words are the same with and without.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, cast, final

import trio
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import SchemaError, relevance
from jsonschema.validators import extend, validator_for
from referencing import Registry

from ._linear import Budget, LinearPattern, TooCostlyError, UnsupportedPatternError
from ._plain import compile_plain
from ._schemas import SchemaProblemError, audit, json_type, short


def _load() -> Any:
    """`jsonschema_rs`, or `None` where the extra `fast` is not installed."""
    try:
        import jsonschema_rs
    except ImportError:  # pragma: no cover - it is installed where the tests run
        return None
    return jsonschema_rs


FAST: Any = _load()
PATTERN_STEPS: Final = 60_000
"""Steps that all patterns of one check may take together: at most about 30 ms."""
INLINE_WORK: Final = 5_000
"""Schemas times values that are checked in the event loop: at most about 20 ms. More goes to a worker thread."""
MOST_WORK: Final = 2_000_000
"""What is not checked at all: it would keep a worker thread busy for many seconds."""
INLINE_SCHEMAS: Final = 150
"""The largest schema that is compiled in the event loop."""
INLINE_BULK: Final = 2_000
"""The most choices and characters of patterns that are compiled there."""
MOST_COMPLAINTS: Final = 5
_REGISTRY: Registry[Any] = Registry()


def _ignore(validator: Any, value: Any, instance: Any, schema: Any) -> None:
    return None


@final
class Checker:
    """One tool's schema. Made cheaply; compiled when it is first used, and kept."""

    __slots__ = ("_accepts", "_audit", "_budget", "_patterns", "_ready", "_schema", "_usable", "_validator", "problem")

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._ready = False
        self._usable = False
        self.problem: str | None = None
        """Why calls go unchecked, or why one did; `None` while all are checked, and before the first."""

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether a quick look says that nothing is wrong with the arguments. Where it does not, `complaints` decides."""
        if not self._usable or self._accepts is None or self._work(arguments) > INLINE_WORK:
            return False
        try:
            return self._accepts(arguments)
        except Exception:
            return False

    async def complaints(self, arguments: dict[str, Any]) -> list[str]:
        """What is wrong with the arguments, in words for a model; empty where nothing is, or where they go unchecked.

        Checkpoints only where it takes long.
        """
        if not self._ready:
            await self._prepare()
        if not self._usable:
            return []
        work = self._work(arguments)
        if work <= INLINE_WORK:
            return self._check(arguments)
        if work > MOST_WORK:
            self.problem = "its schema and the arguments are so large that the check would take too long"
            return []
        return await trio.to_thread.run_sync(self._check, arguments)

    def _work(self, arguments: dict[str, Any]) -> int:
        work = self._audit.weight * _count(arguments, MOST_WORK // self._audit.weight)
        return work * work if "uniqueItems" in self._audit.keywords else work

    async def _prepare(self) -> None:
        try:
            self._audit = audit(self._schema)
            if self._audit.nodes <= INLINE_SCHEMAS and self._audit.bulk <= INLINE_BULK:
                self._compile()
            else:
                await trio.to_thread.run_sync(self._compile)
            self._usable = True
        except SchemaProblemError as why:
            self.problem = str(why)
        except RecursionError:
            self.problem = "it is nested too deeply"
        except UnsupportedPatternError as why:
            self.problem = f"it has a pattern that cannot be matched in bounded time ({why})"
        except SchemaError as why:
            self.problem = f"it is no valid JSON Schema (at {short('/'.join(map(str, why.path)) or 'the top')})"
        except Exception as why:
            self.problem = f"it cannot be compiled ({type(why).__name__})"
        self._ready = True

    def _compile(self) -> None:
        cls = validator_for(self._schema, default=Draft202012Validator)
        cls.check_schema(self._schema)
        self._budget = Budget(PATTERN_STEPS)
        self._patterns = {pattern: LinearPattern(pattern) for pattern in self._audit.patterns}
        overrides: dict[str, Any] = {"$dynamicRef": _ignore}
        if self._patterns:
            if "unevaluatedProperties" in self._audit.keywords and "patternProperties" in self._audit.keywords:
                raise SchemaProblemError("it combines patternProperties and unevaluatedProperties")
            overrides = {
                "pattern": self._pattern,
                "patternProperties": self._pattern_properties,
                "additionalProperties": self._additional_properties,
            }
            self._validator = extend(cls, overrides)(self._schema, registry=_REGISTRY)
        else:
            self._validator = cls(self._schema, registry=_REGISTRY)
        self._accepts: Callable[[Any], bool] | None = compile_plain(self._schema) or self._fast()

    def _fast(self) -> Callable[[Any], bool] | None:
        if FAST is None:
            return None
        try:
            made = FAST.validator_for(
                self._schema,
                validate_formats=False,
                retriever=_refuse,
                pattern_options=FAST.RegexOptions(size_limit=1_000_000, dfa_size_limit=1_000_000),
            )
        except Exception:
            return None
        accepts: Callable[[Any], bool] = made.is_valid
        return accepts

    def _check(self, arguments: dict[str, Any]) -> list[str]:
        try:
            if self._accepts is not None and self._accepts(arguments):
                return []
        except Exception:
            self._accepts = None  # something that JSON has, and it has not
        self._budget.left = PATTERN_STEPS
        try:
            errors = list(islice(self._validator.iter_errors(arguments), MOST_COMPLAINTS * 4))
        except TooCostlyError:
            self.problem = "a pattern of it takes too long on the arguments given"
            return []
        except Exception as why:
            self.problem = f"checking against it failed ({type(why).__name__})"
            return []
        errors.sort(key=relevance, reverse=True)
        return list(dict.fromkeys(line for error in errors for line in _complain(error)))[:MOST_COMPLAINTS]

    # What `jsonschema` would do with `re`.

    def _pattern(self, validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._patterns[pattern].search(instance, self._budget):
            yield ValidationError("pattern")

    def _pattern_properties(self, validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if isinstance(instance, dict):
            for pattern, inner in patterns.items():
                for name, value in instance.items():
                    if self._patterns[pattern].search(name, self._budget):
                        yield from validator.descend(value, inner, path=name, schema_path=pattern)

    def _additional_properties(self, validator: Any, inner: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(instance, dict):
            return
        patterns = [self._patterns[pattern] for pattern in schema.get("patternProperties", {})]
        extras = [
            name
            for name in instance
            if name not in schema.get("properties", {})
            and not any(pattern.search(name, self._budget) for pattern in patterns)
        ]
        if isinstance(inner, dict):
            for name in extras:
                yield from validator.descend(instance[name], inner, path=name)
        elif inner is False and extras:
            yield ValidationError("additionalProperties", context=[])


def _refuse(uri: str) -> Any:
    raise ValueError("references are not fetched")


def _count(value: Any, most: int) -> int:
    """How many JSON values there are, counted until there are more than `most`."""
    if type(value) is dict:
        # What nearly all arguments are: nothing in them holds anything.
        for each in value.values():
            if type(each) not in _PLAIN:
                break
        else:
            return 1 + len(value)
    found, containers = 1, [value] if isinstance(value, dict | list | tuple) else []
    for each in containers:  # which grows meanwhile
        inside = each.values() if isinstance(each, dict) else each
        found += len(inside)
        if found > most:
            break
        for one in inside:
            if type(one) not in _PLAIN and isinstance(one, dict | list | tuple):
                containers.append(one)
    return found


_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


# Words for a model. They say where and what was expected, and never quote a value (R16).


def _where(error: ValidationError) -> str:
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return f"{short(path, 120)[1:-1]}: " if path else ""


def _json(value: object, most: int = 300) -> str:
    if isinstance(value, list):
        value = value[:most]  # a choice has one character at least
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = "what the schema says"
    return text if len(text) <= most else f"{text[:most]}…"


def _complain(error: ValidationError) -> Iterator[str]:
    where, word, value, instance = _where(error), error.validator, error.validator_value, error.instance
    if word == "required" and isinstance(value, list) and isinstance(instance, dict):
        missing = [name for name in value if name not in instance]
        yield f"{where}missing {', '.join(map(short, missing[:10]))}"
    elif word == "type":
        expected = " or ".join(value) if isinstance(value, list) else value
        yield f"{where}expected {expected}, got {json_type(instance)}"
    elif word in ("additionalProperties", "unevaluatedProperties") and isinstance(instance, dict):
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        for name in [name for name in instance if name not in known][:3]:
            near = difflib.get_close_matches(name[:60], [each[:60] for each in islice(known, 200)], n=1)
            yield f"{where}unexpected {short(name)}" + (f"; did you mean {short(near[0])}?" if near else "")
    elif word in ("enum", "const"):
        yield f"{where}expected {'one of ' if word == 'enum' else ''}{_json(value)}"
    elif word == "pattern":
        yield f"{where}must match the pattern {short(value, 200)}"
    elif word in ("anyOf", "oneOf") and error.context:
        # The alternative that was meant is the one which got furthest: past the type, and deepest.
        nearest = max(error.context, key=lambda each: (len(each.path), each.validator not in ("type", "const", "enum")))
        inner = next(_complain(nearest), "")
        yield f"{where}fits none of {len(cast('list[Any]', value))} alternatives" + (
            f"; the nearest: {inner}" if inner else ""
        )
    elif word == "oneOf":
        yield f"{where}fits more than one of the alternatives of which it must fit one"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{where}must keep to {word} {_json(value)}"
    else:
        yield f"{where}breaks the rule {word}"
