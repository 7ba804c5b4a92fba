"""The house: what is public, that it is documented and final, and that imports go only down the stairs."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import trio_mcp_pool

PACKAGE = Path(trio_mcp_pool.__file__).parent
PUBLIC = sorted(name for name in vars(trio_mcp_pool) if not name.startswith("_"))
VALUES = {name: value for name in PUBLIC if inspect.isclass(value := getattr(trio_mcp_pool, name)) or callable(value)}
# Made to be subclassed: bases of the public surface, and protocols.
OPEN = {"PoolError", "ConnectError", "Server", "Observer", "Event", "ConnectionEvent"}

# The rooms, from the top of the house to the bottom; a module may import from its own room and from those below. The
# modules of one room may not be confused with its neighbours, so each room is a set of names.
ROOMS: list[set[str]] = [
    {"cli"},
    {"gateway"},
    {"catalog"},
    {"config"},
    {"testing"},
    {"_telemetry"},
    {"_pool"},
    {"_verbs"},
    {"_session"},
    {"_core", "_entries"},
    {"_lane"},
    {"_matcher", "_lease", "_health", "_books"},
    {"_connection"},
    {"_servers"},
    {"_wire"},
    {"_events"},
    {"_errors"},
    {"_policy", "_statistics", "_groups"},
    {"_arguments"},
]


def room(module: str) -> int:
    """How far down the house a module lives."""
    top = module.split(".")[0]
    for floor, names in enumerate(ROOMS):
        if top in names:
            return floor
    raise AssertionError(f"{module} lives in no room: put it on the list")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imported(path: Path) -> set[str]:
    """The modules of this package that one module imports when it runs, as dotted names without the package's own."""
    here = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    if here[-1] == "__init__":
        here.pop()
        package = here
    else:
        package = here[:-1]
    found: set[str] = set()
    hidden: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            hidden.update(inner for child in node.body for inner in ast.walk(child))
    for node in ast.walk(ast.parse(path.read_text())):
        if any(ast.dump(node, include_attributes=True) == ast.dump(h, include_attributes=True) for h in hidden):
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            if len(base) > 1:
                found.add(".".join(base[1:]))
            else:
                found.update(alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists())
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            found.add(".".join(node.module.split(".")[1:]) or "__init__")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_down_the_house(path: Path) -> None:
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    mine = room(name)
    for other in imported(path):
        if other == "__init__":
            # The public surface: for those who stand above or beside the house.
            assert name.split(".")[0] in ("cli", "catalog", "config", "gateway", "testing", "_telemetry"), name
        else:
            assert room(other) >= mine, f"{name} imports {other}, which lives above it"


def test_modules_are_private_unless_the_house_says_otherwise() -> None:
    public = {info.name for info in pkgutil.iter_modules([str(PACKAGE)]) if not info.name.startswith("_")}
    assert public <= {"cli", "gateway", "catalog", "config", "testing"}


def test_every_public_name_says_that_it_lives_in_the_package() -> None:
    modules_seen = {name: getattr(value, "__module__", None) for name, value in VALUES.items()}
    assert {name: where for name, where in modules_seen.items() if where != "trio_mcp_pool"} == {}


def test_every_public_name_is_documented() -> None:
    bare = [name for name, value in VALUES.items() if not (inspect.getdoc(value) or "").strip()]
    for name, value in VALUES.items():
        if inspect.isclass(value):
            bare += [
                f"{name}.{member}"
                for member, what in vars(value).items()
                if not member.startswith("_")
                and (inspect.isfunction(what) or isinstance(what, property | classmethod | staticmethod))
                and not inspect.getdoc(what)
            ]
    assert bare == []


def test_every_field_of_a_public_value_is_documented() -> None:
    bare: list[str] = []
    for name, value in VALUES.items():
        if not dataclasses.is_dataclass(value) or issubclass(value, trio_mcp_pool.Server):  # type: ignore[arg-type]
            continue
        for owner in value.__mro__:  # type: ignore[union-attr]
            if owner.__name__ in SOURCES and dataclasses.is_dataclass(owner):
                bare += [f"{name}.{field}" for field in undocumented(SOURCES[owner.__name__])]
    # Two fields need no words beside their names.
    assert set(bare) <= {"DialFailed.error", "AcquireFailed.reason"}, sorted(set(bare))


# `inspect` cannot find the source of a class that says it lives elsewhere.
SOURCES = {
    node.name: node
    for path in [*PACKAGE.glob("_*.py"), *PACKAGE.glob("_servers/_*.py")]
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
}


def undocumented(owner: ast.ClassDef) -> list[str]:
    body = owner.body
    bare = []
    following: list[ast.stmt | None] = [*body[1:], None]
    for node, after in zip(body, following, strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not documented and not node.target.id.startswith("_"):
                bare.append(node.target.id)
    return bare


def test_concrete_public_classes_are_final() -> None:
    classes = {name: value for name, value in VALUES.items() if inspect.isclass(value)}
    assert {name for name, value in classes.items() if not getattr(value, "__final__", False)} == OPEN


def test_the_testing_kits_names_are_documented_and_its_modules_private() -> None:
    kit = importlib.import_module("trio_mcp_pool.testing")
    public = {name: value for name, value in vars(kit).items() if not name.startswith("_")}
    made = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)}
    assert [name for name, value in made.items() if not inspect.getdoc(value)] == []
    private = {info.name for info in pkgutil.iter_modules(kit.__path__)}
    assert all(name.startswith("_") for name in private)


def test_private_attributes_of_the_sdk_are_off_limits_but_for_the_seam() -> None:
    for path in modules():
        if path.name == "_seam.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] in ("mcp", "mcp_types"):
                    assert not any(part.startswith("_") for part in name.split(".")), f"{path}: {name}"
