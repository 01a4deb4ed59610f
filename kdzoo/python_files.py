"""Files of Python: what they import, where that lies, and a loader that keeps what it ran."""

from __future__ import annotations

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


class FromSource(SourceFileLoader):
    """Loads a module from its source and keeps it.

    Python's own loader may take compiled code in its place, which it knows by second and size alone: a number
    that was changed right after it ran is not seen.

    Attributes:
        content: what was run.
    """

    content = b""

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile what the file holds now."""
        self.content = self.get_data(self.path)
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target)
        if found is None or type(found.loader) is not SourceFileLoader or not is_local(name, found.origin):
            return None
        found.loader = FromSource(name, str(found.origin))
        return found


@contextmanager
def from_source() -> Iterator[None]:
    """Let files of the user's own be imported by `FromSource`."""
    finder: Any = _Finder()
    # Behind what stands before Python's own finder, such as that of modules that are compiled in.
    place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
    sys.meta_path.insert(place, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def is_local(name: str, file: str | Path | None) -> bool:
    """Say whether a module is the user's own: neither installed, nor of Python or kdzoo.

    Args:
        name: dotted.
        file: where it lies.
    """
    top = name.partition(".")[0]
    return file is not None and top not in {"kdzoo", *sys.stdlib_module_names} and not is_installed(file)


def is_installed(file: str | Path) -> bool:
    """Say whether a file lies where packages are installed."""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def imports_of(content: bytes, package: str) -> list[str]:
    """List what a file imports by statements, wherever they stand in it.

    Args:
        content: the file's.
        package: what its relative imports refer to.

    Returns:
        Dotted names, those above each of them included; of `from a import b` also a.b, as it may be a module.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module or ""]))
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    every = [".".join(name.split(".")[: n + 1]) for name in found for n in range(name.count(".") + 1)]
    return [name for name in dict.fromkeys(every) if name]


def located(name: str) -> ModuleSpec | None:
    """Find a module without importing anything.

    Args:
        name: dotted.
    """
    if name in sys.modules:
        spec: ModuleSpec | None = getattr(sys.modules[name], "__spec__", None)
        return spec
    places = _inside(name.rpartition(".")[0]) if "." in name else None
    try:
        return None if places == [] else PathFinder.find_spec(name, places)
    except KeyError:
        # A folder without an __init__.py, whose path Python looks up in the package above, not yet imported.
        return None


def _inside(package: str) -> list[str]:
    """List the folders of a package."""
    spec = located(package)
    if package in sys.modules or (spec is not None and spec.origin is not None):
        return list((spec.submodule_search_locations if spec is not None else None) or ())
    above, _, name = package.rpartition(".")
    candidates = [Path(place) / name for place in (_inside(above) if above else sys.path)]
    return [str(folder) for folder in candidates if folder.is_dir()]


def root_of(file: Path, package: str) -> Path:
    """Give the folder from which a module is imported: the one that holds its outermost package.

    Args:
        file: the module's.
        package: its `__package__`.
    """
    folders = [part for part in package.split(".") if part]
    inside = bool(folders) and list(file.parent.parts[-len(folders) :]) == folders
    return file.parents[len(folders)] if inside else file.parent


def ran_other_code(module: ModuleType, things: Iterable[Any], content: bytes) -> bool:
    """Say whether classes and functions of an imported module are others than those in its file.

    What stands outside of functions leaves no trace to compare.

    Args:
        module: imported at an unknown time.
        things: of the module.
        content: what its file holds now.
    """
    # Other loaders may change the code that they load, as pytest's does.
    if type(getattr(module.__spec__, "loader", None)) is not SourceFileLoader:
        return False
    file, compiled = str(module.__file__), defaultdict[str, list[CodeType]](list)
    try:
        for code in _codes(compile(content, file, "exec", dont_inherit=True)):
            compiled[code.co_name].append(code)
    except (SyntaxError, ValueError):
        return True
    members = [m for t in things for m in (t, *(vars(t).values() if isinstance(t, type) else ()))]
    functions = [f for f in map(inspect.unwrap, filter(inspect.isfunction, members)) if inspect.isfunction(f)]
    ran = [f.__code__ for f in functions if f.__code__.co_filename == file]
    # A module that is reloaded keeps what is in its file no more.
    return any(code not in compiled[code.co_name] for code in ran if code.co_name in compiled)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)
