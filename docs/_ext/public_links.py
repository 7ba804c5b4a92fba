"""Every public name that stands in prose as code becomes a link to its entry in the reference.

So the pages are written in plain Markdown, and nobody has to keep targets in mind. A name links once in each section: a page in
which every second word is blue is hard to read. Headings, links, and blocks of code stay as they are.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

_MODULES = (
    "trio_mcp_pool",
    "trio_mcp_pool.catalog",
    "trio_mcp_pool.config",
    "trio_mcp_pool.testing",
    "trio_mcp_pool.bridge",
    "trio_mcp_pool.temporal",
)


def _candidates(text: str) -> list[str]:
    name = text.removesuffix("()").removeprefix("await ")
    owner, dot, rest = name.partition(".")
    spoken = {"pool": "Pool", "session": "Session", "policy": "PoolPolicy", "scope": "ScopedPool", "tools": "ToolSet"}
    names = [name, *([f"{spoken[owner]}.{rest}"] if dot and owner in spoken else [])]
    return [f"{module}.{each}" for each in names for module in _MODULES]


def _link(app: Sphinx, tree: nodes.document, page: str) -> None:
    if page in ("reference", "changelog"):
        return
    objects: dict[str, Any] = app.env.domaindata["py"]["objects"]
    builder = app.builder
    linked: set[tuple[int, str]] = set()
    for literal in list(tree.findall(nodes.literal)):
        within, section = literal.parent, None
        while within is not None and section is None:
            if isinstance(within, nodes.reference | nodes.title | nodes.literal_block):
                break
            section = within if isinstance(within, nodes.section) else None
            within = within.parent
        if section is None:
            continue
        found = next((name for name in _candidates(literal.astext()) if name in objects), None)
        if found is None or (id(section), found) in linked:
            continue
        linked.add((id(section), found))
        target = objects[found]
        literal.replace_self(make_refnode(builder, page, target.docname, target.node_id, literal.deepcopy(), found))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls it."""
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
