"""What a record depends on outside of kdzoo: code, known by what its files held when they ran."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from kdzoo.checks import UsageError
from kdzoo.python_files import (
    FromSource,
    imports_of,
    is_installed,
    is_local,
    located,
    ran_other_code,
    root_of,
)

# What every plug-in inherits from: versions of kdzoo, and of packages that records name.
_NOT_PLUG_INS = {"kdzoo", "torch", "builtins", "typing", "abc"}


class _Ran(NamedTuple):
    """A file as it ran: token, which is another one after the module was run again; path, content's hash."""

    token: Any
    path: Path
    digest: str
    imports: Sequence[str]


class Part(NamedTuple):
    """A file that something depends on.

    Attributes:
        label: its name from the folder that it is imported from, which is the same on every machine.
        digest: SHA-256 of its content, in hexadecimal.
        path: where it is; None for the version of an installed package.
        module: the name under which it was imported.
    """

    label: str
    digest: str
    path: Path | None
    module: str

    @property
    def changed(self) -> bool:
        """Whether the file is another one by now; one that is gone is not."""
        try:
            return self.path is not None and digest_of(self.path.read_bytes()) != self.digest
        except OSError:
            return False


# By a module's name.
_ran: dict[str, _Ran] = {}
_parts: dict[str, tuple[Any, list[Part]]] = {}
# Modules that registered a thing, where they need not be its own.
_brought: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def digest_of(content: bytes) -> str:
    """Give the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def remember(thing: Any) -> None:
    """Keep what the files of a thing hold while they are those that ran: when it is registered or imported.

    Args:
        thing: a class or function.
    """
    for owner, own in _owners(thing).items():
        if owner == "__main__":
            # A script that is run again in the same process looks the same.
            forget(owner)
        parts_of(owner, own)


def brought(thing: Any, module: str) -> None:
    """Keep which plug-in registered a thing, so that the plug-in's file counts, too.

    Args:
        thing: what was registered.
        module: the plug-in's name among the imported modules.
    """
    if _package(thing) != "kdzoo":
        _brought[thing] = module


def forget(module: str) -> None:
    """Take the files of a module for unknown: it was run again."""
    _ran.pop(module, None)
    _parts.pop(module, None)


def plug_in(thing: Any) -> str | None:
    """Hash what defines a thing from outside kdzoo: a changed plug-in must not pass for the old one.

    That is its file, those of the classes that it inherits from, and what each of these imports, by
    statements, from the folder that it was imported from itself; of an installed package it is the file and
    the package's version. Where there is no file, as in a notebook, it is the compiled code.

    Args:
        thing: a registered class or function.

    Returns:
        SHA-256 in hexadecimal; None for what is kdzoo's own (it has versions).

    Raises:
        UsageError: a file was changed after it was run, so that no hash would tell what runs.
    """
    made_of = vars(thing).get("made_of")
    if _package(thing) == "kdzoo" and made_of:
        return plug_ins(made_of.values())
    if _package(thing) == "kdzoo":
        return None
    found: set[tuple[str, str]] = set()
    for owner, own in _owners(thing).items():
        parts = parts_of(owner, own)
        _refuse_changed(owner, parts)
        found |= {(part.label, part.digest) for part in parts}
        if not parts:
            found |= {("", digest_of(repr(_compiled(t)).encode())) for t in own}
    if len(found) == 1:
        return found.pop()[1]
    return digest_of("\n".join("\0".join(pair) for pair in sorted(found)).encode())


def plug_ins(things: Iterable[Any]) -> str | None:
    """Hash what defines several things from outside kdzoo, in their order; None where all are its own.

    Args:
        things: registered classes or functions.
    """
    hashes = [plug_in(thing) for thing in things]
    return digest_of(repr(hashes).encode()) if any(hashes) else None


def parts_of(module: str, things: Sequence[Any] = ()) -> list[Part]:
    """List the files that a module ran with; none where it has no file.

    Args:
        module: its name among the imported ones.
        things: of the module, known to be what it defines now.
    """
    ran = _as_it_ran(module, things)
    if ran is None:
        return []
    if module not in _parts or _parts[module][0] is not ran.token:
        package = getattr(sys.modules[module], "__package__", None) or ""
        _parts[module] = ran.token, _gathered(module, ran, root_of(ran.path, package))
    return _parts[module][1]


def parts_beside(path: Path, content: bytes) -> list[Part]:
    """List the files that a plug-in will run with, itself left out.

    Args:
        path: of the plug-in.
        content: of its file.
    """
    return _gathered("", _Ran(None, path, digest_of(content), imports_of(content, "")), path.parent)[1:]


def _refuse_changed(module: str, parts: Sequence[Part]) -> None:
    for part in parts:
        if part.changed:
            loaded = module.startswith(PREFIX)
            again = f"Load {parts[0].path} again by kdzoo.load_plugin, or restart" if loaded else "Restart"
            raise UsageError(f"{part.path}: it was changed after it was imported. {again} Python.")


# Of the names of plug-ins among the imported modules.
PREFIX = "kdzoo_plugin_"


def _gathered(module: str, ran: _Ran, root: Path) -> list[Part]:
    """Give a file and what it imports from a folder, and so on; the file itself stands first."""
    if is_installed(ran.path) or not is_local(module, ran.path):
        own = Part(module, ran.digest, ran.path, module)
        return [own, *(Part(r, digest_of(r.encode()), None, "") for r in _releases(module))]
    root = root.resolve()
    found = {ran.path.resolve(): Part(_label(ran.path, root), ran.digest, ran.path, module)}
    todo, seen = list(ran.imports), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = located(name) if _may_be_below(name, root) else None
        path = Path(spec.origin) if spec is not None and spec.origin else None
        if spec is None or path is None or path.suffix != ".py" or not _is_below(path, root):
            continue
        helper = _as_it_ran(name) or _as_it_is(path, spec.parent or "")
        if helper is not None:
            found.setdefault(path.resolve(), Part(_label(path, root), helper.digest, path, name))
            todo += helper.imports
    return list(found.values())


def _may_be_below(name: str, root: Path) -> bool:
    """Say whether the outermost package of a module lies in a folder; the packages of others are not looked
    into."""
    top = name.partition(".")[0]
    spec = located(top) if is_local(top, "") else None
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(place is not None and _is_below(Path(place), root) for place in places)


def _is_below(path: Path, root: Path) -> bool:
    return not is_installed(path) and path.resolve().is_relative_to(root)


def _label(path: Path, root: Path) -> str:
    return path.resolve().relative_to(root).as_posix()


def _as_it_ran(name: str, things: Sequence[Any] = ()) -> _Ran | None:
    """Give the file of an imported module, as it was when it was first seen after it ran."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not isinstance(file, str) or not file.endswith(".py"):
        return None
    # Running a module again gives it another specification.
    token = getattr(module, "__spec__", None) or module
    known = _ran.get(name)
    if known is not None and known.token is token:
        return known
    loader = getattr(token, "loader", None)
    package = getattr(module, "__package__", None) or ""
    try:
        content = loader.content if isinstance(loader, FromSource) else Path(file).read_bytes()
    except OSError:
        return None
    # What ran is unknown where it differs from what is there: no file has an empty hash.
    other = ran_other_code(module, things or list(vars(module).values()), content)
    digest = "" if other else digest_of(content)
    _ran[name] = _Ran(token, Path(file), digest, imports_of(content, package))
    return _ran[name]


