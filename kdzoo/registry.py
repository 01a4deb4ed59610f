"""Where distillers, sources, models and data sets are found by name; a file that registers one is all it
takes."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmengine.registry import Registry as MMRegistry

from kdzoo.checks import UsageError, check_positional, unknown, usage

T = TypeVar("T", bound=Callable[..., Any])


class Registry(MMRegistry):  # type: ignore[misc]
    """mmengine's registry with near-name hints, and an answer that names both places of a doubled name.

    Args:
        name: what is kept, in the singular, as messages call it: "distiller".
        location: the package whose modules register themselves when they are imported.
        places: how many arguments what is registered gets by place, all others being options; None for
            classes that check that themselves.
    """

    def __init__(self, name: str, location: str, places: int | None = None) -> None:
        super().__init__(name, scope="kdzoo", locations=[location])
        self._places = places

    def register(self, name: str) -> Callable[[T], T]:
        """Register a class or function under a name.

        Raises:
            UsageError: the name is taken (both places are named), or an option is not keyword-only.
        """

        def keep(thing: T) -> T:
            if self._places is not None:
                check_positional(f"{self.name} {name!r}", thing, self._places)
            taken = self._module_dict.get(name)
            if taken is not None and _place(taken) != _place(thing):
                raise UsageError(
                    f"{self.name} {name!r} is registered twice: {_place(taken)} and {_place(thing)}. "
                    f"Rename one of them."
                )
            self._register_module(module=thing, module_name=name, force=taken is not None)
            return thing

        return keep

    def import_from_location(self) -> None:
        """Import what the zoo brings, and what installed packages bring."""
        from kdzoo.plugins import load_installed

        super().import_from_location()
        load_installed()

    def find(self, name: str, who: str = "kdzoo") -> Any:
        """Give what is registered under a name.

        Raises:
            UsageError: there is none; the message has the nearest names.
        """
        self.import_from_location()
        if not isinstance(name, str):
            raise usage(who, self.name, "a name", name)
        if name not in self._module_dict:
            raise unknown(who, self.name, name, self.names())
        return self._module_dict[name]

    def names(self) -> list[str]:
        """List the registered names in alphabetical order."""
        self.import_from_location()
        return sorted(self._module_dict)


def _place(thing: Any) -> str:
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return f"{thing.__module__}.{thing.__qualname__}"


def plug_in(thing: Any) -> str | None:
    """Hash what defines a thing from outside kdzoo: a changed plug-in must not pass for the old one.

    That is its file and those of the classes that it inherits from; what they import is not looked at. Where
    there is no file, as in a notebook, it is the compiled code.

    Args:
        thing: a registered class or function.

    Returns:
        SHA-256 in hexadecimal; None for what is kdzoo's own (it has versions).
    """
    if _package(thing) == "kdzoo":
        return None
    own = [t for t in getattr(thing, "__mro__", (thing,)) if _package(t) not in _NOT_PLUG_INS]
    contents = list(dict.fromkeys(_content(t) for t in own))
    whole = contents[0] if len(contents) == 1 else b"".join(hashlib.sha256(c).digest() for c in contents)
    return hashlib.sha256(whole).hexdigest()


# What every plug-in inherits from: versions of kdzoo, and of packages that records name.
_NOT_PLUG_INS = {"kdzoo", "torch", "builtins", "typing", "abc"}


def _package(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _content(thing: Any) -> bytes:
    try:
        return Path(inspect.getsourcefile(thing) or "").read_bytes()
    except (OSError, TypeError):
        return repr(_compiled(thing)).encode()


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


def import_modules(package: str, path: list[str]) -> None:
    """Import every module of a package, so that a new file registers itself without being named anywhere."""
    for module in sorted(m.name for m in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


DISTILLERS = Registry("distiller", "kdzoo.distillers")
SOURCES = Registry("source", "kdzoo.sources")
MODELS = Registry("model", "kdzoo.models", places=3)
DATASETS = Registry("data set", "kdzoo.data", places=1)
