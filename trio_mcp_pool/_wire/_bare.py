"""The former place of `_groups.py`; goes when nobody imports it any more."""

from __future__ import annotations

from .._groups import interrupt_in as interrupt_in
from .._groups import leaves as leaves
from .._groups import sole_error

essence = sole_error
