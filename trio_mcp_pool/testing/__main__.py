"""`python -m trio_mcp_pool.testing`: a scripted server on stdin and stdout that does what its gates say."""

from __future__ import annotations

import json
import sys

from ._child import Child

Child(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {"name": "scripted", "eras": "both", "texts": {}}).run()
