"""`python -m trio_mcp_pool.cli` is `trio-mcp-pool`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