def _as_it_is(path: Path, package: str) -> _Ran | None:
    """Give a file that nothing has imported yet."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return _Ran(None, path, digest_of(content), imports_of(content, package))


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _releases(module: str) -> list[str]:
    """Name the installed distributions that bring a module, with their versions."""
    names = sorted(set(_distributions().get(module.partition(".")[0], ())))
    return [f"{name} {version(name)}" for name in names]


def _owners(thing: Any) -> dict[str, list[Any]]:
    """Part a class and those that it inherits from, or a function, by the modules that define them; the
    plug-in that brought it stands first."""
    plugin = _brought.get(thing)
    found: dict[str, list[Any]] = {plugin: []} if plugin is not None else {}
    for part in getattr(thing, "__mro__", (thing,)):
        if _package(part) not in _NOT_PLUG_INS:
            found.setdefault(str(part.__module__), []).append(part)
    return found


def _package(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _compiled(thing: Any) -> Any:
    """Give code and constants of a function or a class in a form whose text says all of it."""
    if isinstance(thing, types.CodeType):
        return thing.co_code, thing.co_names, tuple(map(_compiled, thing.co_consts))
    if isinstance(thing, type):
        return sorted((n, _compiled(v)) for n, v in vars(thing).items() if not n.startswith("__dict"))
    if isinstance(thing, (classmethod, staticmethod, property)):
        return _compiled(thing.fget if isinstance(thing, property) else thing.__func__)
    function = inspect.unwrap(thing) if callable(thing) else None
    if isinstance(function, types.FunctionType):
        return _compiled(function.__code__), function.__defaults__, function.__kwdefaults__
    return thing if isinstance(thing, (str, bytes, int, float, tuple, type(None))) else type(thing).__name__
