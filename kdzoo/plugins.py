"""Plug-ins: files of the user's own, and installed packages, that register methods, sources, models or data
sets. They are ordinary Python and are run when they are loaded."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from kdzoo.checks import UsageError
from kdzoo.provenance import PREFIX, Part, brought, digest_of, parts_beside, parts_of
from kdzoo.python_files import FromSource, from_source
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES

# Of the entry points by which an installed package brings plug-ins.
GROUP = "kdzoo.plugins"

_REGISTRIES = (DISTILLERS, SOURCES, MODELS, DATASETS)
# What was loaded: by the file's path the module, and what it registered.
_files: dict[Path, tuple[ModuleType, list[tuple[Any, str]]]] = {}
_installed: set[str] = set()


def load_plugin(path: str | Path) -> ModuleType:
    """Run a Python file that registers distillers, sources, models or data sets.

    Files beside it can be imported by it. Loading it again does nothing, unless it has changed, or what it
    imports from its folder: then it is run again, with all of that, and what it registered before is
    replaced. If that fails, what was registered before stays, as it was before.

    Args:
        path: the file.

    Returns:
        The module.

    Raises:
        UsageError: there is no such file, it cannot be run (with the line), it registers a name that is
            taken (both places are named) or cannot be spelled, or nothing.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py" or not file.is_file():
        beside = file.with_name(f"{file.name}.py")
        hint = f" Did you mean {path}.py?" if file.suffix != ".py" and beside.is_file() else ""
        raise UsageError(
            f"plug-in {path}: must be a Python file (.py), and there is none of that name.{hint}"
        )
    known = _files.get(file)
    before = [] if known is None else parts_of(known[0].__name__)
    if known is not None and before and not any(part.changed for part in before):
        return known[0]
    # What the zoo itself brings comes first, so that a doubled name is the plug-in's.
    for registry in _REGISTRIES:
        registry.names()
    with _kept_on_failure() as things, _unloaded(file, before):
        _forget([] if known is None else known[1])
        module = _run(file, f"plug-in {path}")
        added = [
            (r, name) for r in _REGISTRIES for name in r.names() if things[r].get(name) is not r.find(name)
        ]
        if not added:
            raise UsageError(
                f"plug-in {path}: it registers nothing. Put @DISTILLERS.register('name') above what it "
                "brings (or SOURCES, MODELS, DATASETS; all from kdzoo.registry)."
            )
    for registry, name in added:
        brought(registry.find(name), module.__name__)
    _files[file] = module, added
    return module


@contextmanager
def _unloaded(file: Path, before: Sequence[Part]) -> Iterator[None]:
    """Let a plug-in be imported anew, and the files beside it too if it was loaded before, or if one of them
    has changed since something else imported it; put the modules back if something is raised.

    Args:
        file: the plug-in's.
        before: what it ran with when it was loaded last, itself first.
    """
    helpers = [*before[1:], *parts_beside(file, file.read_bytes())]
    names = {_name(file)}
    if before or any(part.changed for part in helpers):
        names |= {part.module for part in helpers}
    gone = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    for registry in _REGISTRIES:
        _forget([(registry, n) for n, thing in registry.module_dict.items() if thing.__module__ in gone])
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        sys.modules.pop(_name(file), None)
        sys.modules.update(gone)
        raise


def _name(file: Path) -> str:
    # A name of its own: the file may be called like a module that exists.
    return f"{PREFIX}{file.stem}_{digest_of(bytes(file))[:8]}"


def _run(file: Path, who: str) -> ModuleType:
    name = _name(file)
    spec = importlib.util.spec_from_file_location(name, file, loader=FromSource(name, str(file)))
    if spec is None or spec.loader is None:
        raise UsageError(f"{who}: Python cannot import it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # As scripts have it; last, so that no module of the user's hides one of an installed package.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        with from_source():
            spec.loader.exec_module(module)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(f"{who}: it cannot be run: {_told(error, file)}") from error
    parts_of(name)
    return module


def _told(error: BaseException, file: Path) -> str:
    """Say what was raised and in which line of the file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" + (f" (line {lines[-1]})" if lines else "")


@contextmanager
def _kept_on_failure() -> Iterator[Mapping[Any, Mapping[str, Any]]]:
    """Give what is registered, and leave it so if something is raised."""
    before = {registry: dict(registry.module_dict) for registry in _REGISTRIES}
    try:
        yield before
    except BaseException:
        for registry, things in before.items():
            registry.module_dict.clear()
            registry.module_dict.update(things)
        raise


def _forget(added: list[tuple[Any, str]]) -> None:
    for registry, name in added:
        registry.module_dict.pop(name, None)


def load_installed() -> None:
    """Import what installed packages bring under the entry-point group `kdzoo.plugins`, once a process.

    Raises:
        UsageError: one of them cannot be imported; the package is named.
    """
    for point in _points():
        if point.value in _installed:
            continue
        _installed.add(point.value)
        try:
            with _kept_on_failure():
                point.load()
        except UsageError:
            _installed.discard(point.value)
            raise
        except Exception as error:
            _installed.discard(point.value)
            message = " ".join(str(error).split())
            raise UsageError(
                f"plug-in {point.name!r} of the installed package {_package(point)}: it cannot be imported: "
                f"{type(error).__name__}: {message}. Update or uninstall that package."
            ) from error


@functools.cache
def _points() -> list[EntryPoint]:
    """List the entry points, once: it reads the metadata of every installed package."""
    return sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value))


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else repr(point.value)
