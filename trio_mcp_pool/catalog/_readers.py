"""Who reads one resource on one session of the older era: see `_subscriptions.py`."""

from __future__ import annotations

from typing import final

import trio


@final
class Readers:
    """How many read one URI on one session of the older era."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = trio.Lock()
