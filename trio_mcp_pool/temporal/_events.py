"""Which workflow an event of a worker's pool is about.

Temporal keeps the activity that runs in a context variable, which travels with the call; the event carries its caller's.
"""

from __future__ import annotations

from temporalio import activity

from trio_mcp_pool import Event


def activity_of(e: Event) -> activity.Info | None:
    """The activity that called: `workflow_id`, `workflow_run_id`, `activity_id`, ...; `None` for an event about no activity.

    For observers: of the events that have a `context`, such as `LeaseStarted`. A session of a workflow's scope is told of with
    the workflow's id at the beginning of the event's `scope`.
    """
    return None if e.context is None else e.context.run(_info)


def _info() -> activity.Info | None:
    return activity.info() if activity.in_activity() else None
