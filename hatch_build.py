"""What hatchling is told when it builds: which files go into the source distribution, and the README of the package index.

Hatchling leaves out what git ignores, and takes whatever else lies about in the folder; the source distribution holds what git
tracks. Outside of a clone, as where a distribution is built from another one, everything there was chosen already.

The README links to files beside it, which is right in a clone and leads nowhere on a package index.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

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


_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")


class ReadmeForIndex(MetadataHookInterface):
    """Makes the README's links absolute: pages are linked where the documentation is published, other files only named."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Before anything is built, also an editable installation."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_absolute_links(text, metadata["urls"]["Documentation"]),
        }


def with_absolute_links(text: str, documentation: str) -> str:
    """Markdown in which a link to `docs/guide/x.md` leads to the page that is made of it."""

    def absolute(link: re.Match[str]) -> str:
        picture, shown, target = link.groups()
        if "://" in target or target.startswith("#"):
            return link[0]
        path, _, anchor = target.partition("#")
        if not path.startswith("docs/"):
            return str(shown)
        page = path.removeprefix("docs/")
        if page.endswith(".md"):
            page = page.removesuffix(".md") + ".html"
        elif page.endswith("/"):
            page = ""  # a folder has no page; the first one leads to all
        return f"{picture}[{shown}]({documentation}{page}{'#' + anchor if anchor else ''})"

    return _LINK.sub(absolute, text)
