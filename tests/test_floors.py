"""The house of DESIGN.md, section 3: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdzoo

PACKAGE = Path(kdzoo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "outputs": 0, "checks": 0, "registry": 0, "methods": 0, "keys": 0, "files": 0, "plugins": 0,
    "provenance": 0, "python_files": 0,
    "functional": 1,
    "distillers": 2, "sources": 2, "models": 2, "data": 2,
    "results": 3,
    "training": 4,
    "testing": 5, "students": 5, "api": 5, "bench": 5, "cli": 5, "commands": 5, "listing": 5, "scaffold": 5,
    "work": 5,
    "__init__": 5, "__main__": 5,
}  # fmt: skip
# One file each, so that files of these folders know their base alone; the others' files work together.
CATALOGUES = {"distillers", "sources", "models"}
# Draws per class are keyed like orders, and a source may make them.
ALLOWED = {("sources", "kdzoo.data.order")}
# A control leaves one step of ReffAKD out, so it is made of the others.
CONTROLS = ("kdzoo.sources.controls", "kdzoo.sources.reffakd")
# What several families of networks are made of.
LAYERS = "kdzoo.models.layers"
# Networks from elsewhere share a wrapper, and those without an interface of their own a finder of stages.
WRAPPED = {
    ("kdzoo.models.external_timm", "kdzoo.models.external"),
    ("kdzoo.models.external_trunk", "kdzoo.models.external"),
    *(
        (f"kdzoo.models.external_{family}", f"kdzoo.models.{shared}")
        for family in ("torchvision", "module")
        for shared in ("external", "external_trunk")
    ),
}


def place(module: str) -> str:
    """Give the folder, or the file at the top, that a module of ours is in."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """List all imported modules; for `from a import b` both a and a.b, as b may be a module.

    Args:
        tree: a module's.
        lazy: whether to list those inside functions, too. What is for type checkers alone is left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(node, lazy=lazy)


def ours(path: Path) -> set[str]:
    """List the modules of ours that a file imports."""
    found = set()
    for name in imports(ast.parse(path.read_text())):
        if name.split(".")[0] == "kdzoo" and name != "kdzoo":
            file = PACKAGE.joinpath(*name.split(".")[1:])
            if file.with_suffix(".py").exists() or file.is_dir():
                found.add(name)
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_imports_only_lower_floors_and_its_own_folder(path: Path) -> None:
    own = place(name_of(path))
    for module in ours(path):
        theirs = place(module)
        if (own, module) in ALLOWED or (module == "kdzoo.data" and (own, "kdzoo.data.order") in ALLOWED):
            continue
        if theirs == own and path.parent != PACKAGE:
            edge = (name_of(path), module)
            common = module in (f"kdzoo.{own}", f"kdzoo.{own}.base", LAYERS)
            shared = common or edge in {CONTROLS, *WRAPPED}
            assert shared or own not in CATALOGUES, f"{name_of(path)} imports {module}, a file beside it"
            continue
        # The files of the top floor and of the ground work together.
        beside = FLOORS[own] == FLOORS[theirs] and FLOORS[own] in (0, 5)
        assert FLOORS[theirs] < FLOORS[own] or beside, (
            f"{name_of(path)} imports {module} of a floor above or its own"
        )


def test_every_file_has_a_floor() -> None:
    assert {
        place(name_of(path)) for path in FILES if path.parent == PACKAGE or path.name == "__init__.py"
    } <= {*FLOORS}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "training"], ids=name_of)
def test_only_training_knows_the_runner(path: Path) -> None:
    """mmengine's registry is used elsewhere; its Runner takes seconds to import and has one place."""
    found = set(imports(ast.parse(path.read_text())))
    heavy = (
        "mmengine.runner",
        "mmengine.hooks",
        "mmengine.optim",
        "mmengine.visualization",
        "mmengine.logging",
    )
    assert not [name for name in found if name.startswith(heavy)]


def test_mmengine_is_imported_from_nowhere_but_registry_and_training() -> None:
    users = {
        name_of(p)
        for p in FILES
        if any(n.split(".")[0] == "mmengine" for n in imports(ast.parse(p.read_text())))
    }
    assert {u for u in users if not u.startswith("kdzoo.training.")} <= {"kdzoo.registry"}


@pytest.mark.parametrize("name", ["__init__", "__main__", "bench", "cli", "commands", "checks", "methods"])
def test_files_behind_help_import_nothing_heavy(name: str) -> None:
    """`import kdzoo` and --help bring neither torch nor mmengine; what a function needs it imports itself."""
    seen: set[str] = set()

    def visit(path: Path) -> None:
        for module in imports(ast.parse(path.read_text()), lazy=False):
            assert module.split(".")[0] not in ("torch", "torchvision", "mmengine", "numpy"), (
                f"{path} imports {module}"
            )
            file = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
            if module.startswith("kdzoo.") and file.exists() and module not in seen:
                seen.add(module)
                visit(file)

    visit(PACKAGE / f"{name}.py")
