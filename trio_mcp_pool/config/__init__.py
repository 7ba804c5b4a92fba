"""Configuration files of MCP hosts, read into servers for a pool.

`open_pool(load_servers("mcp.json"))` is all that most programs need. The files of Claude Desktop, Claude Code, VS Code,
Cursor, FastMCP, Gemini CLI, Codex, Cline and Roo Code are understood, each with its own units and spellings.
"""

from ._build import LogIn as LogIn
from ._discover import FoundConfig as FoundConfig
from ._discover import discover_configs as discover_configs
from ._durations import parse_duration as parse_duration
from ._entries import OAuth as OAuth
from ._inputs import Ask as Ask
from ._inputs import Input as Input
from ._load import Entry as Entry
from ._load import Servers as Servers
from ._load import load_servers as load_servers
from ._problems import ConfigError as ConfigError
from ._problems import Place as Place
from ._problems import Problem as Problem
from ._watch import ConfigChange as ConfigChange
from ._watch import watch_config as watch_config
from ._write import config_schema as config_schema
from ._write import dump_entries as dump_entries

for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("trio_mcp_pool.config._"):
        _value.__module__ = "trio_mcp_pool.config"
del _value
