"""How the package is built: imports point downwards, foreign packages stay in their layer, modules are short and explained."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "onnxzip"
MODULES = sorted(ROOT.rglob("*.py"))
CEILING = 300

# From the bottom up; a part may import what stands before it. `linalg` stands beside and imports nothing of ours.
ORDER = (
    "errors", "signals", "linalg", "net", "ops", "runtime", "values", "pairs", "foreign", "config", "progress", "peers",
    "loading", "analysis", "calibration", "matching", "fusion", "exporting", "retraining", "distributed", "shipping",
    "inspection", "merged", "asked", "pipeline", "before_after", "taking_apart", "teaching", "public", "__init__",
    "flags", "bars", "cli", "__main__",
)
# Packages that targets of `export` need; each is imported by one function of one target, in a process of its own.
BACKENDS = ("openvino", "ncnn", "executorch", "litert_torch", "ai_edge_litert", "coremltools")
# Foreign package -> the parts that may import it. `onnx` is also the type of what the public functions return, and a report
# names the version of `onnxruntime`.
FOREIGN = {
    "onnx": {
        "loading", "runtime", "exporting", "inspection", "merged", "pipeline", "before_after", "taking_apart", "teaching",
        "shipping",
    },
    "onnx_graphsurgeon": {"loading"},
    "onnxruntime": {"runtime", "exporting", "shipping"},
    "scipy": {"linalg"},
    "torch": {"ops", "retraining", "distributed", "shipping"},
    "threadpoolctl": {"fusion"},
    "typer": {"cli", "flags"},
    "rich": {"cli", "flags", "bars", "inspection"},
    "yaml": {"config", "flags"},
    "google": {"loading", "runtime"},
    "PIL": {"calibration"},
    **{backend: {"shipping"} for backend in BACKENDS},
}
EVERYWHERE = {"numpy"}


def part_of(path: Path) -> str:
    """The package or the module right below the root that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> list[str]:
    """Every module that a file imports, at any depth of it, by its full name."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = str(node.module)
            found += [f"onnxzip.{a.name}" for a in node.names] if module == "onnxzip" else [module]
    return found


def misplaced(part: str, name: str, order: tuple[str, ...] = ORDER) -> str | None:
    """Why a part may not import a module; None where it may."""
    top, *rest = name.split(".")
    if top == "onnxzip":
        below = rest[0] if rest and rest[0] in order else "__init__"
        if part == "linalg" and below != part:
            return f"linalg imports {name}"
        return None if order.index(below) <= order.index(part) else f"{part} imports {name}, which stands above it"
    if top in FOREIGN and part not in FOREIGN[top]:
        return f"{part} imports {top}, which belongs to {', '.join(sorted(FOREIGN[top]))}"
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
class TestModule:
    def test_stands_in_the_order(self, path: Path) -> None:
        assert part_of(path) in ORDER

    def test_imports_point_downwards(self, path: Path) -> None:
        wrong = [why for name in imported(path) if (why := misplaced(part_of(path), name)) is not None]
        assert not wrong

    def test_foreign_packages_are_known(self, path: Path) -> None:
        tops = {name.split(".")[0] for name in imported(path)}
        assert tops <= {"onnxzip", "__future__", *FOREIGN, *EVERYWHERE, *sys.stdlib_module_names}

    def test_is_explained_and_short(self, path: Path) -> None:
        assert ast.get_docstring(tree(path)), "no docstring"
        assert len(path.read_text(encoding="utf-8").splitlines()) < CEILING

    def test_functions_are_short(self, path: Path) -> None:
        """At most 40 lines without the docstring."""
        long = [f.name for f in functions(path) if length(f) > 40]
        assert not long


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)]


def length(function: ast.FunctionDef) -> int:
    """Lines from `def` to the end, less the docstring's."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    assert function.end_lineno is not None and first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if told else 0)


def test_no_package_publishes_a_function_of_its_own_name() -> None:
    """`from x.match import match` would shadow the package."""
    packages = {p.parent.name for p in MODULES if p.name == "__init__.py"}
    public = {n.name: path for path in MODULES for n in tree(path).body if isinstance(n, ast.FunctionDef)}
    modules = {p.parent / p.stem for p in MODULES if p.name != "__init__.py"}
    assert not packages & set(public)
    assert not [m for m in modules if m.name == m.parent.name]


def test_the_order_is_checked() -> None:
    """The rule itself: upwards, sideways and foreign imports are refused, downward ones are not."""
    assert misplaced("net", "onnxzip.ops") is not None
    assert misplaced("linalg", "onnxzip.errors") is not None
    assert misplaced("matching", "scipy.optimize") is not None
    assert misplaced("analysis", "onnxzip") is not None
    assert misplaced("fusion", "onnxzip.linalg.ridge") is None
    assert misplaced("linalg", "scipy.linalg") is None
