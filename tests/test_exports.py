"""The house: what is public, that it is documented and final, and that imports only go down it."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import trio_mcp_pool

PACKAGE = Path(trio_mcp_pool.__file__).parent
PUBLIC = sorted(name for name in dir(trio_mcp_pool) if not name.startswith("_"))
VALUES = {name: value for name in PUBLIC if inspect.isclass(value := getattr(trio_mcp_pool, name)) or callable(value)}
# Made to be subclassed: bases of the public surface, and protocols.
OPEN = {"PoolError", "ConnectError", "Server", "Observer", "Event", "ConnectionEvent"}

# The house of DESIGN section 6, from the top. A module may import from its own room and from the floors below. The rooms of
# one floor do not know each other.
HOUSE: list[set[str]] = [
    {"cli"},
    {"gateway"},
    {"temporal"},
    {"bridge", "config"},
    {"_public"},
    {"_pool"},
    {"_handle"},
    {"_catalog_source"},
    {"catalog"},
    {"_verbs", "_session"},
    {"_call"},
    {"_core"},
    {"_lanes"},
    {"_connection"},
    {"_servers"},
    {"_wire"},
    {"_telemetry", "_log_observer"},
    {"_events"},
    {"_errors"},
    {"_statistics", "_policy", "_groups", "_callbacks"},
    {"_arguments", "_blocks", "_results"},
]
# Inside of `_wire`: the transports, then what they share.
WIRE: list[set[str]] = [
    {"http", "stdio"},
    {"jsonrpc", "_probe", "_tool_call"},
    {"_causes", "_listing", "_log_level", "_seam", "_streams"},
    {"_link"},
]
ABOVE_THE_POOL = {name for floor in HOUSE[:4] for name in floor}
# Beside the house: it may use what a kind of server is made of, and nobody in the house uses it.
BESIDE = "testing"
BESIDE_USES = {"testing", "_servers", "_wire", "_policy", "_groups", "_arguments"}
PUBLIC_SURFACE = ""


def floor_of(room: str, house: list[set[str]]) -> int:
    """How far down a room is."""
    for number, rooms in enumerate(house):
        if room in rooms:
            return number
    raise AssertionError(f"{room} is no room of the house: put it on the list")


def may_import(room: str, other: str, house: list[set[str]]) -> bool:
    return room == other or floor_of(room, house) < floor_of(other, house)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def module_name(path: Path) -> str:
    """Its dotted name without the package's own; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """The modules of this package that one module imports, for type checkers only and inside of functions included."""
    package = path.parent.relative_to(PACKAGE).parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            base = node.module.partition(".")[2]
        else:
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != PACKAGE.name for alias in node.names), path
            continue
        assert base in MODULES, f"{path}: {base}"
        submodules = {name for alias in node.names if (name := f"{base}.{alias.name}".lstrip(".")) in MODULES}
        found |= submodules
        if len(submodules) < len(node.names):
            found.add(base)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_down_the_house(path: Path) -> None:
    name = module_name(path)
    room = name.split(".")[0]
    for other in imported(path):
        its_room = other.split(".")[0]
        if room == BESIDE:
            assert its_room in BESIDE_USES, f"{name} imports {other}"
        elif room in ABOVE_THE_POOL and other in (PUBLIC_SURFACE, BESIDE):
            continue
        elif room in ABOVE_THE_POOL:
            assert its_room in ABOVE_THE_POOL, f"{name} imports {other}, and not from the public surface"
            assert may_import(room, its_room, HOUSE), f"{name} imports {other}, which is not below it"
        else:
            assert its_room != BESIDE, f"{name} imports {other}, which is for tests"
            assert may_import(room, its_room, HOUSE), f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "_wire").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_down_inside_the_wire(path: Path) -> None:
    room = module_name(path).partition(".")[2].split(".")[0]
    for other in imported(path):
        if other.startswith("_wire.") and room:
            assert may_import(room, other.split(".")[1], WIRE), f"{path} imports {other}, which is not below it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {module_name(path): imported(path) for path in modules()}
    graphlib.TopologicalSorter(arrows).prepare()  # or it raises `CycleError` with the circle in it


def test_every_room_is_on_the_list_and_on_one_floor() -> None:
    rooms = [name.split(".")[0] for name in MODULES if name]
    assert {room for room in rooms if room != BESIDE} <= set().union(*HOUSE)
    assert sum(map(len, HOUSE)) == len(set().union(*HOUSE))


def test_modules_are_private_unless_the_house_says_otherwise() -> None:
    public = {info.name for info in pkgutil.iter_modules([str(PACKAGE)]) if not info.name.startswith("_")}
    assert public <= {"cli", "gateway", "catalog", "config", "temporal", "bridge", "testing"}


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
