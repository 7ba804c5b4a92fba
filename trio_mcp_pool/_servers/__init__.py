"""Descriptions of MCP servers, and how each kind is dialled: one module per kind."""

from ._base import ClientOptions as ClientOptions
from ._base import Configure as Configure
from ._base import Server as Server
from ._base import check_callbacks as check_callbacks
from ._base import watch_messages as watch_messages
from ._callers import callback_options as callback_options
from ._custom import CustomServer as CustomServer
from ._handlers import as_handlers as as_handlers
from ._http import HttpServer as HttpServer
from ._in_process import InProcessServer as InProcessServer
from ._per_dial import Dial as Dial
from ._stdio import StdioServer as StdioServer
