"""Keeps the source distribution to what git tracks.

Hatchling leaves out what git ignores, and takes whatever else lies about in the folder. Outside of a clone, as where a
distribution is built from another one, everything there was chosen already.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# What runs on the machine of the project alone.
_OURS = ".ci/"


class TrackedFiles(BuildHookInterface[Any]):
    """Replaces the walk through the folder by git's own list."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are collected."""
        if not (Path(self.root) / ".git").exists():
            return
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=self.root, check=True, capture_output=True, text=True)
        tracked = [name for name in listed.stdout.split("\0") if name and (Path(self.root) / name).is_file()]
        self.build_config.target_config["only-include"] = [name for name in tracked if not name.startswith(_OURS)]
