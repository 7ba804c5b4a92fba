"""Tools, resources and prompts of all servers as one list, and tool sets for agents.

Programs reach them through the pool: `pool.catalog`, `pool.toolset(...)`, `pool.notifications(...)`, `pool.subscribe(...)`.
"""

from ._catalog import Catalog as Catalog
from ._changes import CatalogChange as CatalogChange
from ._changes import Changes as Changes
from ._entries import Entry as Entry
from ._hooks import Approval as Approval
from ._hooks import ToolCall as ToolCall
from ._notifications import Notifications as Notifications
from ._notifications import ServerNotice as ServerNotice
from ._outcomes import Outcome as Outcome
from ._outcomes import Outcomes as Outcomes
from ._requests import ToolRequest as ToolRequest
from ._run import OutcomeStream as OutcomeStream
from ._source import Source as Source
from ._source import Watcher as Watcher
from ._subscriptions import ResourceUpdate as ResourceUpdate
from ._subscriptions import Updates as Updates
from ._toolset import ToolSet as ToolSet

# A name is where it is imported from: in tracebacks, in pickles, and in the documentation.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("trio_mcp_pool.catalog._"):
        _value.__module__ = "trio_mcp_pool.catalog"
del _value
