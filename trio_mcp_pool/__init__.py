"""A Trio-native, structured-concurrency pool of MCP client sessions.

The public names stand in `_public.py`, which is loaded when the first of them is asked for. Importing it here would load the
MCP SDK, which takes a second, before the command line can print its help or complete a word.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._public import *  # noqa: F403 (every name, as the docstring says)


def _load() -> None:
    import importlib

    public = importlib.import_module("._public", __name__)
    globals().update({name: value for name, value in vars(public).items() if not name.startswith("_")})


def __getattr__(name: str) -> Any:
    # Private names are modules: Python asks for one before it imports it, and that must not load everything.
    if not name.startswith("_"):
        _load()
        if name in globals():
            return globals()[name]
    if name == "__all__":
        return [name for name in __dir__() if not name.startswith("_")]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    _load()
    return sorted(globals().keys() - {"TYPE_CHECKING", "Any"})
