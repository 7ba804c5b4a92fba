"""What is broken: cosmic-ray's changes to a single token, and the removal of a single statement.

Of cosmic-ray's operators those are taken that say something about a test: a condition turned around, a boundary moved by one,
a constant changed, a loop that does not run. The other ways of writing another operator in the same place are found by the
same tests, and would only multiply the time. A statement left out is what a forgotten line looks like.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

_WHOLE = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ZeroIterationForLoop",
)
_COMPARISONS = (
    *("Is_IsNot", "IsNot_Is", "Eq_NotEq", "NotEq_Eq"),
    *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
)
_BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Pow_Mul", "BitAnd_BitOr")
OPERATORS = (
    *(f"core/{name}" for name in _WHOLE),
    *(f"core/ReplaceComparisonOperator_{name}" for name in _COMPARISONS),
    *(f"core/ReplaceBinaryOperator_{name}" for name in _BINARY),
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/ReplaceUnaryOperator_USub_UAdd",
)
# A type checker's word, without effect when the program runs.
_WITHOUT_EFFECT = ("@final", "@overload", "if TYPE_CHECKING:")
_REMOVED = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Return, ast.Raise)


@dataclass(frozen=True)
class Mutant:
    """One change. `occurrence` counts the places in the file that this operator could change."""

    path: str
    operator: str
    occurrence: int
    line: int

    def text(self, source: str) -> str | None:
        """The file as it is after the change. `None` if that is no Python, or the same program."""
        if self.operator == "remove-statement":
            changed = _without(source, _statements(source)[self.occurrence])
        else:
            changed = mutate_code(source, cosmic_ray.plugins.get_operator(self.operator)(), self.occurrence)
        try:
            if changed is None or _program(changed) == _program(source):
                return None
        except SyntaxError:
            return None
        return changed

    def shown(self, source: str, changed: str) -> str:
        """The first line that differs, as it was and as it is."""
        before, after = source.splitlines(), changed.splitlines()
        for old, new in zip(before, after, strict=False):
            if old != new:
                return f"{old.strip()}  =>  {new.strip()}"
        return "?"


def mutants(root: Path, path: str) -> Iterator[Mutant]:
    """All changes to one file."""
    source = (root / path).read_text(encoding="utf-8")
    tree = get_ast(source)
    declared, headers = _declarations(source), _headers(source)
    for name in OPERATORS:
        operator = cosmic_ray.plugins.get_operator(name)()
        places = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        lines = source.splitlines()
        passed = declared | headers if "BinaryOperator" in name else declared
        for occurrence, (start, _) in enumerate(places):
            if lines[start[0] - 1].strip() not in _WITHOUT_EFFECT and start[0] not in passed:
                yield Mutant(path, name, occurrence, start[0])
    for occurrence, node in enumerate(_statements(source)):
        yield Mutant(path, "remove-statement", occurrence, node.lineno)


def _declarations(source: str) -> set[int]:
    """The lines of protocols, which say what others do and never run."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        ):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def _headers(source: str) -> set[int]:
    """The lines of functions' parameters, where a star is no operator."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update(range(node.lineno, node.body[0].lineno))
    return found


def _program(source: str) -> str:
    """What runs: the syntax without the annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _statements(source: str) -> list[ast.stmt]:
    """The statements of functions that can be left out, docstrings apart."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                declared = isinstance(node, ast.AnnAssign) and node.value is None
                if isinstance(node, _REMOVED) and not said and not declared and node not in found:
                    found.append(node)
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _without(source: str, node: ast.stmt) -> str:
    lines = source.splitlines(keepends=True)
    start, end = node.lineno - 1, node.end_lineno or node.lineno
    # As many lines as before: where a function begins tells which one it is.
    lines[start:end] = [f"{lines[start][: node.col_offset]}pass\n", *["\n"] * (end - start - 1)]
    return "".join(lines)
