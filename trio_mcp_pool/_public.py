"""Every public name, imported from the module where it is made. `trio_mcp_pool` gives them out.

A new public name is added here, and nowhere else.
"""

from ._callbacks import Callbacks as Callbacks
from ._callbacks import Caller as Caller
from ._errors import AcquireTimeoutError as AcquireTimeoutError
from ._errors import AuthenticationError as AuthenticationError
from ._errors import ConnectError as ConnectError
from ._errors import HttpStatusError as HttpStatusError
from ._errors import InvalidArgumentsError as InvalidArgumentsError
from ._errors import InvalidResultError as InvalidResultError
from ._errors import LeaseEndedError as LeaseEndedError
from ._errors import MessageTooLargeError as MessageTooLargeError
from ._errors import OutcomeUnknownError as OutcomeUnknownError
from ._errors import PoolClosedError as PoolClosedError
from ._errors import PoolError as PoolError
from ._errors import ServerUnavailableError as ServerUnavailableError
from ._errors import SessionLostError as SessionLostError
from ._errors import ToolDeniedError as ToolDeniedError
from ._errors import TooManyWaitersError as TooManyWaitersError
from ._errors import UnknownServerError as UnknownServerError
from ._errors import UnknownToolError as UnknownToolError
from ._events import AcquireFailed as AcquireFailed
from ._events import CallResent as CallResent
from ._events import ConnectionEvent as ConnectionEvent
from ._events import DialFailed as DialFailed
from ._events import DialStarted as DialStarted
from ._events import Event as Event
from ._events import LeaseEnded as LeaseEnded
from ._events import LeaseStarted as LeaseStarted
from ._events import Observer as Observer
from ._events import PoolClosed as PoolClosed
from ._events import SessionClosed as SessionClosed
from ._events import SessionDied as SessionDied
from ._events import SessionOpened as SessionOpened
from ._events import WaitStarted as WaitStarted
from ._log_observer import LogObserver as LogObserver
from ._policy import Backoff as Backoff
from ._policy import PoolPolicy as PoolPolicy
from ._pool import Pool as Pool
from ._pool import ScopedPool as ScopedPool
from ._pool import open_pool as open_pool
from ._pool import serve_pool as serve_pool
from ._results import text_of as text_of
from ._servers import CustomServer as CustomServer
from ._servers import Dial as Dial
from ._servers import HttpServer as HttpServer
from ._servers import InProcessServer as InProcessServer
from ._servers import Server as Server
from ._servers import StdioServer as StdioServer
from ._session import Session as Session
from ._statistics import PoolStatistics as PoolStatistics
from ._statistics import ServerStatistics as ServerStatistics
from ._telemetry import OpenTelemetryObserver as OpenTelemetryObserver

# A name is where it is imported from: in tracebacks, in pickles, and in the documentation.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("trio_mcp_pool._"):
        _value.__module__ = "trio_mcp_pool"
del _value
