"""Durations with their unit: `500ms`, `10s`, `5m`, `2h`, `inf`."""

from __future__ import annotations

import math
import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration(text: str) -> float:
    """Seconds. The unit is required, so that nobody has to know which one is meant; `inf` and `never` are infinite.

    Raises `ValueError` that says how a duration is written.
    """
    if text.strip().lower() in ("inf", "never"):
        return math.inf
    found = _DURATION.fullmatch(text[:40])
    if found is None:
        raise ValueError("a duration is a number and its unit, such as 500ms, 10s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]
