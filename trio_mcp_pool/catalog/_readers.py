"""Who reads one resource on one session of the older era: see `_subscriptions.py`."""

from __future__ import annotations

from typing import final

import trio


@final
class Readers:
    """How many read one URI on one session of the older era."""

    def __init__(self) -> None:
        self.users = 0
        """Those who read, and those who are about to, or are leaving: as long as there are any, this record is theirs."""
        self.count = 0
        """Those who read. The session is subscribed while there are any."""
        self.lock = trio.Lock()
        """Held while the session is subscribed or unsubscribed."""
