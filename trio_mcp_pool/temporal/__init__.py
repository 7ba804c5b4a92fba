"""The pool in Temporal workers (extra `temporal`).

    Worker(client, task_queue="q", workflows=[...], plugins=[PoolPlugin({"files": StdioServer(...)})])

`PoolPlugin` is for workers, and `activity_of` for observers of their pools; what workflows call is in
`trio_mcp_pool.temporal.workflow`. The rule kept is that no call runs twice within one run of a workflow, and that the workflow
learns of every call whether it ran.
"""

from __future__ import annotations

from ._events import activity_of as activity_of
from ._plugin import PoolPlugin as PoolPlugin
